"""Formats of other tools that rows are exported in: Alpaca, ShareGPT, tables, and tasks of labeling tools.

A layout is used only if every record that it writes is read back as the same row. Metadata is written where the format has room.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Message, PromptRow, Row, RowError, TextRow, Unpaired, join_reasoning

Record = dict[str, Any]
_NAMES = {"user": "human", "assistant": "gpt", "tool": "observation"}  # of roles in ShareGPT


@dataclass(frozen=True)
class Layout:
    """A format. ``records`` are the forms of a record, of which the first one that can hold all rows is used: a function that returns
    ``None`` for a row that it cannot hold."""

    suffix: str
    records: tuple[Callable[[Row], Record | None], ...]
    encode: Callable[[Sequence[Record]], bytes]

    def write(self, rows: Sequence[Row], name: str) -> bytes:
        """Return a file with ``rows``. Raises ``DataError`` with the first one that ``name``, the format, cannot hold."""
        failed: Row | None = None
        for form in self.records:
            found = [record for row in rows if (record := form(row)) and _reads_as(record, row)]
            if len(found) == len(rows):
                return self.encode(found)
            failed = next(row for row in rows if not ((record := form(row)) and _reads_as(record, row)))
        assert failed
        raise DataError(
            f"{failed.location}: {name} cannot hold this row.", hint="Use --to trl, or leave the row out with a filter."
        )


def _reads_as(record: Record, row: Row) -> bool:
    try:
        return parse(json.loads(json.dumps(record)), row.location).hash == row.hash
    except RowError:
        return False


def _text(turn: Message) -> str:
    return join_reasoning(turn.extra.get("reasoning_content", ""), turn.content)


def _system(row: PromptRow) -> tuple[str, tuple[Message, ...]]:
    """Return the system prompt and the other turns of a prompt or conversation."""
    turns = row.messages if isinstance(row, Conversation) else row.prompt
    return (turns[0].content, turns[1:]) if turns and turns[0].role == "system" else ("", turns)


def _alpaca(row: Row) -> Record | None:
    if not isinstance(row, Conversation) or row.tools:
        return None
    system, turns = _system(row)
    *earlier, question, answer = map(_text, turns)
    history = [list(pair) for pair in zip(earlier[::2], earlier[1::2], strict=False)]
    return {**row.meta, "instruction": question, "input": "", "output": answer, "history": history, "system": system}


def _sharegpt(row: Row) -> Record | None:
    if isinstance(row, TextRow):
        return None
    system, turns = _system(row)
    record = {**row.meta, "conversations": [_sharegpt_turn(turn) for turn in turns], "system": system}
    record |= {"tools": json.dumps(row.tools, ensure_ascii=False)} if row.tools else {}
    if isinstance(row, Unpaired):
        answer = {"from": "gpt", "value": row.completion}
        return {**record, "conversations": [*record["conversations"], answer], "label": row.label}
    if isinstance(row, Conversation):
        return record
    return {**record, **{key: {"from": "gpt", "value": getattr(row, key)} for key in ("chosen", "rejected")}}


def _sharegpt_turn(turn: Message) -> Record:
    if calls := turn.extra.get("tool_calls"):
        return {"from": "function_call", "value": json.dumps([call["function"] for call in calls], ensure_ascii=False)}
    extra = {key: value for key, value in turn.extra.items() if key in ("name", "tool_call_id")}
    return {"from": _NAMES.get(turn.role, turn.role), "value": _text(turn), **extra}


def _columns(row: Row) -> Record | None:
    """Return the row as columns of text: one turn of each role."""
    if isinstance(row, TextRow):
        return {**_flat(row.meta), "text": row.text}
    system, turns = _system(row)
    if len(turns) != (2 if isinstance(row, Conversation) else 1) or row.tools:
        return None
    record = {**_flat(row.meta), **({"system": system} if system else {}), "prompt": turns[0].content}
    if isinstance(row, Conversation):
        return {**record, "completion": _text(turns[1])}
    if isinstance(row, Unpaired):
        return {**record, "completion": row.completion, "label": json.dumps(row.label)}
    return {**record, "chosen": row.chosen, "rejected": row.rejected}


def _json_columns(row: Row) -> Record | None:
    """Return the row as columns, of which those with turns are JSON text."""
    if isinstance(row, TextRow):
        return None
    tools = {"tools": list(row.tools)} if row.tools else {}
    if isinstance(row, Conversation):
        return _flat({**row.meta, "messages": [turn.as_record() for turn in row.messages], **tools})
    prompt = {**row.meta, "prompt": [turn.as_record() for turn in row.prompt], **tools}
    if isinstance(row, Unpaired):
        return _flat({**prompt, "completion": row.completion, "label": row.label})
    return _flat({**prompt, "chosen": row.chosen, "rejected": row.rejected})


def _flat(values: Record) -> Record:
    return {key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def _task(row: Row) -> tuple[Any, str] | None:
    """Return the prompt of a task, a text or turns, and its answer."""
    if not isinstance(row, Conversation) or row.tools:
        return None
    *turns, answer = row.messages
    is_text = len(turns) == 1 and turns[0].role == "user"
    return turns[0].content if is_text else [turn.as_dict() for turn in turns], _text(answer)


def _argilla(row: Row) -> Record | None:
    if not (task := _task(row)):
        return None
    responses = {"completion": [{"value": task[1], "status": "submitted"}]}
    return {"id": row.id, "fields": {"prompt": task[0]}, "responses": responses, "metadata": row.meta, "status": "completed"}


def _label_studio(row: Row) -> Record | None:
    if not (task := _task(row)):
        return None
    result = {"from_name": "answer", "to_name": "prompt", "type": "textarea", "value": {"text": [task[1]]}}
    return {"data": {**row.meta, "prompt": task[0]}, "annotations": [{"result": [result]}]}


def _json_lines(records: Iterable[Record]) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def _csv(records: Sequence[Record]) -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue().encode()


def _parquet(records: Sequence[Record]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    names = dict.fromkeys(key for record in records for key in record)
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({name: [record.get(name) for record in records] for name in names}), file)
    return file.getvalue()


LAYOUTS = {
    "alpaca": Layout(".jsonl", (_alpaca,), _json_lines),
    "sharegpt": Layout(".jsonl", (_sharegpt,), _json_lines),
    "csv": Layout(".csv", (_columns, _json_columns), _csv),
    "parquet": Layout(".parquet", (_columns, _json_columns), _parquet),
    "argilla": Layout(".jsonl", (_argilla,), _json_lines),
    "label-studio": Layout(".json", (_label_studio,), lambda records: json.dumps(records, ensure_ascii=False).encode()),
}
