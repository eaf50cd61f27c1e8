"""Datasets on the Hub: their files, and a dataset as a source, ``hf:owner/name[@revision][:config][:split]``: its rows in a local file, and the revision.

The file is in the folder ``hf`` next to the recipe. Its name says what it is a copy of, so it can be fetched wherever it is missing,
always in the revision that the file ``….hub.json`` next to it records.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mlxtune.core.errors import DataError, MachineError, MlxtuneError
from mlxtune.core.files import read_json, write_bytes, write_json
from mlxtune.core.text import one_line
from mlxtune.data import parquet

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".jsonl", ".json", ".csv", parquet.SUFFIX)
_TIMEOUT = 20.0  # seconds, for the list of files
_NOT_DATA = re.compile(r"(^|/)(\.|dataset_infos?\.json$|state\.json$|package\.json$|config\.json$)")


def fetch(path: Path) -> None:
    """Download the dataset that ``path`` is named after, in the recorded revision. Raises the errors of :func:`download`."""
    owner, name, *parts = path.stem.split("--")
    repository, _, revision = f"{owner}/{name}".partition("@")
    lock = path.with_suffix(".hub.json")
    recorded = read_json(lock) if lock.is_file() else None
    revision = recorded.get("revision", revision) if isinstance(recorded, dict) else revision
    files, revision = download(repository, parts=parts, revision=revision)
    copy = parquet.to_json_lines(files) if files[0].suffix.lower() == parquet.SUFFIX else files[0]
    if copy.suffix.lower() != ".jsonl":
        raise DataError(
            f"{repository} has a {copy.suffix} file.", hint=f"Import it: mlxtune data import {repository} --out rows.jsonl"
        )
    write_bytes(path, copy.read_bytes())
    write_json(lock, {"v": 1, "dataset": repository, "revision": revision, "files": [file.name for file in files]})


def _in_parts(repository: str, names: list[str], parts: Sequence[str]) -> list[str]:
    """Return the data files of a configuration and split, or of any if there are no ``parts``."""
    for part in parts:
        chosen = [name for name in names if re.search(rf"(?:^|[/.-]){re.escape(part)}(?:[/.-]|$)", name)]
        if not chosen:
            shown = one_line(", ".join(sorted(names)[:6]), 200)
            raise DataError(f"{repository} has no configuration or split {one_line(part, 40)}.", hint=f"Its files are: {shown}")
        names = chosen
    return names


def is_hub_id(name: str) -> bool:
    """Return whether ``name`` looks like owner/name on the Hub rather than a file in a folder."""
    return bool(_HUB_ID.fullmatch(name)) and not name.startswith(".") and not name.lower().endswith(_SUFFIXES)


@contextmanager
def hub_errors(hub_id: str, file: str = "") -> Iterator[None]:
    """Raise ``DataError`` if the dataset, its revision, or ``file`` does not exist, ``MachineError`` if the Hub is unreachable."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except MlxtuneError:
        raise
    except RepositoryNotFoundError as error:
        raise DataError(
            f"There is no public dataset {hub_id} on the Hub.", hint="Check the ID or, for a gated dataset, run: hf auth login"
        ) from error
    except RevisionNotFoundError as error:
        hint = "Correct what follows the @, or delete its .hub.json file to read the newest revision."
        raise DataError(f"The dataset {hub_id} has no such revision on the Hub.", hint=hint) from error
    except Exception as error:  # network error types depend on the huggingface-hub version
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise DataError(
                f"The dataset {hub_id} has no file {one_line(file, 80)}.", hint="Omit --file to list its files."
            ) from error
        raise MachineError(
            f"{hub_id} is not cached, and the Hub cannot be reached.", hint="Connect to the internet, or import a file."
        ) from error


def download(hub_id: str, file: str = "", parts: Sequence[str] = (), revision: str = "") -> tuple[list[Path], str]:
    """Download files of a dataset to the Hub cache: ``file``, or else the only data file or the only one for training among those of
    a configuration and split, ``parts``. Return them, and their revision unless ``file`` was named.

    There are several if they are shards of a split, which ``file`` names as ``data/train.parquet``.
    Raises the errors of :func:`hub_errors`, and ``DataError`` if the choice is ambiguous.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def listed() -> tuple[list[str], str]:
        info = HfApi().dataset_info(hub_id, revision=revision or None, timeout=_TIMEOUT)
        return [item.rfilename for item in info.siblings or ()], info.sha or ""

    def fetched(files: list[str], revision: str = "") -> tuple[list[Path], str]:
        return [Path(hf_hub_download(hub_id, name, repo_type="dataset", revision=revision or None)) for name in files], revision

    with hub_errors(hub_id, file):
        if not file:
            names, revision = listed()
            return fetched(choose_files(hub_id, _in_parts(hub_id, names, parts)), revision)
        try:
            return fetched([file])
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) or not (files := parquet.shards(listed()[0], file)):
                raise
            return fetched(files)


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
    if len({PurePosixPath(name).parent for name in data_files}) == 1 and all(
        re.search(r"(^|/)\d+\.parquet$", name) for name in data_files
    ):
        return data_files  # the parts of a split
    candidates = train_files or data_files
    shown = ", ".join(one_line(name, 60) for name in candidates[:6])
    hint = "Choose one with --file NAME, or hf:owner/name:split in a recipe."
    raise DataError(f"{source} has several files: {shown}{' …' if len(candidates) > 6 else ''}.", hint=hint)
