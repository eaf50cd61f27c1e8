"""Search the Hugging Face Hub, and download models with resume and hash verification. Does not import mlx.

Files are stored in the Hub's own cache, where other tools find them. The Hub client deletes a partial file when it is
interrupted, so this module downloads large files, to ``NAME.part`` next to their final path, before it calls the client.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.child_process import Progress, quiet
from mlxtune.core.errors import InputError, MachineError, MlxtuneError, ModelError
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
_MAX_MESSAGE = 400  # characters of a message from the Hub
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
    from huggingface_hub import constants

    parameters: dict[str, str | int | list[str]] = {
        "search": text, "filter": "mlx", "sort": "downloads", "limit": SEARCH_LIMIT, "expand": ["downloads", "gated", "tags"],
    }  # fmt: skip
    timeout = _http_library().Timeout(TIMEOUT, connect=CONNECT_TIMEOUT)
    with hub_errors(text):  # the Hub client's list_models() retries for 24 s before it reports a missing network
        url = f"{constants.ENDPOINT}/api/models"
        found = []
        for model in _get(url, params=parameters, timeout=timeout).json():
            licenses = [tag.partition(":")[2] for tag in model.get("tags") or [] if tag.startswith("license:")]
            found.append(HubModel(model["id"], model.get("downloads") or 0, "".join(licenses[:1]), bool(model.get("gated"))))
        return found


def _get(url: str, **options: Any) -> Any:
    """Return the response to a request with the Hub client's session and token. Raises the client's errors."""
    from huggingface_hub import get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    response = get_session().get(url, headers=build_hf_headers(), **options)
    hf_raise_for_status(response)
    return response


def cached(id: str) -> Path | None:
    """Return the folder of model ``id`` in the Hub's cache if it is complete. Makes no requests."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(id, allow_patterns=FILES, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):  # an incomplete snapshot raises the first
        return None
    return folder if (folder / "config.json").is_file() else None


def pull(id: str, progress: Progress = quiet) -> Path:
    """Download model ``id``, or only the files that changed, and return its folder in the Hub's cache.

    An interrupted download resumes in any process; every file is verified against its hash. Raises ``ModelError`` if the model
    does not exist, cannot be fine-tuned or has a corrupt file, and ``MachineError`` if the Hub is unreachable, the disk is full or
    another process is downloading the model.
    """
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.hf_api import RepoFile
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    with hub_errors(id):
        commit = HfApi().model_info(id).sha or ""
        tree = HfApi().list_repo_tree(id, revision=commit, recursive=True)
        wanted = [file for file in tree if isinstance(file, RepoFile) and any(fnmatch(file.path, glob) for glob in FILES)]
    if odd := next((file for file in wanted if not _is_valid(file)), None):
        raise ModelError(f"The Hub's list of {one_line(id, 80)} has an invalid entry: {one_line(str(odd.path), 120)}.")
    _check_config(id, wanted, commit)
    blobs = Path(constants.HF_HUB_CACHE) / f"models--{id.replace('/', '--')}" / "blobs"
    missing = [file for file in wanted if file.lfs is not None and not (blobs / file.lfs.sha256).is_file()]
    total = sum(file.size for file in missing)
    done = 0
    with file_lock(blobs.parent / "pull.lock", busy=f"{id} is being downloaded by another process.", timeout=0.5):
        for file in missing:

            def report(count: int, done: int = done) -> None:
                progress(f"downloading {id}, {size(total)}", (done + count) / max(1, total))

            _download(id, file, commit, blobs, report)
            done += file.size
        with hub_errors(id):
            folder = Path(snapshot_download(id, allow_patterns=FILES))
        progress(f"checking {id}", 0.0)
        _verify(id, folder, [file for file in wanted if file not in missing])
        progress(f"checking {id}", 1.0)
    return folder


def _is_valid(file: RepoFile) -> bool:
    """Return whether a listed file stays in the model's folder, and its large content in a blob named after a hash."""
    path: Any = file.path
    lfs: Any = file.lfs
    inside = isinstance(path, str) and not path.startswith("/") and not {"", ".", ".."} & {*path.split("/")} and "\0" not in path
    hashed = lfs is None or (isinstance(lfs.sha256, str) and re.fullmatch("[0-9a-f]{64}", lfs.sha256) is not None)
    return inside and hashed and isinstance(file.size, int) and file.size >= 0


def _check_config(id: str, entries: list[RepoFile], commit: str) -> None:
    """Read ``config.json`` without storing it, and raise ``ModelError`` if it says that the model cannot be fine-tuned."""
    from huggingface_hub import hf_hub_url

    if not any(entry.path == "config.json" for entry in entries):
        raise ModelError(f"{id} has no config.json, so it is not a language model.", hint="Choose another model: mlxtune models")
    with hub_errors(id):
        url = hf_hub_url(id, "config.json", revision=commit)
        content = _get(url, timeout=TIMEOUT, follow_redirects=True).content
    with suppress(ValueError, RecursionError):  # the file's hash is verified after the download
        families.check_trainable(json.loads(content), id)


def _download(id: str, entry: RepoFile, commit: str, blobs: Path, report: Callable[[int], None]) -> None:
    """Download one large file to the Hub's cache, using a ``.part`` file that is kept if the download is interrupted."""
    lfs: Any = entry.lfs
    part = blobs / f"{lfs.sha256}.part"
    with disk_errors(entry.path):
        blobs.mkdir(parents=True, exist_ok=True)
        retries = RETRIES
        while (offset := part.stat().st_size if part.is_file() else 0) < entry.size:
            failure: Exception | None = None
            try:
                _append(id, entry.path, commit, part, entry.size, report)
            except _http_library().TransportError as error:
                failure = error
            received = part.stat().st_size if part.is_file() else 0
            if failure is None and received > offset:
                continue
            retries = RETRIES if received > offset else retries - 1
            if retries < 0:  # the connection fails, or the file is shorter than listed
                raise _converted(id, failure) if failure else _damaged(id, [entry.path])
            time.sleep(0.5 * 2 ** (RETRIES - retries))
        if part.stat().st_size != entry.size or sha256_file(part) != lfs.sha256:
            part.unlink()
            raise _damaged(id, [entry.path])
        part.rename(blobs / lfs.sha256)


def _append(id: str, name: str, commit: str, part: Path, size: int, report: Callable[[int], None]) -> None:
    """Append what is missing of a file of ``size`` bytes to ``part``. A server that sends more is not read to the end."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    offset = part.stat().st_size if part.is_file() else 0
    headers = build_hf_headers() | {"Range": f"bytes={offset}-", "Accept-Encoding": "identity"}
    with get_session().stream("GET", hf_hub_url(id, name, revision=commit), headers=headers, timeout=TIMEOUT) as response:
        with hub_errors(id):
            if response.status_code != 200:
                hf_raise_for_status(response)
        with part.open("ab" if response.status_code == 206 else "wb") as file:  # 200: the server ignored the range
            for block in response.iter_bytes(BLOCK):
                file.write(block)
                report(file.tell())
                if file.tell() > size:
                    return


def _http_library() -> Any:
    """Return the HTTP library whose errors the Hub client raises. It depends on the client's version."""
    from huggingface_hub import get_session

    return __import__(type(get_session()).__module__.partition(".")[0])


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


def _damaged(id: str, names: list[str]) -> ModelError:
    files = f"{plural(len(names), 'corrupt file')}: {one_line(', '.join(names[:5]), 200)}"
    return ModelError(f"The download of {id} has {files}.", hint=f"Download again: mlxtune models pull {id}")


@contextmanager
def hub_errors(what: str, noun: str = "model") -> Iterator[None]:
    """Convert errors of the Hub client about ``what`` to ``MlxtuneError`` without the token. The original errors are not chained."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the client logs every retry
    shown = one_line(what, 80)
    try:
        yield
    except MlxtuneError:
        raise
    except GatedRepoError:
        raise ModelError(f"{shown} is gated.", hint="Request access on its page, then run: hf auth login") from None
    except RepositoryNotFoundError:
        find = "Search with mlxtune models --search TEXT" if noun == "model" else "Check the name"
        raise ModelError(f"The Hub has no {noun} {shown}, or it is private.", hint=f"{find}, or run: hf auth login") from None
    except RevisionNotFoundError:
        raise ModelError(f"{shown} does not have this revision.", hint="Check --revision.") from None
    except HFValidationError:
        raise ModelError(f"{shown} is not a valid model ID.", hint="Use the form OWNER/NAME.") from None
    except Exception as error:  # the HTTP library, and so the error class, depends on the client version
        raise _converted(shown, error) from None


def _converted(what: str, error: Exception) -> MlxtuneError:
    from huggingface_hub.errors import HfHubHTTPError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, HfHubHTTPError):
        cause = cause.__cause__
    status = int(getattr(getattr(cause, "response", None), "status_code", 0) or 0)
    message = one_line(redact(str(cause or error)), _MAX_MESSAGE)
    if status in (401, 403):
        return InputError(f"The Hub denied access to {what}: {message}", hint="Use a token with write access: hf auth login")
    if 400 <= status < 500 and status not in (408, 429):
        return InputError(f"The Hub rejected the request for {what} with status {status}: {message}")
    if isinstance(error, _http_library().ConnectError):
        message = "no network, or unknown host."
    problem = f"answered with status {status}" if status else f"cannot be reached for {what}"
    hint = "Run the command again: what was transferred is kept; offline, use a model that `mlxtune models` marks as downloaded."
    return MachineError(f"The Hub {problem}: {message}", hint=hint)


def redact(text: str) -> str:
    """Return ``text`` without any token that the Hub client can read."""
    from huggingface_hub import get_token

    secrets = {os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")}
    with suppress(Exception):  # an unreadable login has no token to remove
        secrets.add(get_token() or "")
    for secret in sorted((secret.strip() for secret in secrets if len(secret.strip()) >= 4), key=len, reverse=True):
        text = text.replace(secret, "[token]")
    return text
