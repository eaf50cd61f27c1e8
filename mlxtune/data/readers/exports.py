"""Records of other tools: logs of chat APIs, exports of labeling tools, trees of messages, and answers with scores.

One table says where each tool has our keys. A path such as ``response/choices/0/message`` leads through keys and list items; a step
may be a pattern such as ``*``.
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mlxtune.data.readers import completion, preference
from mlxtune.data.readers.chat import read as read_chat
from mlxtune.data.readers.columns import ANSWERS, PROMPTS, column_value, columns, find_column
from mlxtune.data.readers.row_format import InvalidRecord, Record, RowFormat, metadata
from mlxtune.data.rows import REVIEW_STATUS, Location, Row

Turn = dict[str, Any]
_STATUSES = {
    "accept": "accepted", "reject": "rejected", "ignore": "skipped",  # Prodigy
    "completed": "accepted", "submitted": "accepted", "discarded": "rejected",  # Argilla
    True: "skipped",  # Label Studio's was_cancelled
}  # fmt: skip


def _oasst_turns(record: Record) -> Iterator[Turn]:
    """Yield the turns from the root of an OpenAssistant tree along the replies with the best rank, up to the last answer."""
    message = record["prompt"]
    while message:
        yield {"role": {"prompter": "user"}.get(message["role"], message["role"]), "content": message["text"]}
        replies = message.get("replies", ())
        if message["role"] == "assistant":  # a question that nobody answered ends the conversation
            replies = [reply for reply in replies if reply.get("replies")]
        message = min(replies, key=lambda reply: reply.get("rank") or 0, default=None)


def _one_message(record: Record) -> Iterator[Turn]:
    raise InvalidRecord(
        "this is one message of a tree.", "Use the file that has a whole tree in every row, such as oasst1_trees.jsonl."
    )


def _chatgpt_turns(record: Record) -> Iterator[Turn]:
    """Yield the text turns of the branch that a ChatGPT export shows; consecutive ones of a role are one turn."""
    branch: list[Turn] = []
    node = record["mapping"].get(record["current_node"])
    while node:
        message = node.get("message") or {}
        parts = (message.get("content") or {}).get("parts") or ()
        text = "\n".join(part for part in parts if isinstance(part, str)).strip()
        role = (message.get("author") or {}).get("role")
        if text and role in ("user", "assistant") and message.get("recipient", "all") == "all":
            if branch and branch[-1]["role"] == role:
                text = f"{text}\n\n{branch.pop()['content']}"
            branch.append({"role": role, "content": text})
        node = record["mapping"].get(node.get("parent"))
    return reversed(branch)


@dataclass(frozen=True)
class Tool:
    """Where the records of a tool have our keys. They have all of the top-level keys ``marks``, and a value for the key ``needs``.

    Of the paths of a key, the first one that leads to a value counts. The key ``tree`` is a tree of messages.
    """

    marks: tuple[str, ...]
    needs: str
    paths: Mapping[str, tuple[str, ...]]


def _api_log(mark: str, choice: str) -> Tool:
    places = ("", "request/", "body/", "request/body/")
    prompts = tuple(f"{place}{key}" for key in ("messages", "input", "prompt") for place in places)
    answers = (f"{choice}/message", f"{choice}/text")
    paths = {"prompt": prompts, "completion": answers, "tools": tuple(f"{place}tools" for place in places)}
    return Tool((mark,), "completion", {**paths, "finish_reason": (f"{choice}/finish_reason",)})


def _labels(marks: tuple[str, ...], prompts: tuple[str, ...], answers: tuple[str, ...], *status: str) -> Tool:
    return Tool(marks, "prompt", {"prompt": prompts, "completion": answers, REVIEW_STATUS: status})


TOOLS = (
    _api_log("choices", "choices/0"),  # OpenAI's stored completions
    _api_log("response", "response/choices/0"),
    _api_log("response", "response/body/choices/0"),  # OpenAI's batches
    _labels(("_task_hash", "answer"), ("text", "prompt", "question"), ("user_input", "accept", "label", "spans"), "answer"),  # Prodigy
    _labels(
        ("annotations", "data"), ("data/*",),  # Label Studio
        ("annotations/*/result/*/value/text/0", "annotations/*/result/*/value/choices"), "annotations/0/was_cancelled",
    ),
    _labels(
        ("fields", "responses"), ("fields/*",),  # Argilla
        ("responses/*/0/value", "responses/0/values/*/value", "suggestions/*/value", *(f"fields/{name}" for name in ANSWERS)), "status", "responses/0/status",
    ),
    _labels(("_server_id", "status"), ("*",), ("*.responses/0", "*.suggestion"), "status"),  # Argilla's to_datasets
    *(Tool((mark, key), "tree", {"tree": (key,)}) for mark, key in (("message_tree_id", "prompt"), ("current_node", "mapping"), ("parent_id", "role"))),
)  # fmt: skip
_TREES = {"parent_id": _one_message, "message_tree_id": _oasst_turns, "current_node": _chatgpt_turns}
_FACTS = ("finish_reason", REVIEW_STATUS)  # keys of metadata
_FIRST_MARKS = frozenset(tool.marks[0] for tool in TOOLS)


def _values(value: Any, path: str, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the places in ``value`` that a path leads to, with what is there."""
    step, _, rest = path.partition("/")
    items = dict(zip(map(str, range(len(value))), value, strict=True)) if isinstance(value, list) else value
    if isinstance(items, dict):
        names = items if at or "." in step else (key for key in items if "." not in key)
        for key in fnmatch.filter(names, step) if "*" in step else {step} & items.keys():
            place = f"{at}/{key}" if at else key
            yield from _values(items[key], rest, place) if rest else ((place, items[key]),)


def _places(record: Record) -> dict[str, str]:
    """Return the places of our keys in a record of the first tool that it can be one of; none if there is no such tool."""
    if _FIRST_MARKS.isdisjoint(record):
        return {}
    for tool in TOOLS:
        if all(mark in record for mark in tool.marks):
            places = {key: place for key, paths in tool.paths.items() if (place := _place(record, paths, key))}
            if tool.needs in places:
                return places
    return {}


def _place(record: Record, paths: tuple[str, ...], key: str) -> str:
    """Return the place of a value, or of a list even if it is empty. Of several, one with a usual name for ``key`` is chosen."""
    for path in paths:
        found = [(at, value) for at, value in _values(record, path) if value or isinstance(value, list)]
        if places := {at.replace("/", "."): at for at, value in found if key in _FACTS or isinstance(value, str | list | dict)}:
            return places.get(find_column(places, PROMPTS if key == "prompt" else ANSWERS), next(iter(places.values())))
    return ""


def _answer(value: Any, text: Any) -> Any:
    """Return an answer as a completion: a turn, or the texts and labels of spans in ``text``."""
    if isinstance(value, list) and all(isinstance(one, dict) and {"start", "end", "label"} <= one.keys() for one in value):
        return json.dumps([{"text": text[one["start"] : one["end"]], "label": one["label"]} for one in value], ensure_ascii=False)
    return [value] if isinstance(value, dict) else value


def _read_tool(record: Record, location: Location) -> Row:
    try:
        return _read(record, location)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise InvalidRecord("the record is not as its tool writes it.", "Export it again, or map the columns.") from error


def _read(record: Record, location: Location) -> Row:
    places, own = _places(record), record.get("metadata")
    values = {key: dict(_values(record, at))[at] for key, at in places.items()}
    tops = {place.partition("/")[0] for key, place in places.items() if key not in _FACTS} | {"metadata"}
    meta = {
        **(own if isinstance(own, dict) else {}),
        **metadata(record, *tops),
        **{key: values.pop(key) for key in _FACTS if key in values},
    }
    if (status := meta.pop(REVIEW_STATUS, None)) in _STATUSES:
        meta[REVIEW_STATUS] = _STATUSES[status]
    if "tree" in values:
        turns = next(read for mark, read in _TREES.items() if mark in record)
        return read_chat({"messages": [*turns(record)], "meta": meta}, location)
    if "prompt" not in values:
        raise InvalidRecord("the record has no prompt in a known place.", "Add the request to the log, or map the columns.")
    if status == "accept" and "tokens" in record:
        values.setdefault("completion", [])  # Prodigy leaves out the spans of a text without entities
    if "completion" not in values:
        raise InvalidRecord("nobody has answered this record yet.", kind="no-answer")
    answer = _answer(values["completion"], values["prompt"])
    return completion.read({**values, "completion": answer, "meta": meta}, location)


EXPORT = RowFormat("export", (), lambda record: bool(_places(record)), _read_tool, _places)


# Two answers with scores, or with a column that says which one is better

_COUNTERPARTS = {"a": "b", "j": "k", "0": "1", "1": "2"}
_SCORED = {*ANSWERS, "ref", "conversation"}


@lru_cache(1024)
def _pair(keys: tuple[str, ...]) -> tuple[str, str] | None:
    """Return the two columns whose names differ only in their last character, such as ``response_j`` and ``response_k``."""
    for key in keys:
        stem, sign = key[:-1], key[-1:]
        if not stem or not (next_sign := _COUNTERPARTS.get(sign.lower())):
            continue
        other = stem + (next_sign.upper() if sign.isupper() else next_sign)
        third = stem + chr(ord(other[-1]) + 1)
        if other in keys and third not in keys and _SCORED & set(re.split(r"[_\W\d]+", stem.lower())):
            return key, other
    return None


def _is_first_better(record: Record, first: str, second: str) -> bool | None:
    """Return whether the first of two answers is better, or ``None`` if the record does not say."""
    marks = first[-1], second[-1]
    for stem in ("score", "rating", "winner_model"):
        scores = [record.get(f"{stem}_{mark}", record.get(f"{stem}{mark}")) for mark in marks]
        if all(isinstance(score, int | float) for score in scores) and scores[0] != scores[1]:
            return bool(scores[0] > scores[1])
    if isinstance(degree := record.get("overall_preference"), int | float):  # of HelpSteer, from -3 to 3
        return degree < 0 if degree else None
    end = str(record.get("better_response_id", record.get("winner", "")))[-1:].lower()
    return {marks[0].lower(): True, marks[1].lower(): False}.get(end)


def _read_pair(record: Record, location: Location) -> Row:
    first, second = _pair(tuple(record)) or ("", "")
    if not first:
        raise InvalidRecord("there are no two answers such as response_a and response_b.", "Map the columns with --map.")
    is_first, prompt = _is_first_better(record, first, second), _pair_places(record).get("prompt", "")
    if is_first is None:
        hint = f"If the first is always better, map them: --map {prompt and f'prompt={prompt},'}chosen={first},rejected={second}"
        raise InvalidRecord(f"nothing says whether {first} or {second} is better.", hint, "same-pair")
    better, worse = (first, second) if is_first else (second, first)
    values = {"chosen": record[better], "rejected": record[worse], **({"prompt": column_value(record, prompt)} if prompt else {})}
    return preference.read({**values, "meta": metadata(record, first, second, prompt.partition(".")[0])}, location)


def _pair_places(record: Record) -> Mapping[str, str]:
    first, second = _pair(tuple(record)) or ("", "")
    texts = [path for path, value in columns(record) if isinstance(value, str | list) and value and "[" not in path]
    prompt = "" if isinstance(record.get(first), list) else find_column(texts, (*PROMPTS, "history", "context"))
    return {**({"prompt": prompt} if prompt else {}), "chosen": f"{first} or {second}"}


SCORED = RowFormat("scored-pair", (), lambda record: _pair(tuple(record)) is not None, _read_pair, _pair_places)
