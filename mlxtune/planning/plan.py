"""What a recipe will cost on this machine, from shapes and lengths, before anything is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.text import size
from mlxtune.data.split import Split
from mlxtune.planning import ask, calibration, memory, shapes
from mlxtune.planning.calibration import Calibration
from mlxtune.planning.changes import Change, changes
from mlxtune.planning.machine import Machine
from mlxtune.planning.memory import Estimate
from mlxtune.planning.shapes import Shapes
from mlxtune.planning.workload import Lengths, Workload, workload
from mlxtune.recipe import Recipe

Word = Literal["go", "warn", "refuse"]

FORWARD_SHARE = 1 / 3  # of a step's time, for a position that is only run forward: a backward pass is two such


@dataclass(frozen=True)
class Cost:
    """``seconds`` of the whole run, ``None`` while nothing was measured; ``watts`` are what the user says that the machine draws."""

    seconds: float | None
    source: str
    watts: float

    @property
    def kilowatt_hours(self) -> float | None:
        return self.seconds * self.watts / 3.6e6 if self.seconds is not None and self.watts else None


@dataclass(frozen=True)
class Plan:
    """What to expect. ``limit`` is what the machine should give at most, in bytes; ``computed`` and ``trained`` count tokens of the
    whole run, with and without padding and prompts, ``read`` with prompts alone; ``cut`` rows are longer than ``data.max_tokens``.

    ``parameters`` are those of the base; ``asked`` and ``answered`` the tokens of a row's prompt and its answer, the mean over all.
    """

    train: int
    valid: int
    test: int
    steps: int
    epochs: int
    computed: int
    trained: int
    read: int
    longest: int
    cut: int
    prefix: int
    parameters: int
    asked: float
    answered: float
    estimate: Estimate
    limit: int
    calibrated: bool
    cost: Cost
    changes: tuple[Change, ...]

    @property
    def memory(self) -> int:
        """Bytes that the process will need at its worst moment."""
        return self.estimate.total

    @property
    def word(self) -> Word:
        """``go`` with a margin, ``warn`` without, ``refuse`` where it does not fit."""
        return word(self.memory, self.limit, calibrated=self.calibrated)

    @property
    def sentence(self) -> str:
        """What the plan means."""
        need = f"{size(self.memory)} of {size(self.limit)}"
        if self.word == "refuse":
            measured = [change for change in self.changes if change.settings]
            if not measured:
                return f"This does not fit: {need}."
            what = " and ".join(measured[0].settings) if len(measured) == 1 else f"{len(measured)} changes"
            verb = "brings" if len(measured) == 1 else "bring"
            return f"This does not fit: {need}. {what} {verb} it to {size(measured[-1].peak)}."
        if self.word == "warn":
            smaller = "" if self.estimate.before else ", or make the batch smaller"
            return f"This is tight: {need}. Close other apps{smaller}."
        return f"This fits: {need}."


def word(need: int, limit: int, *, calibrated: bool = False) -> Word:
    """What ``need`` of ``limit`` bytes means: ``go`` with a margin, ``warn`` without, ``refuse`` where it does not fit."""
    share = need / limit
    return "refuse" if share > 1 else "warn" if share > 1 - margin(calibrated) else "go"


def margin(calibrated: bool) -> float:
    """The share of the limit that should stay free: less where the estimate was measured."""
    return memory.MARGIN / 2 if calibrated else memory.MARGIN


@dataclass(frozen=True)
class Planner:
    """All that is known before a recipe is costed. Asking for the lengths is slow; everything after it is arithmetic."""

    machine: Machine
    shapes: Shapes
    lengths: Lengths
    fingerprint: str = ""

    def decide(self, recipe: Recipe) -> tuple[Workload, bool, bool, Calibration | None]:
        """The run, whether it caches the frozen layers, whether it checkpoints, and what was measured of such a step."""
        work = workload(self.lengths, recipe.training, recipe.data.max_tokens)
        cached = memory.caches(self.shapes, recipe, work, plain=self.lengths.plain)
        wish = recipe.training.grad_checkpoint
        plain = self._measured(recipe, False)
        checkpointed = (
            wish
            if isinstance(wish, bool)
            else memory.wants_checkpoint(
                self.shapes, recipe, work, self.machine, cached=cached, scale=plain.scale if plain else 1.0
            )
        )
        return work, cached, checkpointed, self._measured(recipe, checkpointed)

    def estimate(self, recipe: Recipe) -> Estimate:
        """The worst moment of ``recipe``."""
        work, cached, checkpointed, found = self.decide(recipe)
        scale = found.scale if found else 1.0
        return memory.estimate(self.shapes, recipe, work, self.machine, cached=cached, checkpointed=checkpointed, scale=scale)

    def probe(self, recipe: Recipe) -> Calibration:
        """Run two steps at the worst batch in a process of their own, and remember what they took.

        Raises ``MachineError`` when they did not survive.
        """
        work, cached, checkpointed, _ = self.decide(recipe)
        plain = memory.estimate(self.shapes, recipe, work, self.machine, cached=cached, checkpointed=checkpointed)
        batch = plain.batch
        rows = memory.grouped(batch, work) if cached else 0
        told = ask.steps(recipe, batch, grouped=rows, checkpointed=checkpointed)
        alone = replace(work, kept=rows * batch.width + batch.prefix, shapes=(batch,))
        expected = memory.estimate(self.shapes, recipe, alone, self.machine, cached=cached, checkpointed=checkpointed)
        frozen = told["frozen"] / (rows * batch.width if rows else batch.tokens)
        found = Calibration(
            scale=(told["peak"] - told["rest"]) / (expected.step - expected.rest),
            seconds=max(0.0, told["step"] / batch.tokens - (0.0 if cached else frozen)),
            frozen=frozen,
            source="probe",
        )
        calibration.keep(recipe, self.fingerprint, self.machine, found, checkpointed=checkpointed)
        return found

    def plan(self, recipe: Recipe, shares: Split, *, watts: float = 0.0, workspace: Path | None = None) -> Plan:
        """The whole plan of ``recipe``, whose rows are ``shares``: arithmetic alone. ``workspace`` may hold runs that tell the pace."""
        work, cached, _, found = self.decide(recipe)
        expected = self.estimate(recipe)
        pace = found if found and found.exact else calibration.recorded(workspace, recipe) if workspace else None
        limit = round(self.machine.limit * (1 - margin(bool(found))))
        wrong = expected.total > self.machine.limit
        return Plan(
            len(shares.train), len(shares.valid), len(shares.test), work.steps, work.epochs, work.computed, work.trained, work.read,
            work.longest, self.lengths.cut(recipe.data.max_tokens), self.lengths.prefix, self.shapes.parameters, *self.lengths.call,
            expected, self.machine.limit, bool(found), _cost(recipe, work, pace, watts, cached=cached),
            tuple(changes(recipe, self.lengths, self.shapes, self.estimate, limit)) if wrong else (),
        )  # fmt: skip

    def _measured(self, recipe: Recipe, checkpointed: bool) -> Calibration | None:
        if not self.fingerprint:
            return None
        return calibration.find(recipe, self.fingerprint, self.machine, checkpointed=checkpointed)


def plan(
    recipe: Recipe, shares: Split, folder: Path, config: dict[str, Any], machine: Machine, *, fingerprint: str = "",
    probe: bool = False, watts: float = 0.0, workspace: Path | None = None,
) -> Plan:  # fmt: skip
    """Plan ``recipe``, whose base is in ``folder``, on ``machine``.

    ``fingerprint`` identifies the base, so that what was measured of it is found again; ``probe`` measures now. ``workspace`` may
    hold runs that tell the pace. Raises ``InputError`` for whatever the worker would refuse.
    """
    planner = Planner(machine, shapes.read(folder, config), ask.lengths(recipe), fingerprint)
    if probe:
        planner.probe(recipe)
    return planner.plan(recipe, shares, watts=watts, workspace=workspace)


def _cost(recipe: Recipe, work: Workload, pace: Calibration | None, watts: float, *, cached: bool) -> Cost:
    """Time from ``pace``: every step, the frozen layers for each or once, each validation, and a reference model's pass; samples are
    not counted."""
    if pace is None:
        return Cost(None, "", watts)
    validations = 1 + -(-work.steps // recipe.training.validate_every)
    referred = recipe.method.referred
    forward = validations * work.validated + referred * (work.once + work.validated)
    above = work.computed + forward * FORWARD_SHARE
    below = work.kept if cached else work.computed + forward
    return Cost(pace.seconds * above + pace.frozen * below, pace.source, watts)
