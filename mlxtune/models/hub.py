"""Models on the hub: searched, downloaded so that a cut goes on where it was, and checked by hash. No mlx here.

Files end up in the hub's own cache, where every other tool finds them. Its client throws away the part of a file that it has when
it is stopped; so large files are fetched here, into ``NAME.part`` beside their place, and the client finds them done.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import MachineError, MlxtuneError, ModelError
from mlxtune.core.files import disk_errors
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, plural, size
from mlxtune.runs.locks import hold

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # weights only as safetensors, never code
LIMIT = 20  # results of a search
BLOCK = 2**20  # bytes between two reports of progress
RETRIES = 5  # of a connection that brings nothing new, a little longer apart each time
TIMEOUT = 30.0  # seconds without a byte

Progress = Callable[[str, float], None]  # what is happening, and the share of it that is done


@dataclass(frozen=True)
class Found:
    """A model that a search found. ``gated``: the hub wants an account that its owner has let in."""

    id: str
    downloads: int
    licence: str
    gated: bool


def search(text: str, *, limit: int = LIMIT) -> list[Found]:
    """Models in MLX's format whose names match ``text``, most downloaded first. Raises ``MachineError`` when the hub cannot be reached."""
    from huggingface_hub import HfApi

    with _hub(text):
        models = HfApi().list_models(
            search=text, filter="mlx", sort="downloads", limit=limit, expand=["downloads", "gated", "tags"]
        )  # fmt: skip
        return [Found(model.id, model.downloads or 0, _licence(model.tags or []), bool(model.gated)) for model in models]


def cached(id: str) -> Path | None:
    """The folder of the model ``id`` in the hub's cache, if it is there and whole; the hub is not asked."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(id, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, OSError):  # an incomplete snapshot raises the first
        return None
    return folder if (folder / "config.json").is_file() else None


def pull(id: str, progress: Progress = lambda what, share: None) -> Path:
    """Download the model ``id``, or what is new of it, and return its folder in the hub's cache.

    A download that was cut short goes on where it stopped, in whatever process; every file is checked by its hash before it
    counts as there. Raises ``ModelError`` when there is no such model or a file is not what it should be, ``MachineError`` when
    the hub cannot be reached, the disk is full or another process is downloading it.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.hf_api import RepoFile

    with _hub(id):
        commit = HfApi().model_info(id).sha or ""
        tree = HfApi().list_repo_tree(id, revision=commit, recursive=True)
        wanted = [one for one in tree if isinstance(one, RepoFile) and any(fnmatch(one.path, pattern) for pattern in FILES)]
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{id.replace('/', '--')}" / "blobs"
    missing = [one for one in wanted if one.lfs is not None and not (blobs / one.lfs.sha256).is_file()]
    total = sum(one.size for one in missing)
    done = 0
    with hold(blobs.parent / "pull.lock", busy=f"{id} is being downloaded by another process.", patience=0.5):
        for one in missing:
            before = done

            def tell(count: int, before: int = before) -> None:
                progress(f"downloading {id}, {size(total)}", (before + count) / total)

            _fetch(id, one, commit, blobs, tell)
            done += one.size
        with _hub(id):
            folder = Path(snapshot_download(id, allow_patterns=FILES, tqdm_class=_silent()))
        progress(f"checking {id}", 0.0)
        _verify(id, folder, [one for one in wanted if one not in missing])
        progress(f"checking {id}", 1.0)
    return folder


def _fetch(id: str, entry: RepoFile, commit: str, blobs: Path, tell: Callable[[int], None]) -> None:
    """One large file into its place in the hub's cache, by way of a part that stays when this is cut short."""
    lfs: Any = entry.lfs
    part = blobs / f"{lfs.sha256}.part"
    with disk_errors(entry.path):
        blobs.mkdir(parents=True, exist_ok=True)
        left = RETRIES
        while (have := part.stat().st_size if part.is_file() else 0) < entry.size:
            try:
                _append(id, entry.path, commit, part, have, tell)
            except _cuts() as error:
                new = part.stat().st_size if part.is_file() else 0
                left = RETRIES if new > have else left - 1
                if left < 0:
                    raise _away(id, error, " What was downloaded stays.") from error
                time.sleep(0.5 * 2 ** (RETRIES - left))
        if sha256_file(part) != lfs.sha256:
            part.unlink()
            raise _damaged(id, [entry.path])
        part.rename(blobs / lfs.sha256)


def _append(id: str, name: str, commit: str, part: Path, have: int, tell: Callable[[int], None]) -> None:
    """Ask for the file from its byte ``have`` on, and write what comes behind what is there."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    headers = build_hf_headers() | {"Range": f"bytes={have}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", hf_hub_url(id, name, revision=commit), headers=headers, timeout=TIMEOUT) as answer:
        with _hub(id):
            if answer.status_code != 200:
                hf_raise_for_status(answer)
        with part.open("ab" if answer.status_code == 206 else "wb") as file:  # 200: from its beginning, whatever was asked
            for block in answer.iter_bytes(BLOCK):
                file.write(block)
                tell(file.tell())


def _cuts() -> tuple[type[Exception], ...]:
    """What the client raises when a connection breaks."""
    return (_library().TransportError,)


def _unheard() -> tuple[type[Exception], ...]:
    """What the client raises when there is no connection at all."""
    return (_library().ConnectError,)


def _library() -> Any:
    """The HTTP library of the hub's client, whose errors it lets through; which one that is depends on its version."""
    from huggingface_hub import get_session

    return __import__(type(get_session()).__module__.partition(".")[0])


def _silent() -> Any:
    """A class of progress bars, as the hub's client wants one, that draws nothing."""
    from tqdm.std import tqdm

    class Silent(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **(options | {"disable": True}))

    return Silent


def _verify(id: str, folder: Path, entries: list[RepoFile]) -> None:
    """Check each file that was there or that the client brought; one that is wrong is taken out. Raises ``ModelError``."""
    wrong = []
    for entry in entries:
        file = folder / entry.path
        if not _as_listed(file, entry):
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            wrong.append(entry.path)
    if wrong:
        raise _damaged(id, wrong)


def _as_listed(file: Path, entry: RepoFile) -> bool:
    """Whether ``file`` has the hash that the hub lists: sha256 of a large file, git's own of a small one."""
    if not file.is_file() or file.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        return sha256_file(file) == entry.lfs.sha256
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == entry.blob_id


def _licence(tags: list[str]) -> str:
    return next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), "")


def _damaged(id: str, names: list[str]) -> ModelError:
    return ModelError(
        f"{plural(len(names), 'file')} of {id} came down damaged: {one_line(', '.join(names[:5]), 200)}.",
        mend=f"What was wrong is gone. Fetch it again: mlxtune models pull {id}",
    )


def _away(what: str, error: Exception, stays: str = "") -> MachineError:
    why = "no network, or no such host" if isinstance(error, _unheard()) else one_line(str(error), 120).rstrip(".")
    return MachineError(
        f"The hub cannot be reached for {one_line(what, 80)}: {why}.",
        mend=f"Connect, and try again.{stays} Offline, the bases work that mlxtune models marks as here.",
    )


@contextmanager
def _hub(what: str) -> Iterator[None]:
    """The errors of the hub's client, as ours."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it counts its own attempts on stderr
    try:
        yield
    except MlxtuneError:
        raise
    except GatedRepoError as error:
        raise ModelError(f"{what} is gated: its owner wants to know you.", mend="Ask on its page, then: hf auth login") from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The hub has no model {one_line(what, 80)}, or it is not public.",
            mend="Look for it with: mlxtune models --search TEXT; for a private one: hf auth login",
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{one_line(what, 80)} is no id of a model.", mend="An id is OWNER/NAME.") from error
    except Exception as error:  # whose errors these are depends on the client's version: it changes its HTTP library
        raise _away(what, error) from error
