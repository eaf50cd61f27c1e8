"""Adapters and exports to the hub and back, through huggingface-hub: private unless asked, and safe to run again when it broke off.

The token is the hub client's own business: it comes from the environment or from ``hf auth login``, goes nowhere but to the hub, and is
taken out of every message that comes back.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlxtune.adapters import card, peft
from mlxtune.adapters.check import PICKLES
from mlxtune.adapters.entry import AdapterEntry, lineage
from mlxtune.adapters.importing import find_base, import_adapter
from mlxtune.adapters.layout import LINEAGE
from mlxtune.adapters.library import FOLDER
from mlxtune.core.errors import InputError, MachineError, MlxtuneError, ModelError
from mlxtune.core.files import disk_errors, write_json, write_text
from mlxtune.core.text import one_line, plural, size
from mlxtune.models.bundled import Progress
from mlxtune.planning.machine import disk_free
from mlxtune.recipe.parent import CONFIG, WEIGHTS

PATIENCE = 20.0  # seconds for an answer that is no file
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LONGEST = 400  # characters of what a hub says
_SMALL = (CONFIG, LINEAGE)  # files beside the weights that are worth fetching


@dataclass(frozen=True)
class Pushed:
    """What is on the hub now: its address, the commit, and whether others can see it."""

    url: str
    commit: str
    private: bool
    files: tuple[str, ...]


def push_adapter(entry: AdapterEntry, repo: str, *, public: bool = False, progress: Progress = lambda what, share: None) -> Pushed:
    """Put ``entry`` into the hub's repository ``repo``, made where it is not there, with a model card and no path of this machine.

    Raises ``InputError`` when the adapter cannot be used, nobody is logged in, the hub refuses, or the repository is public and
    ``public`` does not say so; ``MachineError`` when it cannot be reached: then run it again, and what is there is not sent again.
    """
    if entry.problem:
        raise InputError(f"{entry.name} cannot be pushed: {entry.problem}")
    base = _base(entry.base)
    with tempfile.TemporaryDirectory(prefix="mlxtune-push-") as scratch:
        folder = Path(scratch)
        names = card.stage(entry, base, folder)
        files = {WEIGHTS: entry.weights} | {name: folder / name for name in names}
        return _push(repo, files, f"{entry.name}: adapter, card and evaluation", public, progress)


def push_export(folder: Path, repo: str, *, public: bool = False, progress: Progress = lambda what, share: None) -> Pushed:
    """Put the export in ``folder`` into ``repo``, as :func:`push_adapter` does. Raises as it does, and for a folder that is none."""
    name = repo.rsplit("/", 1)[-1]
    told = lineage(folder)
    base = _base(str(told.get("base", "")))
    text = card.export_card(name, folder, base)
    with tempfile.TemporaryDirectory(prefix="mlxtune-push-") as scratch:
        write_text(Path(scratch) / card.README, text)
        write_json(Path(scratch) / LINEAGE, card.open_lineage(folder, base))
        files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")}
        files |= {own: Path(scratch) / own for own in (card.README, LINEAGE)}
        return _push(repo, files, f"{name}: model, card and evaluation", public, progress)


def pull(
    workspace: Path,
    repo: str,
    name: str = "",
    base: str = "",
    *,
    revision: str = "",
    other_weights: bool = False,
    progress: Progress = lambda what, share: None,
) -> AdapterEntry:
    """Fetch the adapter of the hub's repository ``repo`` and let it in as :func:`importing.import_adapter` does.

    Only weights as safetensors, their configuration and their lineage are fetched, of one commit, which the adapter's origin names. A
    line that breaks off is taken up where it broke; run again, whole files are not fetched a second time. Raises ``InputError`` and ``ModelError`` with the reason, ``MachineError`` when
    the hub cannot be reached.
    """
    api = _api(repo)
    with _asking(repo):
        info = api.model_info(repo, revision=revision or None, files_metadata=True, timeout=PATIENCE)
    commit = str(info.sha or "")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise InputError(f"The hub names no commit of {repo}.")
    sizes = {str(item.rfilename): int(item.size or 0) for item in info.siblings or ()}
    weights = _weights(repo, list(sizes))
    wanted = [*(file for file in _SMALL if file in sizes), weights]
    total = sum(sizes[file] for file in wanted)
    parent = workspace / FOLDER
    if total > disk_free(parent):
        raise MachineError(
            f"{repo} takes {size(total)}, and {size(disk_free(parent))} are free at {parent}.", mend="Free some space."
        )
    scratch = parent / f".pull-{repo.replace('/', '--')}-{commit[:12]}"
    with disk_errors(str(scratch)):
        scratch.mkdir(parents=True, exist_ok=True)
    for at, file in enumerate(wanted):
        if file == weights:
            find_base(scratch, base, progress)  # before the long part
        progress(f"fetching {file}", at / len(wanted))
        with _asking(repo):
            _fetch(repo, file, commit, scratch)
    try:
        told = name or repo.rsplit("/", 1)[-1]
        return import_adapter(
            workspace, scratch, told, base, origin=f"{repo} at {commit[:12]}", other_weights=other_weights, progress=progress
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def redact(text: str) -> str:
    """``text`` without any token that the hub's client knows."""
    for secret in _secrets():
        text = text.replace(secret, "[token]")
    return text


def _push(repo: str, files: dict[str, Path], message: str, public: bool, progress: Progress) -> Pushed:
    from huggingface_hub import CommitOperationAdd, get_token

    api = _api(repo)
    if not get_token():
        raise InputError("Nobody is logged in to the hub here.", mend="hf auth login, or put a token that may write into HF_TOKEN.")
    total = sum(file.stat().st_size for file in files.values())
    progress(f"sending {plural(len(files), 'file')}, {size(total)}, to {repo}", 0.0)
    with _asking(repo):
        api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(repo, timeout=PATIENCE).private)
    if not private and not public:
        raise InputError(f"{repo} is there already, and everybody can see it.", mend="--public says that you mean that.")
    operations = [CommitOperationAdd(name, str(file)) for name, file in sorted(files.items())]
    with _asking(repo):
        done = api.create_commit(repo, operations, commit_message=message)
    return Pushed(f"{_endpoint()}/{repo}", str(done.oid), private, tuple(sorted(files)))


def _fetch(repo: str, file: str, commit: str, folder: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download(repo, file, revision=commit, local_dir=folder, endpoint=_endpoint(), etag_timeout=PATIENCE)


def _weights(repo: str, names: list[str]) -> str:
    """Which file of a repository holds an adapter. Raises ``ModelError`` with the reason when none does."""
    for file in (WEIGHTS, peft.FILE):
        if file in names:
            return file
    if pickled := next((name for name in names if name.lower().endswith(PICKLES)), None):
        raise ModelError(
            f"{repo} has its weights as a pickle, {one_line(pickled, 60)}: opening it would run whatever code it holds.",
            mend="Ask its maker for safetensors.",
        )
    raise ModelError(f"{repo} holds no adapter: it has neither {WEIGHTS} nor {peft.FILE}.")


def _base(name: str) -> card.Base:
    """The base by its name in the world; of one on the hub, its licence as the hub tells it, where it can be asked."""
    found = card.known_base(name)
    if found.hub_id and not found.licence:
        try:
            told = _api(found.hub_id).model_info(found.hub_id, timeout=PATIENCE).card_data
            return card.known_base(name, str((told or {}).get("license") or ""))
        except Exception:  # a card without a licence says so; what is wrong with the hub is told when it matters
            return found
    return found


def _api(repo: str) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not _REPO.fullmatch(repo) or ".." in repo:
        raise InputError(
            f"{one_line(repo, 80)!r} is no repository of the hub.", mend="It is an owner and a name: someone/support-json"
        )
    disable_progress_bars()
    return HfApi(endpoint=_endpoint())


def _endpoint() -> str:
    """The hub's address. Raises ``InputError`` for one that would get the token in the clear."""
    url = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise InputError("HF_ENDPOINT is not an address of the form https://host.")
    if parts.scheme == "http" and not _local(parts.hostname):
        raise InputError(f"{one_line(parts.hostname, 60)} would get your token in the clear.", mend="Use https:// in HF_ENDPOINT.")
    return url


def _local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _asking(repo: str) -> Iterator[None]:
    """Turn what the hub's client raises into errors of ours, freed of the token; the client's own are not chained to them."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        yield
    except MlxtuneError:
        raise
    except GatedRepoError:
        raise InputError(
            f"{repo} is gated, and you have no access to it.", mend="Ask for it on its page, then: hf auth login"
        ) from None
    except RepositoryNotFoundError:
        raise InputError(f"The hub has no {repo}, or you may not see it.", mend="Check the name, or: hf auth login") from None
    except RevisionNotFoundError:
        raise InputError(f"{repo} has no such revision.") from None
    except Exception as error:  # whose errors the others are depends on the client's version: it changes its HTTP library
        raise _told(repo, error, HfHubHTTPError) from None


def _told(repo: str, error: Exception, answered: type[Exception]) -> MlxtuneError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, answered):
        cause = cause.__cause__
    status = int(getattr(getattr(cause, "response", None), "status_code", 0) or 0)
    said = one_line(redact(str(cause or error)), _LONGEST)
    if status in (401, 403):
        return InputError(f"The hub does not let you do that with {repo}: {said}", mend="Use a token that may write: hf auth login")
    if 400 <= status < 500 and status not in (408, 429):
        return InputError(f"The hub refused {repo} with {status}: {said}")
    why = f"answered {status}" if status else "cannot be reached"
    return MachineError(f"The hub {why}: {said}", mend="Run it again: what is there already is not sent or fetched again.")


def _secrets() -> list[str]:
    from huggingface_hub import get_token

    found = {os.environ.get(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")}
    with suppress(Exception):  # a login that cannot be read holds nothing to hide
        found.add(get_token() or "")
    return sorted((secret.strip() for secret in found if len(secret.strip()) >= 4), key=len, reverse=True)
