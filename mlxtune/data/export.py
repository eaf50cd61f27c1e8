"""Export accepted rows in a trainer's format, with a manifest of their origin.

| to | conversations | texts | pairs | unpaired |
|---|---|---|---|---|
| mlx-lm | ``messages``, ``tools``, ``meta`` | ``text``, ``meta`` | no format | no format |
| trl | ``messages``, ``tools`` | ``text`` | ``prompt``, ``chosen``, ``rejected``, ``tools`` | ``prompt``, ``completion``, ``label`` |
| openai | ``messages``, ``tools`` | no format | ``input``, ``preferred_output``, ``non_preferred_output`` | no format |

``export_layouts.py`` has the formats of other tools.

Sources: mlx-lm's LORA.md, TRL's dataset formats, OpenAI's guides to supervised and preference fine-tuning. mlx-lm ignores unknown
keys, and the others may reject them, so only mlx-lm gets the metadata.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import mlxtune
from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import read_json, write_bytes, write_json
from mlxtune.core.hashing import sha256_file
from mlxtune.data.export_layouts import LAYOUTS
from mlxtune.data.readers.formats import CONTENT_FORMATS
from mlxtune.data.review import journal_path
from mlxtune.data.rows import Conversation, Message, Preference, Row, TextRow, Unpaired
from mlxtune.data.source import Source
from mlxtune.data.source_files import all_files
from mlxtune.data.split import SPLIT_NAMES, SplitName, Splits, SplitSettings, record_splits, split
from mlxtune.recipe import DataSection

Target = Literal["mlx-lm", "trl", "openai"]
TARGETS: tuple[Target, ...] = get_args(Target)
ALL_TARGETS = (*TARGETS, *LAYOUTS)
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
    rows: dict[SplitName, list[Row]] = {
        name: [row for row in getattr(splits, name) if pending or row.location in source.accepted] for name in SPLIT_NAMES
    }
    if not any(rows.values()):
        raise DataError(
            f"No rows of {source.path.name} have been accepted yet.", hint="Review rows, or export undecided ones with --pending."
        )
    splits.refuse_sealed([*rows["train"], *rows["valid"]])
    kind = _row_kind([row for split_rows in rows.values() for row in split_rows])
    files = {name: _encoded(split_rows, to) for name, split_rows in rows.items() if split_rows}
    _check_folder(folder)
    record_splits(source, data, splits, seal=True)
    write_json(folder / MANIFEST, {"mlxtune": mlxtune.__version__, "whole": False})
    suffix = LAYOUTS[to].suffix if to in LAYOUTS else ".jsonl"
    for name in SPLIT_NAMES:
        file = folder / f"{name}{suffix}"
        if name in files:
            write_bytes(file, files[name])
        else:
            file.unlink(missing_ok=True)
    hashes = {f"{name}{suffix}": sha256_file(folder / f"{name}{suffix}") for name in files}
    write_json(folder / MANIFEST, _manifest(source, data, to, kind, hashes, rows, splits))
    set_aside = sum(pending or row.location in source.accepted for row in splits.set_aside)
    counts = {name: len(split_rows) for name, split_rows in rows.items()}
    undecided = sum(len(getattr(splits, name)) - count for name, count in counts.items())
    return ExportResult(folder, counts, set_aside, undecided)


def _encoded(rows: list[Row], to: str) -> bytes:
    if to in LAYOUTS:
        return LAYOUTS[to].write(rows, to)
    return jsonl_bytes(export_record(row, next(target for target in TARGETS if target == to)) for row in rows)


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
    """Encode ``records`` as JSON Lines in UTF-8."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def check_new_jsonl(out: Path, *, is_folder: bool = False) -> None:
    """Raise ``InputError`` if ``out`` exists or, unless ``is_folder``, does not end with ``.jsonl``."""
    if out.exists():
        raise InputError(f"{out} already exists, so nothing was written.", hint="Use --out to choose another name.")
    if not is_folder and out.suffix != ".jsonl":
        raise InputError(f"{out.name} must end with .jsonl.", hint=f"Use {out.with_suffix('.jsonl').name}.")


def _turns(messages: Iterable[Message], to: Target) -> list[dict[str, Any]]:
    turns = [message.as_record() for message in messages]
    if to == "openai":  # its API expects a call's arguments as a string
        for turn in turns:
            if "tool_calls" in turn:
                turn["tool_calls"] = [_with_json_arguments(call) for call in turn["tool_calls"]]
    return turns


def _with_json_arguments(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function.get("arguments", {}), ensure_ascii=False)}}


def _tools(tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _row_kind(rows: list[Row]) -> str:
    """Return the one kind of all ``rows``. Raises ``DataError`` if there are several."""
    kinds = Counter(CONTENT_FORMATS[type(row)] for row in rows)
    if len(kinds) > 1:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        raise DataError(f"An export can have only one kind of row, but these are {counts}.", hint="Reject all but one kind.")
    return next(iter(kinds))


def _check_folder(folder: Path) -> None:
    """Raise ``InputError`` if ``folder`` contains anything but an earlier export."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", hint="Choose another folder.")
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    is_export = MANIFEST in names and isinstance(value := read_json(folder / MANIFEST), dict) and "mlxtune" in value
    if names and not is_export:
        raise InputError(f"{folder} is not empty and is not an export, so nothing was written.", hint="Choose another folder.")


def _manifest(
    source: Source,
    data: DataSection,
    to: str,
    kind: str,
    hashes: dict[str, str],
    rows: Mapping[SplitName, list[Row]],
    splits: Splits,
) -> dict[str, Any]:
    journal = journal_path(source.path)
    files = all_files(source.path).values()
    return {
        "mlxtune": mlxtune.__version__,
        "whole": True,
        "to": to,
        "format": kind,
        "source": {"name": source.path.name, "sha256": {file.name: sha256_file(file) for file in files}},
        "review": {
            "sha256": sha256_file(journal) if journal.is_file() else "",
            "accepted": len(source.accepted),
            "undecided": len(source.rows) - len(source.accepted),
            "left_out": source.left_out,
            "edited": len(source.edited),
        },
        "split": {**asdict(SplitSettings.from_section(data)), "set_aside": len(splits.set_aside)},
        "counts": {name: len(split_rows) for name, split_rows in rows.items()},
        "files": hashes,
        "rows": {name: [row.hash for row in split_rows] for name, split_rows in rows.items()},
    }
