"""Import rows from a file, a folder or a Hugging Face dataset, and write them in mlxtune's own format."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.core.files import read_json, user_path, write_chunks
from mlxtune.core.text import one_line
from mlxtune.data import parquet
from mlxtune.data.access.file_bytes import FileNote
from mlxtune.data.export import MANIFEST, check_new_jsonl, jsonl_bytes, native_record
from mlxtune.data.generate import documents
from mlxtune.data.hub_source import choose_files, download, is_hub_id
from mlxtune.data.readers.formats import CONTENT_FORMATS, NO_MAPPING, detect
from mlxtune.data.rows import PromptRow, Row, turn_rows
from mlxtune.data.source import describe_errors
from mlxtune.data.source_files import source_files


class BadRowsError(DataError):
    """``count`` rows cannot be used, and skipping them was not requested."""

    def __init__(self, message: str, count: int, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.count = count


@dataclass(frozen=True)
class ImportResult:
    out: Path
    rows: int
    formats: dict[str, int]  # the number of rows by source format
    bad: tuple[DataError, ...]  # the errors of invalid rows that were left out
    notes: tuple[FileNote, ...]
    transcripts: int  # texts that look like transcripts, so that they must be read with the format ``text``


def locate(name: str, file: str = "") -> Path:
    """Return the path ``name``, or download ``file`` from the dataset ``name``. Convert Parquet files, and a folder of documents, to JSON Lines.

    Raises ``DataError`` if there is neither, ``InputError`` as :func:`mlxtune.data.parquet.to_json_lines` does.
    """
    path = user_path(name)
    if path.exists():
        if files := _parquet_files(path, file):
            return parquet.to_json_lines(files)
        return documents.to_json_lines(path) if documents.is_folder_of_texts(path) else path
    if not is_hub_id(name):
        raise DataError(
            f"There is no data at {one_line(name, 200)}.", hint="Use a file, a folder, or a dataset such as owner/name."
        )
    files, _ = download(name, file)
    return parquet.to_json_lines(files) if files[0].suffix.lower() == parquet.SUFFIX else files[0]


def _parquet_files(path: Path, file: str) -> list[Path]:
    """Return ``path`` if it is a Parquet file, or the Parquet files to read from a folder without a ``train.jsonl``."""
    if not path.is_dir():
        return [path] if path.suffix.lower() == parquet.SUFFIX else []
    names = [item.name for item in path.iterdir() if item.suffix.lower() == parquet.SUFFIX]
    if not names or (path / "train.jsonl").is_file():
        return []
    files = (parquet.shards(names, file) or [file]) if file else choose_files(str(path), names)
    return [path / name for name in files]


def import_rows(
    path: Path,
    out: Path,
    format: str = "auto",
    mapping: Mapping[str, str] = NO_MAPPING,
    *,
    skip_bad: bool = False,
    each_turn: bool = False,
) -> ImportResult:
    """Write the rows of ``path`` in order to ``out``, a new ``.jsonl`` file. No review is applied. With ``each_turn``, every answer of
    a conversation becomes a row.

    Raises ``DataError`` if there are no rows, ``BadRowsError`` for invalid rows unless ``skip_bad``, ``InputError`` if ``out`` exists.
    """
    from mlxtune.data.access.records import RecordFile  # loads numpy, which `mlxtune --help` does not need

    check_new_jsonl(out)
    errors: list[DataError] = []
    notes: list[FileNote] = []
    formats, transcripts = Counter[str](), 0

    def lines() -> Iterator[bytes]:
        nonlocal transcripts
        read = 0
        for file in source_files(path).values():
            with RecordFile(file, _exported_format(file, format), mapping) as records:
                notes.extend(records.notes)
                for row in records:
                    read += 1
                    if isinstance(row, DataError):
                        errors.append(row)
                        continue
                    rows: list[Row] = [row]
                    if each_turn and isinstance(row, PromptRow):  # the prompt of a completion may have answers, too
                        rows = [*turn_rows(row, untrained=row.format == "completion")]
                    for one in rows:
                        record = native_record(one)
                        formats[one.format] += 1
                        transcripts += detect(record) != CONTENT_FORMATS[type(one)]
                        yield jsonl_bytes([record])
        if errors and not skip_bad:
            hint = f"{errors[0].hint} Or use --skip-bad to leave them out."
            raise BadRowsError(describe_errors(errors, read), len(errors), hint=hint)
        if not formats:
            raise DataError(f"{path} has no valid rows.")

    write_chunks(out, lines())
    return ImportResult(out, formats.total(), dict(formats.most_common()), tuple(errors), tuple(notes), transcripts)


def _exported_format(file: Path, format: str) -> str:
    """Return ``format``, or ``text`` if an export's manifest says so: a text that looks like a transcript must remain a text."""
    manifest = file.parent / MANIFEST
    if format == "auto" and manifest.is_file():
        value = read_json(manifest)
        if isinstance(value, dict) and file.name in value.get("files", {}) and value.get("format") == "text":
            return "text"
    return format
