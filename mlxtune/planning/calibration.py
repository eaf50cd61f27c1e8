"""Measured memory and step time on this machine, from a probe (stored in ``calibration.json``) or from a past run.

Memory is stored as the ratio of measured to estimated bytes and time in seconds per computed position, so that both apply to other
batch sizes. An entry applies to one machine, MLX version, base, and set of settings that change the cost of a token.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home, machine_id, read_json, read_state, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.planning.machine import Machine, computes_natively, installed_version, memory
from mlxtune.planning.workload import BatchShape
from mlxtune.recipe import Recipe
from mlxtune.runs import events, registry

FILE = "calibration.json"
VERSION = 2


@dataclass(frozen=True)
class StepCalibration:
    scale: float  # measured working memory relative to the estimate
    seconds: float  # of a step per computed position, without the layers below the first adapter
    frozen: float  # seconds of these layers per position, unless their outputs are cached
    source: str  # "probe", "bench" or a run ID
    exact: bool = True  # False: other settings were timed, so that only the scale applies
    trace: float = 0.0  # additional seconds of the first compiled step of a shape
    uncompiled: float = 0.0  # seconds of an uncompiled step per position, if a compiled one was measured
    batch: str = ""  # batch_key() of the batch that was probed
    busy: bool = False  # other programs used the machine, too, so that the time is too long


def batch_key(recipe: Recipe, batch: BatchShape) -> str:
    """Return a key that identifies what a step of ``recipe`` on ``batch`` computes."""
    return sha256_json([recipe.method.kind, recipe.adapter.rank, asdict(batch)])


def find(recipe: Recipe, fingerprint: str, machine: Machine, *, checkpointed: bool) -> StepCalibration | None:
    """Return the probe result for this kind of step, or else, for memory only, for another kind of step on the same base."""
    entries = _read_entries()
    exact = entries.get(_key(recipe, fingerprint, machine, checkpointed))
    if exact:
        return StepCalibration(**exact["calibration"])
    key = _machine_key(recipe, fingerprint, machine)
    similar = [entry for entry in entries.values() if entry["here"] == key and entry["checkpointed"] == checkpointed]
    if not similar:
        return None
    newest = max(similar, key=lambda entry: float(entry["measured"]))
    return StepCalibration(newest["calibration"]["scale"], 0.0, 0.0, "probe", exact=False)


def store(recipe: Recipe, fingerprint: str, machine: Machine, calibration: StepCalibration, *, checkpointed: bool) -> None:
    """Store the result of a probe. Raises ``MachineError`` when the disk is full or read-only."""
    entry = {
        "here": _machine_key(recipe, fingerprint, machine), "base": recipe.model.base, "chip": machine.chip,
        "mlx": installed_version("mlx"), "checkpointed": checkpointed, "measured": time.time(), "calibration": asdict(calibration),
    }  # fmt: skip
    entries = _read_entries() | {_key(recipe, fingerprint, machine, checkpointed): entry}
    write_json(home() / FILE, {"v": VERSION, "entries": entries})


def from_past_run(workspace: Path, recipe: Recipe) -> StepCalibration | None:
    """Return the speed of the newest run in ``workspace`` with this machine, base and settings. It includes no memory measurement."""
    for run in registry.list_runs(workspace):
        try:
            launch = read_json(run.folder / registry.LAUNCH_FILE)
            is_here = isinstance(launch, dict) and launch.get("machine") == machine_id()
            comparable = is_here and _settings(run.recipe()) == _settings(recipe)
        except MlxtuneError:
            continue
        if not comparable:
            continue
        steps = [event for event in events.read_all(run.folder) if event["type"] == "step" and event.get("computed")][1:]
        computed = sum(event["computed"] for event in steps)
        if computed:
            seconds = sum(event["tokens"] / event["speed"] for event in steps)
            return StepCalibration(1.0, seconds / computed, 0.0, run.id)
    return None


def _read_entries() -> dict[str, dict[str, Any]]:
    entries = read_state(home() / FILE, VERSION).get("entries")  # an unreadable calibration is measured again
    return entries if isinstance(entries, dict) else {}


def _machine_key(recipe: Recipe, fingerprint: str, machine: Machine) -> str:
    return sha256_json([*machine_facts(machine), fingerprint, recipe.model.quantize])


def machine_facts(machine: Machine) -> list[Any]:
    """Return the facts about ``machine`` that a measurement depends on."""
    native_cpu = ["native"] if machine.backend == "cpu" and computes_natively(machine.backend) else []
    return [machine.chip, machine.cores, memory().total, installed_version("mlx"), *native_cpu]


def _key(recipe: Recipe, fingerprint: str, machine: Machine, checkpointed: bool) -> str:
    return sha256_json([_machine_key(recipe, fingerprint, machine), _settings(recipe), checkpointed])


def _settings(recipe: Recipe) -> list[Any]:
    """Return the settings that change the cost of a token, except batch and rank."""
    adapter = {name: value for name, value in asdict(recipe.adapter).items() if name in ("kind", "layers", "targets")}
    return [recipe.path(recipe.model.base).name, recipe.model.quantize, adapter, bool(recipe.adapter.dropout)]
