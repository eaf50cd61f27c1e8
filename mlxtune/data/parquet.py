"""Convert Parquet files to JSON Lines, a batch of rows at a time. Requires pyarrow."""

import datetime
import decimal
import json
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import home, write_chunks
from mlxtune.core.hashing import sha256_json
from mlxtune.core.text import one_line

SUFFIX = ".parquet"
_BATCH = 256  # rows in memory
_SHARD = re.compile(r"-(\d+)-of-(\d+)(?:-[0-9a-f]{8,})?(?=\.parquet$)", re.IGNORECASE)  # train-00000-of-00002.parquet


def unsharded(name: str) -> str:
    """Return the name of the split that a file belongs to: ``train.parquet`` for ``train-00000-of-00002.parquet``."""
    return _SHARD.sub("", name)


def shards(names: Sequence[str], split: str) -> list[str]:
    """Return those of ``names`` that are shards of ``split``, in order. Raises ``DataError`` if some are missing."""
    found = sorted(name for name in names if name != split and unsharded(name) == split)
    numbers = [(int(match[1]), int(match[2])) for name in found if (match := _SHARD.search(name))]
    if numbers and numbers != [(number, numbers[0][1]) for number in range(numbers[0][1])]:
        hint = "Add the missing files, or import the others one by one."
        raise DataError(f"{one_line(split, 60)} is incomplete: there are {len(found):,} of {numbers[0][1]:,} shards.", hint=hint)
    return found


def to_json_lines(files: Sequence[Path]) -> Path:
    """Convert the rows of ``files``, in order, to one ``.jsonl`` file in mlxtune's cache, and return its path.

    Structs and lists become objects and arrays. Null fields are left out, because Parquet cannot tell them from absent ones. Dates and
    times become ISO 8601 strings, decimals strings, and NaN and infinity null. Raises ``InputError`` if pyarrow is not installed,
    ``DataError`` if a file is damaged or has values that JSON cannot represent.
    """
    key = sha256_json([str(file.resolve()) for file in files])[:16]
    out = home() / "parquet" / key / f"{PurePosixPath(unsharded(files[0].name)).stem}.jsonl"
    write_chunks(out, (chunk for file in files for chunk in _chunks(file)))
    return out


def _chunks(file: Path) -> Iterator[bytes]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError("Reading Parquet files requires pyarrow.", hint="Run: pip install 'mlxtune[parquet]'") from error
    try:
        with parquet.ParquetFile(file) as table:
            schema = pyarrow.schema([field.with_type(_type(field.type)) for field in table.schema_arrow])
            for batch in table.iter_batches(_BATCH):
                rows = batch.cast(schema, safe=False).to_pylist(maps_as_pydicts="strict")
                values = (
                    {name: _json(value, name, file, name) for name, value in row.items() if value is not None} for row in rows
                )
                yield b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in values)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{file} cannot be read as Parquet: {one_line(str(error), 120)}", hint="Download or write the file again."
        ) from error


def _type(type: Any) -> Any:
    """Return the type to read a column as: times in microseconds, which Python can represent, also in structs and lists."""
    import pyarrow
    from pyarrow import types

    if types.is_timestamp(type):
        return pyarrow.timestamp("us", type.tz)
    if types.is_time64(type):
        return pyarrow.time64("us")
    if types.is_struct(type):
        return pyarrow.struct([field.with_type(_type(field.type)) for field in type])
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        return pyarrow.large_list(type.value_field.with_type(_type(type.value_type)))
    return type


def _json(value: Any, where: str, file: Path, column: str) -> Any:
    """Return ``value`` as JSON. ``where`` is its place in the row, such as ``image.bytes``."""
    match value:
        case dict():
            return {key: _json(item, f"{where}.{key}", file, column) for key, item in value.items() if item is not None}
        case list():
            return [_json(item, f"{where}[]", file, column) for item in value]
        case float():
            return value if math.isfinite(value) else None
        case datetime.date() | datetime.time():  # datetime is a date
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case None | bool() | int() | str():
            return value
    if isinstance(value, bytes):
        try:
            return value.decode()  # how some programs store text
        except UnicodeDecodeError:
            pass
    copy = file.with_name(f"{file.stem}-text{SUFFIX}").name
    code = f"from pyarrow import parquet as p; p.write_table(p.read_table({str(file)!r}).drop_columns([{column!r}]), {copy!r})"
    kind = "binary" if isinstance(value, bytes) else type(value).__name__
    hint = f"Leave the column out of a copy, and import that: python3 -c {shlex.quote(code)}"
    raise DataError(f"{file} has a {kind} value in the column {one_line(where, 60)}, which JSON cannot represent.", hint=hint)
