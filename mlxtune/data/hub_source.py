"""Datasets on the Hub: their files, and a dataset as a source, ``hf:owner/name[@revision][:config][:split]``: its rows in a local file, and the revision.

The file is in the folder ``hf`` next to the recipe. Its name says what it is a copy of, so it can be fetched wherever it is missing,
always in the revision that the file ``….hub.json`` next to it records.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mlxtune.core.errors import DataError, MachineError, MlxtuneError
from mlxtune.core.files import read_json, write_chunks, write_json
from mlxtune.core.text import one_line, suggest
from mlxtune.data import parquet
from mlxtune.data.access.file_bytes import FileBytes

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SUFFIXES = (".jsonl", ".json", ".csv", parquet.SUFFIX)
_TIMEOUT = 20.0  # seconds, for the list of files
_NOT_DATA = re.compile(r"(^|/)(\.|dataset_infos?\.json$|state\.json$|package\.json$|config\.json$)")
_CONVERTED = "refs/convert/parquet"  # the revision in which the Hub itself stores most datasets as Parquet


def fetch(path: Path) -> None:
    """Download the dataset that ``path`` is named after. Raises the errors of :func:`download`."""
    from huggingface_hub import HfApi, hf_hub_download

    owner, name, *parts = path.stem.split("--")
    repository, _, revision = f"{owner}/{name}".partition("@")
    lock = path.with_suffix(".hub.json")
    recorded = read_json(lock) if lock.is_file() else None
    revision = recorded["revision"] if isinstance(recorded, dict) else revision
    with hub_errors(repository):
        info = HfApi().dataset_info(repository, revision=revision or None, timeout=_TIMEOUT)
        if not any(is_data_file(item.rfilename) for item in info.siblings or ()):
            info = HfApi().dataset_info(repository, revision=_CONVERTED, timeout=_TIMEOUT)
        names = _files(repository, [item.rfilename for item in info.siblings or ()], parts)
        files = [Path(hf_hub_download(repository, name, repo_type="dataset", revision=info.sha)) for name in names]
    write_chunks(path, _json_lines(files))
    write_json(lock, {"v": 1, "dataset": repository, "revision": info.sha, "files": names})


def _files(repository: str, names: Sequence[str], parts: Sequence[str]) -> list[str]:
    """Return the data files of a configuration and split, or those of the only or the training split, in order."""
    found = [name for name in sorted(names) if is_data_file(name)]
    for part in parts:
        chosen = [name for name in found if re.search(rf"(?:^|[/.-]){re.escape(part)}(?:[/.-]|$)", name)]
        if not chosen:
            words = sorted({word for name in found for word in re.split(r"[/.]|-\d", name)[:-1] if word not in ("", "data")})
            raise DataError(f"{repository} has no configuration or split {one_line(part, 40)}.", hint=suggest(part, words))
        found = chosen
    folders = {PurePosixPath(name).parent for name in found}
    is_split = len(folders) == 1 and all(re.fullmatch(r"\d+\.parquet", PurePosixPath(name).name) for name in found)
    return (
        found
        if is_split
        else choose_files(repository, found, "Add its configuration and split, such as hf:owner/name:config:train.")
    )


def _json_lines(files: Sequence[Path]) -> Iterator[bytes]:
    from mlxtune.data.access.layout import detect_layout  # loads numpy

    if files[0].suffix.lower() == parquet.SUFFIX:
        files = [parquet.to_json_lines(files)]
    for file in files:
        if file.suffix.lower() == ".jsonl":
            yield file.read_bytes()
            continue
        data = FileBytes(file)
        layout = detect_layout(data)
        spans = layout.spans(data)
        for start, end in zip(spans.starts, spans.ends, strict=True):
            yield json.dumps(layout.value(data.read(int(start), int(end))), ensure_ascii=False).encode() + b"\n"
        data.close()


def is_hub_id(name: str) -> bool:
    """Return whether ``name`` looks like owner/name on the Hub rather than a file in a folder."""
    return bool(_HUB_ID.fullmatch(name)) and not name.startswith(".") and not name.lower().endswith(_SUFFIXES)


@contextmanager
def hub_errors(hub_id: str, file: str = "") -> Iterator[None]:
    """Raise ``DataError`` if the dataset or its ``file`` does not exist, ``MachineError`` if the Hub is unreachable."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        yield
    except MlxtuneError:
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


def download(hub_id: str, file: str = "") -> list[Path]:
    """Download files of a dataset to the Hub cache: ``file``, or else the only data file or the only one for training.

    There are several if they are shards of a split, which ``file`` names as ``data/train.parquet``.
    Raises the errors of :func:`hub_errors`, and ``DataError`` if the choice is ambiguous.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def listed() -> list[str]:
        siblings = HfApi().dataset_info(hub_id, timeout=_TIMEOUT).siblings or ()
        return [item.rfilename for item in siblings]

    def fetched(files: list[str]) -> list[Path]:
        return [Path(hf_hub_download(hub_id, name, repo_type="dataset")) for name in files]

    with hub_errors(hub_id, file):
        if not file:
            return fetched(choose_files(hub_id, listed()))
        try:
            return fetched([file])
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError) or not (files := parquet.shards(listed(), file)):
                raise
            return fetched(files)


def is_data_file(name: str) -> bool:
    """Return whether a file of a dataset has rows, as far as its name says."""
    return name.lower().endswith(_SUFFIXES) and not _NOT_DATA.search(name)


def choose_files(source: str, names: list[str], hint: str = "Choose one with --file NAME.") -> list[str]:
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
    raise DataError(f"{source} has several files: {shown}{' …' if len(candidates) > 6 else ''}.", hint=hint)
