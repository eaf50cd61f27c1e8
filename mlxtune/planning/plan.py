"""Plan a recipe on this machine from shapes and lengths, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlxtune.core.child_process import Progress, StoppableCall
from mlxtune.core.machine_load import busy_load
from mlxtune.core.text import duration, plural, size
from mlxtune.data.split import Splits, sample_rows
from mlxtune.planning import calibration, measurements, memory, shapes
from mlxtune.planning.calibration import StepCalibration
from mlxtune.planning.changes import RecipeChange, suggest_changes
from mlxtune.planning.machine import Machine, computes_natively
from mlxtune.planning.measurements import StepCost
from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.speed import estimate_speed, find_rates, forward_passes_per_step
from mlxtune.planning.workload import DatasetLengths, Workload, workload
from mlxtune.recipe import AUTO, Recipe
from mlxtune.recipe.edit import toml_literal

Outcome = Literal["go", "warn", "refuse"]

MIN_USES = 4  # minimum uses of each shape for which compiling is assumed to pay off, if no probe has measured it

OTHER_PROBE = "other probe"  # of another batch than the largest one of this plan
BUSY_PROBE = "busy probe"  # while other programs used the machine
_SPEED_SOURCES = {
    "probe": "measured by a probe", OTHER_PROBE: "estimated from a probe of another batch", "bench": "estimated from mlxtune bench",
    BUSY_PROBE: "measured by a probe while other programs kept this machine busy",
}  # fmt: skip
MAX_PREFERENCE_RATE = 1e-4  # for preference training, even of small models
_SHOWN_SHARE = 0.1  # of a run's time; parts that take less are not named
_VALIDATIONS = "validations"
_PEAK_MOMENTS = {
    "head": "when the head computes its first logits",
    "backward": "when the topmost layer computes its gradients",
    "bottom": "when the lowest layer computes its gradients",
    "update": "when the optimizer updates the adapter",
    "freezing": "when the frozen layers fill their cache",
}


@dataclass(frozen=True)
class Cost:
    """``seconds`` of the whole run without its sample answers, ``None`` if nothing was measured; ``watts`` as set by the user."""

    seconds: float | None
    source: str
    watts: float
    sample_answers: int = 0
    reference_seconds: float = 0.0  # of them, for the pass of the reference model
    validation_seconds: float = 0.0  # of them, for the validations

    @property
    def time_summary(self) -> str:
        """The time and its source, or an empty string if nothing was measured."""
        if self.seconds is None:
            return ""
        source = _SPEED_SOURCES.get(self.source, f"at the speed of {self.source}")
        samples = f", without {plural(self.sample_answers, 'sample answer')}" if self.sample_answers else ""
        shown = [f"{duration(seconds)} for {name}" for name, seconds in self.long_parts.items()]
        of_it = f" ({', '.join(shown)})" if shown else ""
        return f"about {duration(self.seconds)}{of_it}{samples}, {source}"

    @property
    def long_parts(self) -> dict[str, float]:
        """The seconds of what takes a notable part of the time, other than the steps, by name."""
        parts = {_VALIDATIONS: self.validation_seconds, "the reference model": self.reference_seconds}
        return {name: seconds for name, seconds in parts.items() if seconds >= _SHOWN_SHARE * (self.seconds or 0.0) > 0}


class MemoryPart(NamedTuple):
    """A part of the peak memory."""

    name: str
    nbytes: int
    note: str


@dataclass(frozen=True)
class Plan:
    """The expected memory, time and work of a run.

    ``limit`` is the maximum number of bytes to use. ``computed``, ``trained`` and ``read`` count tokens over the whole run: with
    padding and prompts, without both, and with prompts only. ``cut`` rows are longer than ``data.max_tokens``. ``parameters`` is
    the size of the base; ``traces`` is the number of compiled steps, one per shape of a batch, or 0 if steps are not compiled;
    ``compiles`` says whether this machine compiles steps if that saves time; ``prompt_tokens`` and ``answer_tokens`` are means over
    all rows. ``notes`` say what the chat template changes in the rows; ``thinking``, ``date`` and ``replayed`` are as in
    :class:`DatasetLengths`. ``skipped`` rows are too long for training and are not in ``train`` and ``valid``.
    ``most_evaluated`` is ``evaluation.rows``, the maximum number of held-out rows to use, or 0 for all; ``incomparable`` of these are
    pairs too long for their likelihoods to be compared. ``rate_warning`` says why the learning rate is too high, if it is.
    ``long_answers`` of the rows to evaluate have a longer reference than ``evaluation.max_tokens`` allows. ``less_time`` names the
    recipe's keys that shorten the training and an evaluation.
    """

    train: int
    valid: int
    test: int
    steps: int
    epochs: float
    computed: int
    trained: int
    read: int
    longest: int
    cut: int
    prefix: int
    parameters: int
    traces: int
    compiles: bool
    prompt_tokens: float
    answer_tokens: float
    estimate: MemoryEstimate
    limit: int
    calibrated: bool
    probed: bool
    cost: Cost
    changes: tuple[RecipeChange, ...]
    notes: tuple[str, ...] = ()
    thinking: str = ""
    date: str = ""
    replayed: int = 0
    skipped: int = 0
    most_evaluated: int = 0
    incomparable: int = 0
    rate_warning: str = ""
    long_answers: int = 0
    less_time: str = ""

    @property
    def evaluated(self) -> int:
        """The number of held-out rows that an evaluation uses."""
        return min(self.test, self.most_evaluated or self.test)

    @property
    def compared(self) -> int:
        """The number of held-out rows that a verdict is based on."""
        return self.evaluated - self.incomparable

    @property
    def incomparable_summary(self) -> str:
        """How many pairs are too long to be compared, as text; empty if all can be."""
        return f"{self.incomparable:,} of {plural(self.evaluated, 'pair')} over max_tokens" if self.incomparable else ""

    @property
    def rows_summary(self) -> str:
        """The rows of each split, and the replay rows in addition to the training rows, as text."""
        replayed = f" and {self.replayed:,} replayed" if self.replayed else ""
        evaluated = f" ({self.evaluated:,} evaluated)" if self.evaluated < self.test else ""
        return f"{self.train:,} training rows{replayed}, {self.valid:,} validation, {self.test:,} held out{evaluated}"

    @property
    def long_answers_summary(self) -> str:
        """How many rows have a longer reference than an answer may be, as text; empty if none has."""
        over = f"{self.long_answers:,} of {plural(self.evaluated, 'reference answer')} over evaluation.max_tokens"
        return over if self.long_answers else ""

    @property
    def template_facts(self) -> list[tuple[str, str]]:
        """The thinking mode and the date in the prompts, as names and values, where the template has them."""
        return [(name, value) for name, value in (("thinking", self.thinking), ("date", self.date)) if value]

    @property
    def memory(self) -> int:
        """Peak memory of the process, in bytes."""
        return self.estimate.total

    @property
    def basis(self) -> str:
        """What the estimates are based on, as text."""
        if self.probed:
            return "measured on this machine"
        return "estimated from a probe of another batch" if self.calibrated else "computed, not measured"

    @property
    def outcome(self) -> Outcome:
        """``go`` if memory fits with a margin, ``warn`` if without, ``refuse`` if it does not fit."""
        return outcome_for(self.memory, self.limit, calibrated=self.calibrated)

    @property
    def sentence(self) -> str:
        """The outcome as a sentence for the user."""
        need = f"{size(self.memory)} needed, {size(self.limit)} available"
        if self.outcome == "refuse":
            changes = [change for change in self.changes if change.settings]
            if not changes:
                return f"This does not fit: {need}."
            subject = f"{' and '.join(changes[0].settings)} reduces" if len(changes) == 1 else f"{len(changes)} changes reduce"
            return f"This does not fit: {need}. {subject} it to {size(changes[-1].peak)}."
        if self.outcome == "warn":
            smaller_batch = "" if self.estimate.before else ", or make the batch smaller"
            return f"This is tight: {need}. Close other apps{smaller_batch}."
        return f"This fits: {need}."

    @property
    def peak_moment(self) -> str:
        """The moment of the highest memory use, as text."""
        if self.estimate.before:
            return "while the base is loaded, before the first step"
        return _PEAK_MOMENTS[self.estimate.moment]

    @property
    def largest_batch(self) -> str:
        """The batch that needs the most memory, as text: ``4 rows of 232 tokens after a shared prefix of 159``."""
        batch = self.estimate.batch
        size = f"{plural(batch.rows, 'pair' if batch.sides else 'row')} of {batch.width:,} tokens"
        both = " with both answers" if batch.sides else ""
        return f"{size}{both}" + (f" after a shared prefix of {batch.prefix:,}" if batch.prefix else "")

    @property
    def memory_parts(self) -> list[MemoryPart]:
        """The parts of the peak memory, omitting those that this run does not have. They add up to ``memory``."""
        one = self.estimate
        saved = "layer inputs, and one recomputed layer" if one.checkpointed else "saved for the backward pass"
        parts = [
            MemoryPart("weights", one.weights, ""),
            MemoryPart("adapter", one.adapter, ""),
            MemoryPart("optimizer", one.optimizer, ""),
            MemoryPart("gradients", one.gradients, "" if one.gradients else "not allocated yet at the peak"),
            MemoryPart("activations", one.activations, saved),
            MemoryPart("head", one.head, ""),
            MemoryPart("frozen layers", one.frozen, "the cache of their outputs"),
            MemoryPart("free buffers", one.buffers, "kept by MLX"),
            MemoryPart("process", one.process, "Python and libraries" + (", and compiled steps" if self.traces else "")),
            MemoryPart("loading", one.before, "extra memory before the first step, to convert the weights"),
        ]
        return [part for part in parts if part.nbytes or part.name == "gradients"]

    @property
    def compile_summary(self) -> str:
        """The number of compiled steps, as text; empty if this machine does not compile steps."""
        if self.traces:
            return f"{plural(self.traces, 'step')}, one per batch shape"
        return "off: too few steps to benefit" if self.compiles else ""

    @property
    def token_summary(self) -> str:
        """Trained and computed tokens, and the longest row, as text."""
        share = f"{100 * self.trained / max(1, self.computed):.0f}% of {self.computed:,} computed"
        return f"{self.trained:,} trained, {share}; longest row {self.longest:,}"


def outcome_for(need: int, limit: int, *, calibrated: bool = False) -> Outcome:
    """Return ``go`` if ``need`` fits in ``limit`` bytes with a margin, ``warn`` if without, ``refuse`` if it does not fit."""
    share = need / limit
    return "refuse" if share > 1 else "warn" if share > 1 - margin(calibrated) else "go"


def margin(calibrated: bool) -> float:
    """Return the fraction of the limit that should stay free: less if the estimate was measured."""
    return memory.MARGIN / 2 if calibrated else memory.MARGIN


class StepDecisions(NamedTuple):
    """A run's work, whether it caches the frozen layers and checkpoints gradients, and a measurement of such a step.

    The work has ``traces`` if steps are compiled.
    """

    work: Workload
    cached: bool
    checkpointed: bool
    calibration: StepCalibration | None


@dataclass(frozen=True)
class Planner:
    """All inputs for planning a recipe. Measuring the row lengths is slow; the rest is arithmetic."""

    machine: Machine
    shapes: ModelShapes
    lengths: DatasetLengths
    fingerprint: str = ""

    def decisions(self, recipe: Recipe) -> StepDecisions:
        """Decide the settings that ``recipe`` leaves to the planner."""
        compiled = computes_natively(self.machine.backend)
        work = self._workload(recipe, compiled=compiled)
        cached = memory.uses_frozen_cache(self.shapes, recipe, work, plain=self.lengths.full_attention)
        checkpointed = recipe.training.grad_checkpoint
        if not isinstance(checkpointed, bool):
            plain = self._calibration(recipe, False)
            scale = plain.scale if plain else 1.0
            checkpointed = memory.needs_checkpointing(self.shapes, recipe, work, self.machine, cached=cached, scale=scale)
        checkpointed = checkpointed and self.shapes.can_checkpoint
        calibration = self._calibration(recipe, checkpointed)
        if compiled and not compiling_pays(work, calibration):
            work = self._workload(recipe, compiled=False)
            calibration = calibration and replace(calibration, seconds=calibration.uncompiled or calibration.seconds)
        return StepDecisions(work, cached, checkpointed, calibration)

    def _workload(self, recipe: Recipe, *, compiled: bool) -> Workload:
        streams = min(memory.MAX_STREAMS, self.machine.cores) if self.machine.backend == "cpu" else 1
        return workload(self.lengths, recipe.training, recipe.data.max_tokens, compiled=compiled, streams=streams)

    def estimate(self, recipe: Recipe) -> MemoryEstimate:
        """Estimate the peak memory of ``recipe``."""
        decisions = self.decisions(recipe)
        return self._estimate(recipe, decisions, scale=decisions.calibration.scale if decisions.calibration else 1.0)

    def probe(
        self,
        recipe: Recipe,
        progress: Progress = lambda what, share: None,
        on_start: Callable[[StoppableCall], None] = lambda process: None,
    ) -> StepCalibration | None:
        """Run two steps on the largest batch in a child process, and store the result. Raises ``MachineError`` if it dies.

        ``on_start`` is called with the process. If that is stopped, nothing is stored, and the result is ``None``.
        """
        decisions = self.decisions(recipe)
        work, cached, checkpointed, _ = decisions
        batch = self._estimate(recipe, decisions).batch
        rows = memory.frozen_group_rows(batch, work) if cached else 0
        process = measurements.start_steps(recipe, batch, grouped=rows, checkpointed=checkpointed)
        on_start(process)
        cost: StepCost | None = process.result(progress)
        if cost is None:
            return None
        probed = replace(work, cached_positions=rows * batch.width + batch.prefix, batches=(batch,))
        expected = self._estimate(recipe, decisions._replace(work=probed))
        frozen = cost["frozen"] / (rows * batch.width if rows else batch.tokens)
        measured = StepCalibration(
            scale=(cost["peak"] - cost["rest"]) / (expected.step - expected.rest),
            seconds=max(0.0, cost["step"] / batch.tokens - (0.0 if cached else frozen)),
            frozen=frozen,
            source="probe",
            trace=cost["trace"],
            uncompiled=max(0.0, cost["uncompiled"] / batch.tokens - (0.0 if cached else frozen)),
            batch=calibration.batch_key(recipe, batch),
            busy=busy_load() > 0,
        )
        calibration.store(recipe, self.fingerprint, self.machine, measured, checkpointed=checkpointed)
        return measured

    def plan(self, recipe: Recipe, splits: Splits, *, watts: float = 0.0, workspace: Path | None = None) -> Plan:
        """Plan ``recipe`` with the rows of ``splits``.

        Without a probe of the largest batch, the speed is taken from past runs in ``workspace``, from a probe of another batch, or
        estimated from a benchmark of this machine.
        """
        work, cached, checkpointed, measured = self.decisions(recipe)
        estimate = self.estimate(recipe)
        probed = measured is not None and measured.batch == calibration.batch_key(recipe, estimate.batch)
        speed = measured if measured and measured.exact else None
        if workspace and not (speed and probed and not speed.busy):
            speed = calibration.from_past_run(workspace, recipe) or speed
        if speed is None:
            share = work.trained / max(1, work.computed)
            rates = find_rates(self.machine)
            speed = estimate_speed(rates, self.shapes, recipe.adapter, share, checkpointed=checkpointed)
        if speed is not None and speed is measured and (not probed or speed.busy):
            speed = replace(speed, source=BUSY_PROBE if probed else OTHER_PROBE)
        changes: list[RecipeChange] = []
        if estimate.total > self.machine.limit:
            limit = round(self.machine.limit * (1 - margin(bool(measured))))
            changes = suggest_changes(recipe, self.lengths, self.shapes, self.estimate, limit)
        prompt_tokens, answer_tokens = self.lengths.mean_prompt_and_answer
        incomparable, most = frozenset(self.lengths.incomparable), recipe.evaluation.max_tokens
        evaluated = {row.hash for row in sample_rows(splits.test, recipe.evaluation.rows)}
        cost = _cost(recipe, work, speed, watts, cached=cached, checkpointed=checkpointed)
        return Plan(
            train=len(splits.train) - self.lengths.skipped[0],
            valid=len(splits.valid) - self.lengths.skipped[1],
            test=len(splits.test),
            steps=work.steps,
            epochs=work.epochs,
            computed=work.computed,
            trained=work.trained,
            read=work.tokens_read,
            longest=work.longest,
            cut=self.lengths.count_truncated(recipe.data.max_tokens),
            prefix=self.lengths.prefix,
            parameters=self.shapes.parameters,
            traces=work.traces,
            compiles=computes_natively(self.machine.backend),
            prompt_tokens=prompt_tokens,
            answer_tokens=answer_tokens,
            estimate=estimate,
            limit=self.machine.limit,
            calibrated=bool(measured),
            probed=probed,
            cost=cost,
            changes=tuple(changes),
            notes=self.lengths.notes,
            thinking=self.lengths.thinking,
            date=self.lengths.date,
            replayed=self.lengths.replayed,
            skipped=sum(self.lengths.skipped),
            most_evaluated=recipe.evaluation.rows,
            incomparable=len(incomparable & evaluated),
            rate_warning=rate_warning(recipe),
            long_answers=0 if most == AUTO else sum(count > most for hash, count in self.lengths.references if hash in evaluated),
            less_time=_less_time(recipe, cost),
        )

    def _estimate(self, recipe: Recipe, decisions: StepDecisions, scale: float = 1.0) -> MemoryEstimate:
        work, cached, checkpointed, _ = decisions
        return memory.estimate(self.shapes, recipe, work, self.machine, cached=cached, checkpointed=checkpointed, scale=scale)

    def _calibration(self, recipe: Recipe, checkpointed: bool) -> StepCalibration | None:
        if not self.fingerprint:
            return None
        return calibration.find(recipe, self.fingerprint, self.machine, checkpointed=checkpointed)


def compiling_pays(work: Workload, measured: StepCalibration | None) -> bool:
    """Return whether compiling the steps of ``work`` saves more time than tracing its shapes takes.

    Without a measurement, it is assumed to do so if each shape is used a few times.
    """
    if measured and measured.uncompiled:
        return work.traces * measured.trace < work.computed * (measured.uncompiled - measured.seconds)
    return work.batch_count >= MIN_USES * work.traces


def local_planner(recipe: Recipe, folder: Path, config: dict[str, Any], machine: Machine, fingerprint: str = "") -> Planner:
    """Return a planner for ``recipe`` with the base in ``folder``. ``fingerprint`` is the key for stored measurements of the base.

    Raises ``InputError`` for anything that the worker would reject.
    """
    return Planner(machine, shapes.read_shapes(folder, config), measurements.row_lengths(recipe), fingerprint)


def rate_warning(recipe: Recipe) -> str:
    """Return a warning if preference training has a learning rate for SFT, at which it spoils the answers."""
    rate = recipe.training.learning_rate
    if recipe.method.kind == "sft" or rate <= MAX_PREFERENCE_RATE:
        return ""
    return f"{toml_literal(rate)} suits SFT; preference training needs about 1/20 of the rate, or its answers get worse"


def _less_time(recipe: Recipe, cost: Cost) -> str:
    """Return the keys that shorten the training and an evaluation, as text."""
    keys = ["training.steps"]
    keys += ["data.validation"] if _VALIDATIONS in cost.long_parts else []
    keys += ["training.samples"] if cost.sample_answers else []
    evaluation = ["evaluation.rows", "evaluation.max_tokens", *(["evaluation.regression"] if recipe.evaluation.regression else [])]
    return f"set {', '.join(keys)}; to evaluate, {', '.join(evaluation)}"


def _cost(
    recipe: Recipe, work: Workload, speed: StepCalibration | None, watts: float, *, cached: bool, checkpointed: bool
) -> Cost:  # fmt: skip
    """Compute the time of all steps, validations and the reference pass. Generating sample answers is not included.

    The frozen layers run once if their outputs are cached, and otherwise every time.
    """
    if speed is None:
        return Cost(None, "", watts)
    validations = 1 + -(-work.steps // recipe.training.validate_every)
    reference = 0.0
    if recipe.method.needs_reference:
        reached = 1 if recipe.method.pairs == "wrong" else min(1, work.epochs)
        reference = reached * work.positions_per_epoch + work.validation_positions
    validation = validations * (work.validation_positions + work.kl_positions)
    forward = validation + reference
    share = 1 / forward_passes_per_step(checkpointed=checkpointed)
    above = work.computed + forward * share
    below = work.cached_positions if cached else work.computed + forward
    seconds = speed.seconds * above + speed.frozen * below + speed.trace * work.traces
    forward_seconds = speed.seconds * share + (0.0 if cached else speed.frozen)  # per position
    parts = reference * forward_seconds, validation * forward_seconds
    return Cost(seconds, speed.source, watts, validations * recipe.training.samples, *parts)
