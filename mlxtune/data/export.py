"""Approved rows as the files that a trainer takes, with a manifest that says where they come from.

| to | conversations | texts | pairs | unpaired |
|---|---|---|---|---|
| mlx-lm | ``messages``, ``tools``, ``meta`` | ``text``, ``meta`` | no format | no format |
| trl | ``messages``, ``tools`` | ``text`` | ``prompt``, ``chosen``, ``rejected``, ``tools`` | ``prompt``, ``completion``, ``label`` |
| openai | ``messages``, ``tools`` | no format | ``input``, ``preferred_output``, ``non_preferred_output`` | no format |

Shapes: mlx-lm's LORA.md, TRL's dataset formats, OpenAI's guides to supervised fine-tuning and to direct preference optimization.
mlx-lm passes over what it does not know; the others may refuse it, so metadata goes to mlx-lm alone.
"""

from __future__ import annotations

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
from mlxtune.data import split as splits
from mlxtune.data.decisions import FORMAT
from mlxtune.data.membership import SHARES, Asked, Share
from mlxtune.data.review import journal_path
from mlxtune.data.rows import Conversation, Message, Preference, Row, Text, Unpaired
from mlxtune.data.source import Source, files
from mlxtune.data.split import Split
from mlxtune.recipe import DataSection

Target = Literal["mlx-lm", "trl", "openai"]
TARGETS: tuple[Target, ...] = get_args(Target)
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Exported:
    """Rows in each share, and how many approved ones are in none, as new twins of several shares are."""

    folder: Path
    counts: dict[Share, int]
    set_aside: int


def export(source: Source, data: DataSection, to: Target, folder: Path, *, pending: bool = False) -> Exported:
    """Write the accepted rows of ``source`` (with ``pending``, the undecided ones too) as ``train``, ``valid`` and ``test.jsonl``.

    The test share is sealed: from then on it may not train. The manifest says that the folder is ``whole`` once it is. Raises ``DataError`` when no row is accepted, when ``to`` has no format for the rows
    or sealed rows stand among the others, ``InputError`` when ``folder`` holds something else, ``MachineError`` on a full disk.
    """
    shares = splits.split(source, data)
    chosen: dict[Share, list[Row]] = {
        part: [row for row in getattr(shares, part) if pending or row.place in source.accepted] for part in SHARES
    }
    if not any(chosen.values()):
        raise DataError(
            f"No row of {source.path.name} is accepted yet.", mend="Review them, or export the undecided ones too: --pending"
        )
    shares.refuse_sealed([*chosen["train"], *chosen["valid"]])
    kind = _kind([row for rows in chosen.values() for row in rows], to)
    _claim(folder)
    splits.record(source, data, shares, seal=True)
    write_json(folder / MANIFEST, {"mlxtune": mlxtune.__version__, "whole": False})
    for part in SHARES:
        file = folder / f"{part}.jsonl"
        if chosen[part]:
            write_bytes(file, lines(shape(row, to) for row in chosen[part]))
        else:
            file.unlink(missing_ok=True)
    write_json(folder / MANIFEST, _manifest(source, data, to, kind, folder, chosen, shares))
    aside = sum(pending or row.place in source.accepted for row in shares.set_aside)
    return Exported(folder, {part: len(rows) for part, rows in chosen.items()}, aside)


def shape(row: Row, to: Target) -> dict[str, Any]:
    """``row`` as one record for ``to``. Raises ``DataError`` when there is no format for it."""
    meta = {"meta": row.meta} if to == "mlx-lm" and row.meta else {}
    match row, to:
        case Conversation(), _:
            return {"messages": _turns(row.messages, to), **_tools(row.tools), **meta}
        case Text(), "mlx-lm" | "trl":
            return {"text": row.text, **meta}
        case Preference(), "trl":
            answers = {"chosen": _answer(row.chosen), "rejected": _answer(row.rejected)}
            return {"prompt": _turns(row.prompt, to), **answers, **_tools(row.tools)}
        case Preference(), "openai":
            asked = {"messages": _turns(row.prompt, to), **_tools(row.tools)}
            return {"input": asked, "preferred_output": _answer(row.chosen), "non_preferred_output": _answer(row.rejected)}
        case Unpaired(), "trl":
            return {"prompt": _turns(row.prompt, to), "completion": _answer(row.completion), "label": row.label}
    name, others = {
        "text": ("plain text", "mlx-lm or trl"), "preference": ("pairs", "trl or openai"), "unpaired": ("unpaired rows", "trl"),
    }[FORMAT[type(row)]]  # fmt: skip
    raise DataError(f"{row.place}: {to} has no format for {name}.", mend=f"Take --to {others}.")


def own(row: Row) -> dict[str, Any]:
    """``row`` as mlxtune itself writes it: TRL's shape, and the metadata under ``meta``."""
    return {**shape(row, "trl"), **({"meta": row.meta} if row.meta else {})}


def lines(records: Iterable[dict[str, Any]]) -> bytes:
    """``records`` as JSON lines in UTF-8."""
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _turns(messages: Iterable[Message], to: Target) -> list[dict[str, Any]]:
    turns = [message.as_dict() for message in messages]
    if to == "openai":  # its API sends the arguments of a call as a string
        for turn in turns:
            if "tool_calls" in turn:
                turn["tool_calls"] = [_spelled(call) for call in turn["tool_calls"]]
    return turns


def _spelled(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {**call, "function": {**function, "arguments": json.dumps(function.get("arguments", {}), ensure_ascii=False)}}


def _tools(tools: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def _kind(rows: list[Row], to: Target) -> str:
    """The one format that all ``rows`` have. Raises ``DataError`` when they have several, or ``to`` has none for them."""
    kinds = Counter(FORMAT[type(row)] for row in rows)
    if len(kinds) > 1:
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        raise DataError(
            f"A file holds one kind of rows, and these are {told}.", mend="Reject all but one kind, or divide the source."
        )
    shape(rows[0], to)
    return next(iter(kinds))


def _claim(folder: Path) -> None:
    """Refuse a folder that holds anything but an older export."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file.", mend="Choose another folder.")
    held = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    ours = MANIFEST in held and isinstance(found := read_json(folder / MANIFEST), dict) and "mlxtune" in found
    if held and not ours:
        raise InputError(f"{folder} is not empty and no export of ours, so nothing was written.", mend="Choose another folder.")


def _manifest(
    source: Source,
    data: DataSection,
    to: Target,
    kind: str,
    folder: Path,
    chosen: Mapping[Share, list[Row]],
    shares: Split,
) -> dict[str, Any]:
    journal = journal_path(source.path)
    written = {part: folder / f"{part}.jsonl" for part, rows in chosen.items() if rows}
    return {
        "mlxtune": mlxtune.__version__,
        "whole": True,
        "to": to,
        "format": kind,
        "source": {"name": source.path.name, "sha256": {file.name: sha256_file(file) for file in files(source.path).values()}},
        "review": {
            "sha256": sha256_file(journal) if journal.is_file() else "",
            "accepted": len(source.accepted),
            "undecided": len(source.rows) - len(source.accepted),
            "left_out": source.left_out,
            "edited": len(source.edited),
        },
        "split": {**asdict(Asked.of(data)), "set_aside": len(shares.set_aside)},
        "counts": {part: len(rows) for part, rows in chosen.items()},
        "files": {file.name: sha256_file(file) for file in written.values()},
        "rows": {part: [row.hash for row in rows] for part, rows in chosen.items()},
    }
