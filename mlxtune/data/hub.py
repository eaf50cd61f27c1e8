"""Data sets of the hub: the files of one that can be read, in the hub's own cache."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from mlxtune.core.errors import DataError, MachineError
from mlxtune.core.text import one_line

_ID = re.compile(r"[\w.-]+/[\w.-]+")
ENDINGS = (".jsonl", ".json", ".csv")
PATIENCE = 20.0  # seconds for the list of files
_NO_DATA = re.compile(r"(^|/)(\.|dataset_infos?\.json$|state\.json$|package\.json$|config\.json$)")


def is_id(name: str) -> bool:
    """Whether ``name`` looks like a hub id, an owner and a name, and not like a file in a folder."""
    return bool(_ID.fullmatch(name)) and not name.startswith(".") and not name.lower().endswith(ENDINGS)


def fetch(hub_id: str, file: str = "") -> Path:
    """The file of the data set ``hub_id`` on disk: ``file``, or the only one there is, or the only one for training.

    Raises ``DataError`` when there is no such data set or file, when there are several to choose from, ``MachineError`` when the
    hub cannot be reached.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        name = file or choose(hub_id, [item.rfilename for item in HfApi().dataset_info(hub_id, timeout=PATIENCE).siblings or ()])
        return Path(hf_hub_download(hub_id, name, repo_type="dataset"))
    except DataError:
        raise
    except RepositoryNotFoundError as error:
        raise DataError(
            f"The hub has no data set {hub_id}, or it is not public.", mend="Check the id; for a gated one: hf auth login"
        ) from error
    except Exception as error:  # whose errors these are depends on the client's version: it changes its HTTP library
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise DataError(
                f"The data set {hub_id} has no file {one_line(file, 80)}.", mend="Leave --file out to see what it has."
            ) from error
        raise MachineError(
            f"{hub_id} is not on this machine, and the hub cannot be reached.", mend="Connect once, or import a file."
        ) from error


def choose(hub_id: str, names: list[str]) -> str:
    """The one of a data set's files to read. Raises ``DataError``, naming them, when it is not clear which."""
    found = [name for name in sorted(names) if name.lower().endswith(ENDINGS) and not _NO_DATA.search(name)]
    if not found:
        kinds = sorted({PurePosixPath(name).suffix for name in names if PurePosixPath(name).suffix not in ("", ".md")})
        raise DataError(
            f"{hub_id} has no file of the kinds {', '.join(ENDINGS)}" + (f", only {', '.join(kinds[:5])}." if kinds else "."),
            mend="Write its rows as JSON lines first.",
        )
    train = [name for name in found if "train" in PurePosixPath(name).name.lower()]
    for choice in (found, train):
        if len(choice) == 1:
            return choice[0]
    shown = ", ".join(one_line(name, 60) for name in (train or found)[:6])
    raise DataError(f"{hub_id} has several files: {shown}{' …' if len(train or found) > 6 else ''}.", mend="Name one: --file NAME")
