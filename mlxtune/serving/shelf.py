"""The adapters of a workspace by name: those of its runs, and those in ``adapters/``. No mlx here: faces read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.files import read_json
from mlxtune.core.text import nearest, one_line
from mlxtune.models import bundled
from mlxtune.recipe.parent import CONFIG, WEIGHTS
from mlxtune.runs import registry

FOLDER = "adapters"


@dataclass(frozen=True)
class Shelved:
    """An adapter: what to call it, where it lies, its base as it can be resolved, and that base's fingerprint; empty where unknown."""

    name: str
    folder: Path
    base: str
    fingerprint: str


def adapters(workspace: Path, fingerprint: str = "") -> list[Shelved]:
    """All adapters of ``workspace``, those in its library first, then those of runs, newest first.

    With a ``fingerprint`` those of another base are left out.
    """
    library = sorted(path for path in (workspace / FOLDER).glob("*") if _is_one(path))
    found = [_shelved(path.name, path) for path in library]
    found += [_shelved(run.id, run.adapter) for run in registry.all_runs(workspace) if _is_one(run.adapter)]
    return [one for one in found if not fingerprint or one.fingerprint in ("", fingerprint)]


def find(workspace: Path, named: str) -> Shelved:
    """The adapter meant by ``named``: its name, a unique part of it, ``last`` for that of the newest run, or a folder.

    Raises ``InputError`` where there is none.
    """
    for folder in (workspace / named, workspace / named / "adapter") if named else ():
        if _is_one(folder):
            return _shelved(named, folder.resolve())
    known = adapters(workspace)
    if named == "last":
        known = [one for one in known if one.folder.parent.name != FOLDER][:1]
        exact = known
    else:
        exact = [one for one in known if one.name == named] or [one for one in known if named and named in one.name]
    if len(exact) == 1:
        return exact[0]
    if exact:
        raise InputError(f"{named} could be any of {', '.join(one.name for one in exact[:5])}.", mend="Give more of the name.")
    if not known:
        raise ModelError("There are no adapters here.", mend="Train one with: mlxtune train RECIPE")
    hint = nearest(named, [one.name for one in known])
    raise ModelError(f"There is no adapter {one_line(named, 80)}.", mend=f"Did you mean {hint or known[0].name}?")


def _is_one(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()
    except OSError:  # a name too long to be one
        return False


def _shelved(name: str, folder: Path) -> Shelved:
    try:
        told = read_json(folder / "mlxtune.json") if (folder / "mlxtune.json").is_file() else {}
        made_on = str(read_json(folder / CONFIG).get("model") or "")
        return Shelved(name, folder, _base(str(told.get("base") or ""), made_on), str(told.get("base_fingerprint") or ""))
    except (InputError, AttributeError):
        return Shelved(name, folder, "", "")


def _base(called: str, made_on: str) -> str:
    """What to resolve: an alias or a hub id as it was called, which other machines know too; else the folder it was made on.

    A recipe may call a folder by a path that only means something beside the recipe.
    """
    known = called == bundled.ALIAS or f"models--{called.replace('/', '--')}" in made_on
    if known or not Path(made_on).is_dir():
        return called or made_on
    return made_on
