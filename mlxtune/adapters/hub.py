"""Push adapters and exports to the Hugging Face Hub, private by default, and pull adapters from it.

The Hub client reads the token from the environment or from ``hf auth login``. The token is sent only to the Hub, and is removed
from all of the Hub's messages. An interrupted push or pull can be repeated.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlxtune.adapters import publish
from mlxtune.adapters.entry import AdapterEntry, read_lineage
from mlxtune.adapters.importers import peft
from mlxtune.adapters.importers.checks import find_weights_file
from mlxtune.adapters.importers.importer import find_base, import_adapter
from mlxtune.adapters.layout import LINEAGE
from mlxtune.adapters.library import FOLDER
from mlxtune.core.child_process import Progress, quiet
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import disk_errors, write_json, write_text
from mlxtune.core.text import one_line, plural, size
from mlxtune.evaluation.judge.endpoint import is_local
from mlxtune.models.hub import hub_errors
from mlxtune.planning.machine import disk_free
from mlxtune.recipe.parent import CONFIG, WEIGHTS

REQUEST_TIMEOUT = 20.0  # seconds, except for file transfers
_METADATA = (CONFIG, LINEAGE)  # files fetched in addition to the weights


@dataclass(frozen=True)
class PushResult:
    url: str
    commit: str
    private: bool
    files: tuple[str, ...]


def push_adapter(
    entry: AdapterEntry, repo: str, card: publish.Card, *, public: bool = False, progress: Progress = quiet
) -> PushResult:
    """Push ``entry`` with its model ``card`` to ``repo``, which is created if needed. No local paths are published.

    Raise ``InputError`` if the user is not logged in, the Hub rejects the request, or the repository is public but ``public`` is not
    set, and ``MachineError`` if the Hub cannot be reached.
    """
    base = _base(entry.base)
    with tempfile.TemporaryDirectory(prefix="mlxtune-push-") as scratch:
        folder = Path(scratch)
        names = publish.write_publishable(entry, base, folder, card)
        files = {WEIGHTS: entry.weights} | {name: folder / name for name in names}
        return _push(repo, files, f"{entry.name}: adapter, card and evaluation", public, progress)


def push_export(
    folder: Path, repo: str, card: Callable[[str, Path, publish.PublishedBase], str], *, public: bool = False,
    progress: Progress = quiet,
) -> PushResult:  # fmt: skip
    """Push the export in ``folder`` to ``repo``. ``card`` returns the model card of a name, a folder and its base. Raise ``InputError`` if it is not one, else like :func:`push_adapter`."""
    name = repo.rsplit("/", 1)[-1]
    lineage = read_lineage(folder)
    base = _base(str(lineage.get("base", "")))
    text = card(name, folder, base)
    with tempfile.TemporaryDirectory(prefix="mlxtune-push-") as scratch:
        write_text(Path(scratch) / publish.README, text)
        write_json(Path(scratch) / LINEAGE, publish.public_lineage(folder, base))
        files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and not file.name.startswith(".")}
        files |= {own: Path(scratch) / own for own in (publish.README, LINEAGE)}
        return _push(repo, files, f"{name}: model, card and evaluation", public, progress)


def pull(
    workspace: Path, repo: str, name: str = "", base: str = "", *, revision: str = "", other_weights: bool = False,
    progress: Progress = quiet,
) -> AdapterEntry:  # fmt: skip
    """Download the adapter in ``repo`` and import it with :func:`importer.import_adapter`.

    Only the safetensors file, configuration and lineage of one commit are downloaded; the adapter's origin records the commit. The
    next call resumes an interrupted download. Raise ``InputError``, ``ModelError``, or, without a connection, ``MachineError``.
    """
    from huggingface_hub import hf_hub_download

    api = _api(repo)
    with hub_errors(repo, "repository"):
        info = api.model_info(repo, revision=revision or None, files_metadata=True, timeout=REQUEST_TIMEOUT)
    commit = str(info.sha or "")
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise InputError(f"The Hub returned no commit for {repo}.", hint="Check --revision.")
    sizes = {str(item.rfilename): int(item.size or 0) for item in info.siblings or ()}
    weights = find_weights_file(repo, list(sizes), WEIGHTS, peft.FILE)
    wanted = [*(file for file in _METADATA if file in sizes), weights]
    total = sum(sizes[file] for file in wanted)
    parent = workspace / FOLDER
    if total > (free := disk_free(parent)):
        raise MachineError(f"{repo} needs {size(total)}, but only {size(free)} is free in {parent}.")
    scratch = parent / f".pull-{repo.replace('/', '--')}-{commit[:12]}"
    with disk_errors(str(scratch)):
        scratch.mkdir(parents=True, exist_ok=True)
    for index, file in enumerate(wanted):
        if file == weights:
            find_base(scratch, base, progress)  # before the long download
        progress(f"fetching {file}", index / len(wanted))
        with hub_errors(repo, "repository"):
            hf_hub_download(repo, file, revision=commit, local_dir=scratch, endpoint=_endpoint(), etag_timeout=REQUEST_TIMEOUT)
    try:
        return import_adapter(
            workspace, scratch, name or repo.rsplit("/", 1)[-1], base, origin=f"{repo} at {commit[:12]}",
            other_weights=other_weights, progress=progress,
        )  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _push(repo: str, files: dict[str, Path], message: str, public: bool, progress: Progress) -> PushResult:
    from huggingface_hub import CommitOperationAdd, get_token

    api = _api(repo)
    if not get_token():
        raise InputError("You are not logged in to the Hub.", hint="Run hf auth login, or set HF_TOKEN to one with write access.")
    total = sum(file.stat().st_size for file in files.values())
    progress(f"sending {plural(len(files), 'file')}, {size(total)}, to {repo}", 0.0)
    with hub_errors(repo, "repository"):
        api.create_repo(repo, private=not public, exist_ok=True)
        private = bool(api.model_info(repo, timeout=REQUEST_TIMEOUT).private)
    if not private and not public:
        raise InputError(f"{repo} already exists and is public.", hint="Use --public to confirm.")
    operations = [CommitOperationAdd(name, str(file)) for name, file in sorted(files.items())]
    with hub_errors(repo, "repository"):
        done = api.create_commit(repo, operations, commit_message=message)
    return PushResult(f"{_endpoint()}/{repo}", str(done.oid), private, tuple(sorted(files)))


def _base(name: str) -> publish.PublishedBase:
    base = publish.published_base(name)
    if base.hub_id and not base.license:
        with suppress(Exception):  # the card then says that the license is unknown; Hub errors appear in the push itself
            data = _api(base.hub_id).model_info(base.hub_id, timeout=REQUEST_TIMEOUT).card_data
            return publish.published_base(name, str((data or {}).get("license") or ""))
    return base


def _api(repo: str) -> Any:
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not publish.HUB_ID.fullmatch(repo) or ".." in repo:
        raise InputError(f"{one_line(repo, 80)!r} is not a valid Hub repository ID.", hint="Use the form OWNER/NAME.")
    disable_progress_bars()
    return HfApi(endpoint=_endpoint())


def _endpoint() -> str:
    """Return the Hub's address. Raise ``InputError`` if the token would be sent unencrypted."""
    url = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.password:
        raise InputError("HF_ENDPOINT must be an address of the form https://host.", hint="Correct or unset it.")
    if parts.scheme == "http" and not is_local(parts.hostname):
        hint = "Use https in HF_ENDPOINT."
        raise InputError(f"Your token would be sent unencrypted to {one_line(parts.hostname, 60)}.", hint=hint)
    return url
