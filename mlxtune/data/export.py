"""Export accepted rows in a trainer's format, with a manifest of their origin.

| to | conversations | texts | pairs | unpaired |
|---|---|---|---|---|
| mlx-lm | ``messages``, ``tools``, ``meta`` | ``text``, ``meta`` | no format | no format |
| trl | ``messages``, ``tools`` | ``text`` | ``prompt``, ``chosen``, ``rejected``, ``tools`` | ``prompt``, ``completion``, ``label`` |
| openai | ``messages``, ``tools`` | no format | ``input``, ``preferred_output``, ``non_preferred_output`` | no format |

``LAYOUTS`` has the formats of other tools.

Sources: mlx-lm's LORA.md, TRL's dataset formats, OpenAI's guides to supervised and preference fine-tuning. mlx-lm ignores unknown
keys, and the others may reject them, so only mlx-lm gets the metadata.
"""

import csv
import io
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import mlxtune
from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import read_json, write_bytes, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.data.readers.formats import CONTENT_FORMATS, parse
from mlxtune.data.readers.turns import EXTRA_KEYS, with_json_arguments
from mlxtune.data.review import journal_path
from mlxtune.data.rows import REASONING, REVIEW_STATUS, Conversation, Message, Preference, Row, TextRow, Unpaired, join_reasoning
from mlxtune.data.source import Source
from mlxtune.data.source_files import all_files
from mlxtune.data.split import SPLIT_NAMES, SplitName, SplitSettings, record_splits, split
from mlxtune.recipe import DataSection

Target = Literal["mlx-lm", "trl", "openai"]
TARGETS: tuple[Target, ...] = get_args(Target)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class ExportResult:
    """The number of rows in each split, of accepted rows in none because their near-duplicates are in several, and of undecided
    rows that were left out."""

    folder: Path
    counts: dict[SplitName, int]
    set_aside: int
    undecided: int


def export(source: Source, data: DataSection, to: str, folder: Path, *, pending: bool = False) -> ExportResult:
    """Write the accepted rows (with ``pending``, undecided ones as well) as ``train.jsonl``, ``valid.jsonl`` and ``test.jsonl``,
    or with the suffix of the format.

    This seals the test split: it can never be used for training. The manifest is ``whole`` once everything is written. Raises
    ``DataError`` if no row is accepted, ``to`` has no format for the rows, or sealed rows are in another split. Raises
    ``InputError`` if ``folder`` contains anything else.
    """
    splits = split(source, data)
    exported = {name: [row for row in getattr(splits, name) if pending or row.location in source.accepted] for name in SPLIT_NAMES}
    rows: dict[SplitName, list[Row]] = {  # another tool's decisions no longer count
        name: [replace(row, meta={key: value for key, value in row.meta.items() if key != REVIEW_STATUS}) for row in own]
        for name, own in exported.items()
    }
    if not any(rows.values()):
        raise DataError(
            f"No rows of {source.path.name} have been accepted yet.", hint="Review rows, or export undecided ones with --pending."
        )
    splits.refuse_sealed([*rows["train"], *rows["valid"]])
    kinds = Counter(CONTENT_FORMATS[type(row)] for split_rows in rows.values() for row in split_rows)
    if len(kinds) > 1:
        shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        raise DataError(f"An export can have only one kind of row, but these are {shown}.", hint="Reject all but one kind.")
    layout = LAYOUTS[to]
    files = {f"{name}{layout.suffix}": layout.write(own, to) if own else b"" for name, own in rows.items()}
    _check_folder(folder)
    record_splits(source, data, splits, seal=True)
    write_json(folder / MANIFEST, {"mlxtune": mlxtune.__version__, "whole": False})
    for name, content in files.items():
        if content:
            write_bytes(folder / name, content)
        else:
            (folder / name).unlink(missing_ok=True)
    journal, counts = journal_path(source.path), {name: len(split_rows) for name, split_rows in rows.items()}
    manifest = {
        "mlxtune": mlxtune.__version__,
        "whole": True,
        "to": to,
        "format": next(iter(kinds)),
        "source": {"name": source.path.name, "sha256": {file.name: sha256_file(file) for file in all_files(source.path).values()}},
        "review": {
            "sha256": sha256_file(journal) if journal.is_file() else "",
            "accepted": len(source.accepted),
            "undecided": len(source.rows) - len(source.accepted),
            "left_out": source.left_out,
            "edited": len(source.edited),
        },
        "split": {**asdict(SplitSettings.from_section(data)), "set_aside": len(splits.set_aside)},
        "counts": counts,
        "files": {name: sha256_file(folder / name) for name, content in files.items() if content},
        "rows": {name: [row.hash for row in split_rows] for name, split_rows in rows.items()},
    }
    write_json(folder / MANIFEST, manifest)
    set_aside = sum(pending or row.location in source.accepted for row in splits.set_aside)
    undecided = sum(len(getattr(splits, name)) - count for name, count in counts.items())
    return ExportResult(folder, counts, set_aside, undecided)


def export_record(row: Row, to: Target) -> dict[str, Any]:
    """Return ``row`` as a record for ``to``. Raises ``DataError`` if ``to`` has no format for it."""
    meta = {"meta": row.meta} if to == "mlx-lm" and row.meta else {}
    match row, to:
        case Conversation(), _:
            return {"messages": _turns(row.messages, to), **_tools(row.tools), **meta}
        case TextRow(), "mlx-lm" | "trl":
            return {"text": row.text, **meta}
        case Preference(), "trl":
            answers = {"chosen": _answer(row.chosen), "rejected": _answer(row.rejected)}
            return {"prompt": _turns(row.prompt, to), **answers, **_tools(row.tools)}
        case Preference(), "openai":
            prompt = {"messages": _turns(row.prompt, to), **_tools(row.tools)}
            return {"input": prompt, "preferred_output": _answer(row.chosen), "non_preferred_output": _answer(row.rejected)}
        case Unpaired(), "trl":
            answer = {"completion": _answer(row.completion), "label": row.label}
            return {"prompt": _turns(row.prompt, to), **answer, **_tools(row.tools)}
    name, others = {
        "text": ("plain text", "mlx-lm or trl"), "preference": ("pairs", "trl or openai"), "unpaired": ("unpaired rows", "trl"),
    }[CONTENT_FORMATS[type(row)]]  # fmt: skip
    raise DataError(f"{row.location}: {to} has no format for {name}.", hint=f"Use --to {others}.")


def native_record(row: Row) -> dict[str, Any]:
    """Return ``row`` in mlxtune's own format: TRL's, with the metadata under ``meta``."""
    return {**export_record(row, "trl"), **({"meta": row.meta} if row.meta else {})}


def jsonl_bytes(records: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def check_new_jsonl(out: Path) -> None:
    """Raise ``InputError`` if ``out`` exists or does not end with ``.jsonl``."""
    if out.exists():
        raise InputError(f"{out} already exists, so nothing was written.", hint="Use --out to choose another name.")
    if out.suffix != ".jsonl":
        raise InputError(f"{out.name} must end with .jsonl.", hint=f"Use {out.with_suffix('.jsonl').name}.")


def _turns(messages: Iterable[Message], to: Target) -> list[dict[str, Any]]:
    turns = [message.as_record() for message in messages]
    if to == "openai":  # its API expects a call's arguments as a string
        for turn in turns:
            if "tool_calls" in turn:
                turn["tool_calls"] = [with_json_arguments(call) for call in turn["tool_calls"]]
    return turns


def _tools(tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _check_folder(folder: Path) -> None:
    """Raise ``InputError`` if ``folder`` contains anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", hint="Choose another folder.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    is_export = MANIFEST in names and isinstance(value := read_json(folder / MANIFEST), dict) and "mlxtune" in value
    if names and not is_export:
        raise InputError(f"{folder} is not empty and is not an export, so nothing was written.", hint="Choose another folder.")


# The formats of tools


@dataclass(frozen=True)
class Layout:
    """The format of a tool: the suffix of its files, how it holds a row (``None`` if it cannot), and how records are encoded."""

    suffix: str
    record: Callable[[Row], dict[str, Any] | None]
    encode: Callable[[list[dict[str, Any]]], bytes] = jsonl_bytes
    is_lossless: bool = False  # holds every row that has a record

    def write(self, rows: Sequence[Row], name: str) -> bytes:
        """Return a file with ``rows``. If metadata would be read as something else, all of it is an object under ``meta``.

        Raises ``DataError`` if ``name``, the format, cannot hold a row so that it is read back unchanged.
        """
        for variants in (rows, [replace(row, meta={"meta": row.meta}) for row in rows]):
            records = [self.record(row) or {} for row in variants]  # no format reads an empty record
            blank = dict.fromkeys(itertools.chain(*records), "") if self.suffix == ".csv" else {}
            pairs = zip(records, rows, strict=True)
            refused = [row for one, row in pairs if not (self.is_lossless or (one and _is_held(blank | one, row)))]
            if not refused:
                return self.encode(records)
        raise DataError(f"{refused[0].location}: {name} cannot hold this row.", hint="Use --to trl, or reject the row.")


def _is_held(record: dict[str, Any], row: Row) -> bool:
    try:
        back = parse(json.loads(json.dumps(record)), row.location)
    except DataError:
        return False
    return back.hash == row.hash and back.meta.keys() >= row.meta.keys()


def _one_answer(build: Callable[[Row, list[dict[str, Any]], str], dict[str, Any]]) -> Callable[[Row], dict[str, Any] | None]:
    """Return a function of a row that passes the prompt and the last answer of a conversation without tools to ``build``."""

    def record(row: Row) -> dict[str, Any] | None:
        if not isinstance(row, Conversation) or row.tools:
            return None
        *prompt, answer = _turns(row.messages, "trl")
        return build(row, prompt, _full_text(answer))

    return record


def _full_text(turn: dict[str, Any]) -> str:
    return join_reasoning(turn.get(REASONING, ""), turn["content"])


@_one_answer
def _alpaca(row: Row, prompt: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    system = prompt[0]["content"] if prompt[0]["role"] == "system" else ""
    *earlier, question = map(_full_text, prompt[bool(system) :])
    history = [list(pair) for pair in zip(earlier[::2], earlier[1::2], strict=False)]
    return {**row.meta, "instruction": question, "input": "", "output": answer, "history": history, "system": system}


def _sharegpt(row: Row) -> dict[str, Any]:
    record = export_record(row, "trl")
    turns = [turn for key in ("messages", "prompt", "completion") for turn in record.pop(key, ())]
    pair: dict[str, Any] = {key: _sharegpt_turn(record[key][0]) for key in ("chosen", "rejected") if key in record}
    return {**row.meta, **record, **pair, "conversations": [_sharegpt_turn(turn) for turn in turns]}


def _sharegpt_turn(turn: dict[str, Any]) -> dict[str, Any]:
    if calls := turn.get("tool_calls"):
        return {"from": "function_call", "value": json.dumps([call["function"] for call in calls], ensure_ascii=False)}
    sender = {"user": "human", "assistant": "gpt", "tool": "observation"}.get(turn["role"], turn["role"])
    return {"from": sender, "value": _full_text(turn), **{key: turn[key] for key in EXTRA_KEYS if key in turn}}


def _columns(row: Row) -> dict[str, Any] | None:
    record = export_record(row, "trl")
    if isinstance(row, Conversation):
        *prompt, answer = record.pop("messages")
        if any(turn["role"] == "assistant" for turn in prompt):
            return None
        record |= {"prompt": prompt, "completion": [answer]}
    if "prompt" in record and record["prompt"][0]["role"] == "system":
        record |= {"system": record["prompt"][0]["content"], "prompt": record["prompt"][1:]}
    return {key: _cell(value) for key, value in {**row.meta, **record}.items()}


def _cell(value: Any) -> str:
    """Return a text, or the text of a turn that has nothing else, and any other value as JSON text."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict) and value[0].keys() == {"role", "content"}:
        value = value[0]["content"]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@_one_answer
def _argilla(row: Row, prompt: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    responses = {"completion": [{"value": answer}]}
    return {"fields": {"prompt": _cell(prompt)}, "responses": responses, "metadata": row.meta}


@_one_answer
def _label_studio(row: Row, prompt: list[dict[str, Any]], answer: str) -> dict[str, Any]:
    result = {"from_name": "answer", "to_name": "prompt", "type": "textarea", "value": {"text": [answer]}}
    return {"data": {"prompt": _cell(prompt)}, "annotations": [{"result": [result]}], "meta": row.meta}


def _csv(records: list[dict[str, Any]]) -> bytes:
    writer = csv.DictWriter(file := io.StringIO(), list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def _parquet(records: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    def column(values: list[Any]) -> Any:
        try:
            return pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError):
            return [None if value is None else _cell(value) for value in values]

    table = pyarrow.table({name: column([one.get(name) for one in records]) for name in dict.fromkeys(itertools.chain(*records))})
    parquet.write_table(table, file := io.BytesIO())
    return file.getvalue()


def _cells(row: Row) -> dict[str, Any]:
    def is_column(value: Any) -> bool:
        return isinstance(value, int | float) or (isinstance(value, list) and all(isinstance(one, str) for one in value))

    values = {**row.meta, **export_record(row, "trl")}
    return {key: value if is_column(value) else _cell(value) for key, value in values.items()}


LAYOUTS: dict[str, Layout] = {
    **{to: Layout(".jsonl", partial(export_record, to=to), is_lossless=True) for to in TARGETS},
    "alpaca": Layout(".jsonl", _alpaca),
    "sharegpt": Layout(".jsonl", _sharegpt),
    "csv": Layout(".csv", _columns, _csv),
    "parquet": Layout(".parquet", _cells, _parquet),
    "argilla": Layout(".jsonl", _argilla),
    "label-studio": Layout(".json", _label_studio, lambda records: json.dumps(records, ensure_ascii=False).encode()),
}
