"""Text format: ``text``, as in TRL's language modeling."""

from __future__ import annotations

from mlxtune.data.readers.row_format import Record, RowFormat, metadata, text_field
from mlxtune.data.rows import Location, Text


def _read(record: Record, location: Location) -> Text:
    return Text(location, metadata(record, "text"), text_field(record, "text"))


TEXT = RowFormat("text", ("text",), lambda record: "text" in record, _read)
