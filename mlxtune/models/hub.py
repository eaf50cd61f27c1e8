"""Search the Hugging Face Hub, and download models with resume and hash verification. Does not import mlx.

Files are stored in the Hub's own cache, where other tools find them. The Hub client deletes a partial file when it is
interrupted, so this module downloads large files, to ``NAME.part`` next to their final path, before it calls the client.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.child_process import Progress
from mlxtune.core.errors import MachineError, MlxtuneError, ModelError
from mlxtune.core.files import disk_errors
from mlxtune.core.hashing import sha256_file
from mlxtune.core.text import one_line, plural, size
from mlxtune.models import families
from mlxtune.runs.locks import file_lock

if TYPE_CHECKING:  # importing the client takes a second
    from huggingface_hub.hf_api import RepoFile

FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]  # only safetensors weights, never code
SEARCH_LIMIT = 20
BLOCK = 2**20  # bytes between progress reports
RETRIES = 5  # after attempts that deliver no new data, with increasing delays
TIMEOUT = 30.0  # seconds without data
CONNECT_TIMEOUT = 3.0  # seconds until a search gives up connecting


@dataclass(frozen=True)
class HubModel:
    """A search result. ``gated`` models require an account that their owner has approved."""

    id: str
    downloads: int
    license: str
    gated: bool


def search(text: str) -> list[HubModel]:
    """Return MLX models whose names match ``text``, most downloaded first. Raises ``MachineError`` if the Hub is unreachable."""
    from huggingface_hub import constants, get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    parameters: dict[str, str | int | list[str]] = {
        "search": text, "filter": "mlx", "sort": "downloads", "limit": SEARCH_LIMIT, "expand": ["downloads", "gated", "tags"],
    }  # fmt: skip
    timeout = _http_library().Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
    with _translate_errors(text):  # the Hub client's list_models() retries for 24 s before it reports a missing network
        url = f"{constants.ENDPOINT}/api/models"
        response = get_session().get(url, params=parameters, headers=build_hf_headers(), timeout=timeout)
        hf_raise_for_status(response)
        return [
            HubModel(model["id"], model.get("downloads") or 0, _license(model.get("tags") or []), bool(model.get("gated")))
            for model in response.json()
        ]


def cached(id: str) -> Path | None:
    """Return the folder of model ``id`` in the Hub's cache if it is complete. Makes no requests."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(id, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):  # an incomplete snapshot raises the first
        return None
    return folder if (folder / "config.json").is_file() else None


def pull(id: str, progress: Progress = lambda what, share: None) -> Path:
    """Download model ``id``, or only the files that changed, and return its folder in the Hub's cache.

    An interrupted download resumes in any process; every file is verified against its hash. Raises ``ModelError`` if the model
    does not exist, cannot be fine-tuned or has a corrupt file, and ``MachineError`` if the Hub is unreachable, the disk is full or
    another process is downloading the model.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.hf_api import RepoFile

    with _translate_errors(id):
        commit = HfApi().model_info(id).sha or ""
        tree = HfApi().list_repo_tree(id, revision=commit, recursive=True)
        wanted = [file for file in tree if isinstance(file, RepoFile) and any(fnmatch(file.path, glob) for glob in FILES)]
    _check_config(id, wanted, commit)
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{id.replace('/', '--')}" / "blobs"
    missing = [file for file in wanted if file.lfs is not None and not (blobs / file.lfs.sha256).is_file()]
    total = sum(file.size for file in missing)
    done = 0
    with file_lock(blobs.parent / "pull.lock", busy=f"{id} is being downloaded by another process.", timeout=0.5):
        for file in missing:

            def report(count: int, done: int = done) -> None:
                progress(f"downloading {id}, {size(total)}", (done + count) / total)

            _download(id, file, commit, blobs, report)
            done += file.size
        with _translate_errors(id):
            folder = Path(snapshot_download(id, allow_patterns=FILES, tqdm_class=_silent_progress_bar()))
        progress(f"checking {id}", 0.0)
        _verify(id, folder, [file for file in wanted if file not in missing])
        progress(f"checking {id}", 1.0)
    return folder


def _check_config(id: str, entries: list[RepoFile], commit: str) -> None:
    """Read ``config.json`` without storing it, and raise ``ModelError`` if it says that the model cannot be fine-tuned."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    if not any(entry.path == "config.json" for entry in entries):
        raise ModelError(f"{id} has no config.json, so it is not a language model.", hint="Choose another model: mlxtune models")
    with _translate_errors(id):
        url = hf_hub_url(id, "config.json", revision=commit)
        response = get_session().get(url, headers=build_hf_headers(), timeout=TIMEOUT, follow_redirects=True)
        hf_raise_for_status(response)
    try:
        config = json.loads(response.content)
    except ValueError:
        return  # the file's hash is verified after the download
    families.check_trainable(config, id)


def _download(id: str, entry: RepoFile, commit: str, blobs: Path, report: Callable[[int], None]) -> None:
    """Download one large file to the Hub's cache, using a ``.part`` file that is kept if the download is interrupted."""
    lfs: Any = entry.lfs
    part = blobs / f"{lfs.sha256}.part"
    with disk_errors(entry.path):
        blobs.mkdir(parents=True, exist_ok=True)
        retries = RETRIES
        while (offset := part.stat().st_size if part.is_file() else 0) < entry.size:
            try:
                _append(id, entry.path, commit, part, offset, report)
            except _http_library().TransportError as error:
                received = part.stat().st_size if part.is_file() else 0
                retries = RETRIES if received > offset else retries - 1
                if retries < 0:
                    raise _unreachable(id, error, " The partial download is kept.") from error
                time.sleep(0.5 * 2 ** (RETRIES - retries))
        if sha256_file(part) != lfs.sha256:
            part.unlink()
            raise _damaged(id, [entry.path])
        part.rename(blobs / lfs.sha256)


def _append(id: str, name: str, commit: str, part: Path, offset: int, report: Callable[[int], None]) -> None:
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    headers = build_hf_headers() | {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", hf_hub_url(id, name, revision=commit), headers=headers, timeout=TIMEOUT) as response:
        with _translate_errors(id):
            if response.status_code != 200:
                hf_raise_for_status(response)
        with part.open("ab" if response.status_code == 206 else "wb") as file:  # 200: the server ignored the range
            for block in response.iter_bytes(BLOCK):
                file.write(block)
                report(file.tell())


def _http_library() -> Any:
    """Return the HTTP library whose errors the Hub client raises. It depends on the client's version."""
    from huggingface_hub import get_session

    return __import__(type(get_session()).__module__.partition(".")[0])


def _silent_progress_bar() -> Any:
    """Return a tqdm class for the Hub client that draws nothing."""
    from tqdm.std import tqdm

    class SilentProgressBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **(options | {"disable": True}))

    return SilentProgressBar


def _verify(id: str, folder: Path, entries: list[RepoFile]) -> None:
    """Verify the downloaded or cached files. If any are corrupt, delete them and raise ``ModelError``."""
    damaged = []
    for entry in entries:
        file = folder / entry.path
        if not _has_listed_hash(file, entry):
            file.resolve().unlink(missing_ok=True)
            file.unlink(missing_ok=True)
            damaged.append(entry.path)
    if damaged:
        raise _damaged(id, damaged)


def _has_listed_hash(file: Path, entry: RepoFile) -> bool:
    """Return whether ``file`` has the hash that the Hub lists: SHA-256 for large files, the git blob ID for small ones."""
    if not file.is_file() or file.stat().st_size != entry.size:
        return False
    if entry.lfs is not None:
        return sha256_file(file) == entry.lfs.sha256
    data = file.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == entry.blob_id


def _license(tags: list[str]) -> str:
    return next((tag.partition(":")[2] for tag in tags if tag.startswith("license:")), "")


def _damaged(id: str, names: list[str]) -> ModelError:
    return ModelError(
        f"The download of {id} has {plural(len(names), 'corrupt file')}: {one_line(', '.join(names[:5]), 200)}.",
        hint=f"Download it again, because corrupt files were deleted: mlxtune models pull {id}",
    )


def _unreachable(what: str, error: Exception, note: str = "") -> MachineError:
    no_connection = isinstance(error, _http_library().ConnectError)
    reason = "no network, or unknown host" if no_connection else one_line(str(error), 120).rstrip(".")
    return MachineError(
        f"The Hub cannot be reached for {one_line(what, 80)}: {reason}.",
        hint=f"Check your network connection and try again.{note} Offline, use a model that `mlxtune models` marks as downloaded.",
    )


@contextmanager
def _translate_errors(what: str) -> Iterator[None]:
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the client logs every retry
    try:
        yield
    except MlxtuneError:
        raise
    except GatedRepoError as error:
        raise ModelError(
            f"{what} is gated: its owner must approve your account.", hint="Request access on its page, then run: hf auth login"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"The Hub has no model {one_line(what, 80)}, or it is private.",
            hint="Search with mlxtune models --search TEXT; for a private model, run: hf auth login",
        ) from error
    except HFValidationError as error:
        raise ModelError(f"{one_line(what, 80)} is not a valid model ID.", hint="Use the form OWNER/NAME.") from error
    except Exception as error:  # the HTTP library, and so the error class, depends on the client version
        raise _unreachable(what, error) from error
