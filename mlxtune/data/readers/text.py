"""Text format: ``text``, as in TRL's language modeling."""

from mlxtune.data.readers.row_format import Record, RowFormat, metadata, text_field
from mlxtune.data.rows import Location, TextRow


def _read(record: Record, location: Location) -> TextRow:
    return TextRow(location, metadata(record, "text"), text_field(record, "text"))


TEXT = RowFormat("text", ("text",), lambda record: "text" in record, _read)
