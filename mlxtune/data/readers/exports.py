"""Records of other tools: logs of chat APIs, exports of labeling tools, trees of messages, and answers with scores.

One table says where each tool has our keys. A path such as ``response/choices/0/message`` leads through keys and list items; a step
may be a pattern such as ``*``.
"""

import fnmatch
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
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
    """Where the records of a tool have our keys. They have all of the top-level keys ``marks``. Of the paths of a key, the first one
    that leads to a value counts. ``turns`` reads records that are trees of messages.
    """

    marks: tuple[str, ...]
    prompt: tuple[str, ...] = ()
    completion: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()
    finish_reason: tuple[str, ...] = ()
    status: tuple[str, ...] = ()
    turns: Callable[[Record], Iterator[Turn]] | None = None


def _api_log(mark: str, answer: str) -> Tool:
    places = ("", "request/", "body/", "request/body/")
    prompts = tuple(f"{place}{key}" for key in ("messages", "input", "prompt") for place in places)
    tools = tuple(f"{place}tools" for place in places)
    return Tool((mark,), prompts, (f"{answer}/message", f"{answer}/text"), tools, (f"{answer}/finish_reason",))


TOOLS = (
    _api_log("choices", "choices/0"),  # OpenAI's stored completions
    _api_log("response", "response/choices/0"),
    _api_log("response", "response/body/choices/0"),  # OpenAI's batches
    Tool(("_task_hash", "answer"), ("text", "prompt", "question"), ("user_input", "accept", "label", "entities"), status=("answer",)),  # Prodigy
    Tool(
        ("data", "annotations"), ("data/*",),  # Label Studio
        ("annotations/*/result/*/value/text/0", "annotations/*/result/*/value/choices"), status=("annotations/0/was_cancelled",),
    ),
    Tool(("fields", "responses"), ("fields/*",), ("responses/*/0/value", "responses/0/values/*/value", "suggestions/*/value", *(f"fields/{name}" for name in ANSWERS)),
         status=("status",)),
    Tool(("_server_id", "status"), ("*",), ("*.responses/0", "*.suggestion"), status=("status",)),  # Argilla's to_datasets
    Tool(("message_tree_id", "prompt"), turns=_oasst_turns),
    Tool(("message_id", "parent_id", "role"), turns=_one_message),
    Tool(("current_node", "mapping"), turns=_chatgpt_turns),
)  # fmt: skip


_FIRST_MARKS = frozenset(tool.marks[0] for tool in TOOLS)


def _values(value: Any, path: str, at: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the places in ``value`` that a path leads to, with what is there."""
    step, _, rest = path.partition("/")
    items = dict(zip(map(str, range(len(value))), value, strict=True)) if isinstance(value, list) else value
    if isinstance(items, dict):
        for key in fnmatch.filter(items, step) if "*" in step else {step} & items.keys():
            place = f"{at}/{key}" if at else key
            yield from _values(items[key], rest, place) if rest else ((place, items[key]),)


def _found(record: Record, paths: tuple[str, ...], names: tuple[str, ...], taken: str = "") -> tuple[str, Any]:
    """Return the place and the value of the first of ``paths`` that leads to text or turns. Of several, one of ``names`` is chosen."""
    for path in paths:
        values = {
            at: value for at, value in _values(record, path) if at != taken and isinstance(value, str | list | dict) and value
        }
        if values:
            names_of = {at.replace("/", "."): at for at in values}
            at = names_of.get(find_column(names_of, names), next(iter(values)))
            return at, values[at]
    return "", None


@dataclass(frozen=True)
class _Read:
    """A record as our keys, with the places that they were read from, and what else the record says about the row."""

    values: dict[str, Any]
    places: dict[str, str]
    meta: dict[str, Any] = field(default_factory=dict)


def _with_entities(record: Record) -> Record:
    """Return a record with the texts and labels of its ``spans``, if it has some, as the JSON text ``entities``."""
    text, spans = record.get("text"), record.get("spans", [] if "tokens" in record else None)
    if not isinstance(spans, list) or not isinstance(text, str):
        return record
    found = [
        {"text": text[span["start"] : span["end"]], "label": span["label"]}
        for span in spans
        if {"start", "end", "label"} <= span.keys()
    ]
    return {**record, "entities": json.dumps(found, ensure_ascii=False)}


def _read(record: Record, tool: Tool) -> _Read | None:
    if tool.turns:
        return _Read({"messages": [*tool.turns(record)]}, {"messages": tool.marks[-1]})
    record = _with_entities(record)
    if not (tool.status or _found(record, tool.completion, ANSWERS)[0]):
        return None
    prompt, turns = _found(record, tool.prompt, PROMPTS)
    if tool.status and not prompt:
        return None
    completion, answer = _found(record, tool.completion, ANSWERS, prompt)
    tools, described = _found(record, tool.tools, ())
    finish, reason = _found(record, tool.finish_reason, ())
    meta = {"finish_reason": reason} if finish else {}
    for _, value in [one for path in tool.status for one in _values(record, path)]:
        meta |= {REVIEW_STATUS: _STATUSES[value]} if value in _STATUSES else {}
    places = {"prompt": prompt, "completion": completion, "tools": tools}
    values = {"prompt": turns, "completion": [answer] if isinstance(answer, dict) else answer, "tools": described}
    return _Read({key: value for key, value in values.items() if places[key]}, {key: at for key, at in places.items() if at}, meta)


def _tool_record(record: Record) -> _Read | None:
    """Return the record of the first tool that it can be one of, or ``None``."""
    if _FIRST_MARKS.isdisjoint(record):
        return None
    return next((read for tool in TOOLS if all(mark in record for mark in tool.marks) and (read := _read(record, tool))), None)


def _is_tool_record(record: Record) -> bool:
    try:
        return _tool_record(record) is not None
    except InvalidRecord:
        return True


def _read_tool(record: Record, location: Location) -> Row:
    read = _tool_record(record)
    if read is None or not read.values.keys() & {"prompt", "messages"}:
        raise InvalidRecord(
            "the record has no prompt in a known place.", "Add the request to the log, or map the columns with --map."
        )
    if "completion" not in read.values and "messages" not in read.values:
        raise InvalidRecord("nobody has answered this record yet.", "Answer it, or leave it out.", "no-answer")
    tops = {place.partition("/")[0]: place for place in read.places.values()}
    beside = {
        key: value
        for top, place in tops.items()
        if "/" in place and isinstance(record[top], dict)
        for key, value in record[top].items()
        if f"{top}/{key}" not in read.places.values() and isinstance(value, str | int | float)
    }
    beside |= record["metadata"] if isinstance(record.get("metadata"), dict) else {}
    reader = read_chat if "messages" in read.values else completion.read
    return reader({**read.values, "meta": {**beside, **metadata(record, *tops, "metadata"), **read.meta}}, location)


def _places(record: Record) -> Mapping[str, str]:
    read = _tool_record(record)
    return read.places if read else {}


EXPORT = RowFormat("export", (), _is_tool_record, _read_tool, _places)


# Two answers with scores, or with a column that says which one is better

_VERDICTS = ("better_response_id", "overall_preference", "preference", "winner", "choice", "better", "preferred")
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
    for stem in ("score", "scores", "rating", "winner_model", "reward"):
        scores = [record.get(f"{stem}_{mark}", record.get(f"{stem}{mark}")) for mark in marks]
        if all(isinstance(score, int | float) for score in scores) and scores[0] != scores[1]:
            return bool(scores[0] > scores[1])
    if isinstance(degree := record.get("overall_preference"), int | float):  # of HelpSteer, from -3 to 3
        return degree < 0 if degree else None
    verdict = str(next((record[key] for key in _VERDICTS if record.get(key) is not None), "")).lower()
    return next((mark == marks[0] for mark in marks if re.fullmatch(rf"(?:.*[ _])?{mark.lower()}", verdict)), None)


def _read_pair(record: Record, location: Location) -> Row:
    pair = _pair(tuple(record))
    if pair is None:
        raise InvalidRecord("there are no two answers such as response_a and response_b.", "Map the columns with --map.")
    first, second = pair
    is_first = _is_first_better(record, first, second)
    prompt = _pair_prompt(record, first)
    if is_first is None:
        hint = f"If the first is always better, map them: --map {prompt and f'prompt={prompt},'}chosen={first},rejected={second}"
        raise InvalidRecord(f"nothing says whether {first} or {second} is better.", hint, "same-pair")
    better, worse = (first, second) if is_first else (second, first)
    values = {"chosen": record[better], "rejected": record[worse], **({"prompt": column_value(record, prompt)} if prompt else {})}
    return preference.read({**values, "meta": metadata(record, first, second, prompt.partition(".")[0])}, location)


def _pair_prompt(record: Record, answer: str) -> str:
    texts = [path for path, value in columns(record) if isinstance(value, str | list) and value and "[" not in path]
    return "" if isinstance(record[answer], list) else find_column(texts, (*PROMPTS, "history", "context"))


def _pair_columns(record: Record) -> Mapping[str, str]:
    first, second = _pair(tuple(record)) or ("", "")
    prompt = _pair_prompt(record, first)
    return {**({"prompt": prompt} if prompt else {}), "chosen": f"{first} or {second}"}


SCORED = RowFormat("scored-pair", (), lambda record: _pair(tuple(record)) is not None, _read_pair, _pair_columns)
