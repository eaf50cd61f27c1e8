"""Import rows from a file, a folder or a Hugging Face dataset, and write them in mlxtune's own format."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlxtune.core.errors import DataError, MachineError
from mlxtune.core.files import read_json, user_path, write_bytes
from mlxtune.core.text import one_line
from mlxtune.data import parquet
from mlxtune.data.access.file_bytes import FileNote
from mlxtune.data.export import MANIFEST, check_new_jsonl, jsonl_bytes, native_record
from mlxtune.data.readers.formats import CONTENT_FORMATS, NO_MAPPING, detect
from mlxtune.data.rows import PromptRow, Row, turn_rows
from mlxtune.data.source import describe_errors, read_records
from mlxtune.data.source_files import source_files

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".jsonl", ".json", ".csv", parquet.SUFFIX)
_HUB_TIMEOUT = 20.0  # seconds, for the list of files
_NOT_DATA = re.compile(r"(^|/)(\.|dataset_infos?\.json$|state\.json$|package\.json$|config\.json$)")


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
    """Return the path ``name``, or download ``file`` from the dataset ``name``. Convert Parquet files to JSON Lines.

    Raises ``DataError`` if there is neither, ``InputError`` as :func:`mlxtune.data.parquet.to_json_lines` does.
    """
    path = user_path(name)
    if path.exists():
        files = _parquet_files(path, file)
        return parquet.to_json_lines(files) if files else path
    if not is_hub_id(name):
        raise DataError(
            f"There is no data at {one_line(name, 200)}.", hint="Use a file, a folder, or a dataset such as owner/name."
        )
    files = download(name, file)
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
    check_new_jsonl(out)
    rows: list[Row] = []
    errors: list[DataError] = []
    notes: list[FileNote] = []
    for file in source_files(path).values():
        file_rows, file_errors, file_notes = read_records(file, _exported_format(file, format), mapping)
        rows, errors, notes = rows + file_rows, errors + file_errors, notes + list(file_notes)
    if errors and not skip_bad:
        message = describe_errors(errors, len(errors) + len(rows))
        raise BadRowsError(message, len(errors), hint=f"{errors[0].hint} Or use --skip-bad to leave them out.")
    if not rows:
        raise DataError(f"{path} has no valid rows.")
    if each_turn:
        rows = [one for row in rows for one in _turns(row)]
    records_out = [native_record(row) for row in rows]
    transcripts = sum(detect(record) != CONTENT_FORMATS[type(row)] for record, row in zip(records_out, rows, strict=True))
    write_bytes(out, jsonl_bytes(records_out))
    formats = dict(Counter(row.format for row in rows).most_common())
    return ImportResult(out, len(rows), formats, tuple(errors), tuple(notes), transcripts)


def _turns(row: Row) -> Sequence[Row]:
    """Return a row for each answer of ``row``, including those in the prompt of a row that has its last answer in another column."""
    return turn_rows(row, untrained=row.format == "completion") if isinstance(row, PromptRow) else [row]


def _exported_format(file: Path, format: str) -> str:
    """Return ``format``, or ``text`` if an export's manifest says so: a text that looks like a transcript must remain a text."""
    manifest = file.parent / MANIFEST
    if format == "auto" and manifest.is_file():
        value = read_json(manifest)
        if isinstance(value, dict) and file.name in value.get("files", {}) and value.get("format") == "text":
            return "text"
    return format


# Hugging Face datasets


def is_hub_id(name: str) -> bool:
    """Return whether ``name`` looks like owner/name on the Hub rather than a file in a folder."""
    return bool(_HUB_ID.fullmatch(name)) and not name.startswith(".") and not name.lower().endswith(_SUFFIXES)


def download(hub_id: str, file: str = "") -> list[Path]:
    """Download files of a dataset to the Hub cache: ``file``, or else the only data file or the only one for training.

    There are several if they are shards of a split, which ``file`` names as ``data/train.parquet``.
    Raises ``DataError`` if the dataset or file does not exist or the choice is ambiguous, ``MachineError`` if the Hub is unreachable.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    def listed() -> list[str]:
        siblings = HfApi().dataset_info(hub_id, timeout=_HUB_TIMEOUT).siblings or ()
        return [item.rfilename for item in siblings]

    def fetched(files: list[str]) -> list[Path]:
        return [Path(hf_hub_download(hub_id, name, repo_type="dataset")) for name in files]

    try:
        if not file:
            return fetched(choose_files(hub_id, listed()))
        try:
            return fetched([file])
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) or not (files := parquet.shards(listed(), file)):
                raise
            return fetched(files)
    except DataError:
        raise
    except RepositoryNotFoundError as error:
        raise DataError(
            f"There is no public dataset {hub_id} on the Hub.", hint="Check the ID or, for a gated dataset, run: hf auth login"
        ) from error
    except Exception as error:  # network error types depend on the huggingface-hub version
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise DataError(
                f"The dataset {hub_id} has no file {one_line(file, 80)}.", hint="Omit --file to list its files."
            ) from error
        raise MachineError(
            f"{hub_id} is not cached, and the Hub cannot be reached.", hint="Connect to the internet, or import a file."
        ) from error


def choose_files(source: str, names: list[str]) -> list[str]:
    """Return the data file to read from a dataset or folder, or the shards of the split to read, in order.

    Raises ``DataError`` with the candidates if the choice is ambiguous.
    """
    names = [name for name in sorted(names) if not _NOT_DATA.search(name)]
    data_files = list(dict.fromkeys(parquet.unsharded(name) for name in names if name.lower().endswith(_SUFFIXES)))
    if not data_files:
        suffixes = sorted({PurePosixPath(name).suffix for name in names if PurePosixPath(name).suffix not in ("", ".md")})
        raise DataError(
            f"{source} has no {', '.join(_SUFFIXES[:-1])}, or {_SUFFIXES[-1]} file"
            + (f", only {', '.join(suffixes[:5])}." if suffixes else "."),
            hint="Convert its rows to JSON Lines first.",
        )
    train_files = [name for name in data_files if "train" in PurePosixPath(name).name.lower()]
    for choice in (data_files, train_files):
        if len(choice) == 1:
            return parquet.shards(names, choice[0]) or choice
    candidates = train_files or data_files
    shown = ", ".join(one_line(name, 60) for name in candidates[:6])
    raise DataError(
        f"{source} has several files: {shown}{' …' if len(candidates) > 6 else ''}.", hint="Choose one with --file NAME."
    )
