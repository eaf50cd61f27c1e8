"""What this machine was measured to need and to take: by a probe, kept in ``calibration.json``, or by a run that was recorded.

Memory is kept as the factor between what was measured and what shapes predict, time in seconds for each position computed, so that
both serve other batch sizes. An entry holds for one machine, one MLX, one base, and the settings that change what a token costs.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.planning.machine import Machine, memory, version
from mlxtune.recipe import Recipe
from mlxtune.runs import events, registry

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """``scale``: working memory measured, over the estimate. ``seconds``: of a step, for each position it computes, without what the
    layers below the first adapter take; that is ``frozen``, and comes to it where no cache keeps their outputs.

    ``source`` is "probe" or the id of a run; ``exact`` is False where only ``scale`` may be relied on, since time is of other settings.
    """

    scale: float
    seconds: float
    frozen: float
    source: str
    exact: bool = True


def find(recipe: Recipe, fingerprint: str, machine: Machine, *, checkpointed: bool) -> Calibration | None:
    """What a probe measured for this recipe's kind of step, else, for memory alone, for another step on the same base."""
    entries = _entries()
    exact = entries.get(_key(recipe, fingerprint, machine, checkpointed))
    if exact:
        return Calibration(exact["scale"], exact["seconds"], exact["frozen"], "probe")
    here = _here(recipe, fingerprint, machine)
    near = [entry for entry in entries.values() if entry["here"] == here and entry["checkpointed"] == checkpointed]
    if not near:
        return None
    newest = max(near, key=lambda entry: float(entry["measured"]))
    return Calibration(newest["scale"], 0.0, 0.0, "probe", exact=False)


def keep(
    recipe: Recipe, fingerprint: str, machine: Machine, found: Calibration, *, checkpointed: bool
) -> None:  # fmt: skip
    """Remember a probe. Raises ``MachineError`` when the disk is full or read-only."""
    entry = {
        "here": _here(recipe, fingerprint, machine), "base": recipe.model.base, "chip": machine.chip, "mlx": version("mlx"),
        "checkpointed": checkpointed, "measured": time.time(),
        "scale": found.scale, "seconds": found.seconds, "frozen": found.frozen,
    }  # fmt: skip
    entries = _entries() | {_key(recipe, fingerprint, machine, checkpointed): entry}
    write_json(home() / FILE, {"v": 1, "entries": entries})


def recorded(workspace: Path, recipe: Recipe) -> Calibration | None:
    """The pace of the newest run in ``workspace`` that trained this base in this way on this machine; it says nothing of memory."""
    for run in registry.all_runs(workspace):
        try:
            launched = json.loads((run.folder / "launch.json").read_text(encoding="utf-8"))
            same = launched.get("host") == socket.gethostname() and _kind(run.recipe()) == _kind(recipe)
        except (OSError, ValueError, MlxtuneError):
            continue
        if not same:
            continue
        steps = [event for event in events.read_all(run.folder) if event["type"] == "step" and event.get("computed")][1:]
        computed = sum(event["computed"] for event in steps)
        if computed:
            seconds = sum(event["tokens"] / event["speed"] for event in steps)
            return Calibration(1.0, seconds / computed, 0.0, run.id)
    return None


def _entries() -> dict[str, dict[str, Any]]:
    try:
        found: dict[str, dict[str, Any]] = json.loads((home() / FILE).read_text(encoding="utf-8"))["entries"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # a calibration that cannot be read is one that has to be measured again
    return found


def _here(recipe: Recipe, fingerprint: str, machine: Machine) -> str:
    """Identifies machine, MLX and base."""
    return sha256_json([machine.chip, machine.cores, memory().total, version("mlx"), fingerprint, recipe.model.quantize])


def _key(recipe: Recipe, fingerprint: str, machine: Machine, checkpointed: bool) -> str:
    return sha256_json([_here(recipe, fingerprint, machine), _kind(recipe), checkpointed])


def _kind(recipe: Recipe) -> list[Any]:
    """What of a recipe changes the cost of a token, batch and rank aside."""
    adapter = {name: value for name, value in asdict(recipe.adapter).items() if name in ("kind", "layers", "targets")}
    return [recipe.path(recipe.model.base).name, recipe.model.quantize, adapter, bool(recipe.adapter.dropout)]
