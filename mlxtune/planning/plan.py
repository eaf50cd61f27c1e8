"""Plan a recipe on this machine from shapes and lengths, before anything is loaded."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from mlxtune.core.child_process import Progress, StoppableCall, quiet
from mlxtune.core.machine_load import busy_load
from mlxtune.data.free_rates import FreeRates
from mlxtune.data.split import Splits, sample_rows
from mlxtune.planning import calibration, measurements, memory, shapes
from mlxtune.planning.calibration import StepCalibration
from mlxtune.planning.changes import MemoryChange, suggest_changes
from mlxtune.planning.machine import Machine, computes_natively
from mlxtune.planning.measurements import StepCost
from mlxtune.planning.memory import MemoryEstimate
from mlxtune.planning.shapes import ModelShapes
from mlxtune.planning.speed import estimate_speed, find_rates, forward_passes_per_step
from mlxtune.planning.training_rule import apply_rule, example_count, training_rule
from mlxtune.planning.workload import DatasetLengths, Workload, workload
from mlxtune.recipe import AUTO, Recipe

Outcome = Literal["go", "warn", "refuse"]
Basis = Literal["measured", "other_probe", "computed"]
LongPart = Literal["validations", "reference"]
MemoryPart = Literal[
    "weights", "adapter", "optimizer", "gradients", "activations", "head", "frozen", "buffers", "process", "loading"
]

MIN_USES = 4  # minimum uses of each shape for which compiling is assumed to pay off, if no probe has measured it

# Sources of a speed. Others are "probe", "bench", and the name of a past run.
OTHER_PROBE = "other_probe"  # of another batch than the largest one of this plan
BUSY_PROBE = "busy_probe"  # while other programs used the machine
MAX_PREFERENCE_RATE = 1e-4  # for preference training, even of small models
_SHOWN_SHARE = 0.1  # of a run's time; parts that take less are not named


@dataclass(frozen=True)
class Cost:
    seconds: float | None  # of the whole run without its sample answers; None if nothing was measured
    source: str  # what the time is based on: a code, or the name of a past run
    watts: float  # the power draw as set by the user
    sample_answers: int = 0
    reference_seconds: float = 0.0  # the part of the time for the pass of the reference model
    validation_seconds: float = 0.0  # the part of the time for the validations

    @property
    def long_parts(self) -> dict[LongPart, float]:
        """The seconds of what takes a notable part of the time, other than the steps."""
        parts: dict[LongPart, float] = {"validations": self.validation_seconds, "reference": self.reference_seconds}
        return {name: seconds for name, seconds in parts.items() if seconds >= _SHOWN_SHARE * (self.seconds or 0.0) > 0}


@dataclass(frozen=True)
class Plan:
    train: int  # training rows, without those that are too long
    valid: int
    test: int
    steps: int
    epochs: float
    computed: int  # tokens over the whole run, with padding and prompts
    trained: int  # tokens over the whole run, without padding and prompts
    read: int  # tokens over the whole run, with prompts
    longest: int  # tokens of the longest row
    truncated: int  # rows longer than data.max_tokens
    prefix: int  # tokens that all rows share
    parameters: int  # the size of the base
    traces: int  # compiled steps, one per shape of a batch; 0 if steps are not compiled
    compiles: bool  # whether this machine compiles steps if that saves time
    prompt_tokens: float  # the mean over all rows
    answer_tokens: float  # the mean over all rows
    estimate: MemoryEstimate
    limit: int  # the maximum number of bytes to use
    calibrated: bool  # whether a probe of any batch corrects the memory
    probed: bool  # whether a probe of the largest batch measured the memory
    cost: Cost
    changes: tuple[MemoryChange, ...]
    notes: tuple[str, ...] = ()  # what the chat template changes in the rows
    thinking: str = ""  # the thinking mode, if the template has one
    date: str = ""  # the date in the prompts, if the template prints one
    replayed: int = 0  # rows of replay in addition to the training rows
    examples: int = 0  # of training and validation: a long text becomes several, and so do some conversations
    skipped: int = 0  # rows too long for training, which are not in train and valid
    most_evaluated: int = 0  # evaluation.rows, the maximum number of held-out rows to use; 0 for all
    incomparable: int = 0  # evaluated pairs that are too long for their likelihoods to be compared
    learning_rate: float = 0.0
    usual_updates: tuple[int, int] = (0, 0)  # the least and most steps that the rule recommends for so many rows
    high_rate: float = 0.0  # the learning rate, if it is too high for preference training
    long_answers: int = 0  # evaluated rows whose reference is longer than evaluation.max_tokens
    reserved: int = 0  # of the held-out rows, those that only the last look evaluates
    looks: int = 0  # earlier evaluations of adapters on the held-out rows
    contest: tuple[int, int] = (1, 1)  # the numbers of baselines and of tuned arms that a verdict compares
    free: FreeRates | None = None  # how far answers get that cost nothing
    bits: int = 0  # of the weights as saved; 0 if they are not quantized
    time_keys: tuple[str, ...] = ()  # the recipe's keys that shorten the training and an evaluation

    @property
    def evaluated(self) -> int:
        """The number of held-out rows that an evaluation uses."""
        return min(self.test - self.reserved, self.most_evaluated or self.test)

    @property
    def unusual_updates(self) -> bool:
        """Whether the run has fewer or more steps than the rule recommends."""
        least, most = self.usual_updates
        return bool(most) and not least <= self.steps <= most

    @property
    def compared(self) -> int:
        """The number of held-out rows that a verdict is based on."""
        return self.evaluated - self.incomparable

    @property
    def memory(self) -> int:
        """Peak memory of the process, in bytes."""
        return self.estimate.total

    @property
    def basis(self) -> Basis:
        return "measured" if self.probed else "other_probe" if self.calibrated else "computed"

    @property
    def outcome(self) -> Outcome:
        """``go`` if memory fits with a margin, ``warn`` if without, ``refuse`` if it does not fit."""
        return outcome_for(self.memory, self.limit, calibrated=self.calibrated)

    @property
    def memory_parts(self) -> dict[MemoryPart, int]:
        """The parts of the peak memory in bytes, omitting those that this run does not have. They add up to ``memory``."""
        parts = {part: getattr(self.estimate, "before" if part == "loading" else part) for part in get_args(MemoryPart)}
        return {part: nbytes for part, nbytes in parts.items() if nbytes or part == "gradients"}


@dataclass(frozen=True)
class PlannedRecipe:
    """A recipe and its plan. Unless the base is ``local``, shapes come from the catalog and tokens from another tokenizer."""

    recipe: Recipe
    complete: Recipe  # with its parent's settings, and the rule's for those that it leaves open
    plan: Plan
    local: bool


def outcome_for(need: int, limit: int, *, calibrated: bool = False) -> Outcome:
    """Return ``go`` if ``need`` fits in ``limit`` bytes with a margin, ``warn`` if without, ``refuse`` if it does not fit."""
    share = need / limit
    return "refuse" if share > 1 else "warn" if share > 1 - margin(calibrated) else "go"


def margin(calibrated: bool) -> float:
    """Return the fraction of the limit that should stay free: less if the estimate was measured."""
    return memory.MARGIN / 2 if calibrated else memory.MARGIN


class StepDecisions(NamedTuple):
    work: Workload  # with traces if steps are compiled
    cached: bool  # the outputs of the frozen layers
    checkpointed: bool
    calibration: StepCalibration | None  # of such a step
    segment: int = 0  # tokens of a long row that are computed at a time; 0 for whole rows


@dataclass(frozen=True)
class Planner:
    """All inputs for planning a recipe. Measuring the row lengths is slow; the rest is arithmetic."""

    machine: Machine
    shapes: ModelShapes
    lengths: DatasetLengths
    fingerprint: str = ""

    def complete(self, recipe: Recipe, splits: Splits) -> Recipe:
        return apply_rule(recipe, self.shapes.width, example_count(splits.train, recipe.data.max_tokens))

    def decisions(self, recipe: Recipe) -> StepDecisions:
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
        segment = 0
        if checkpointed and recipe.method.kind == "sft" and self.lengths.full_attention:
            scale = calibration.scale if calibration else 1.0
            segment = memory.needed_segment(self.shapes, recipe, work, self.machine, scale=scale)
        return StepDecisions(work, cached and not segment, checkpointed, calibration, segment)

    def _workload(self, recipe: Recipe, *, compiled: bool) -> Workload:
        streams = min(memory.MAX_STREAMS, self.machine.cores) if self.machine.backend == "cpu" else 1
        return workload(self.lengths, recipe.training, recipe.data.max_tokens, compiled=compiled, streams=streams)

    def estimate(self, recipe: Recipe) -> MemoryEstimate:
        decisions = self.decisions(recipe)
        return self._estimate(recipe, decisions, scale=decisions.calibration.scale if decisions.calibration else 1.0)

    def probe(
        self, recipe: Recipe, progress: Progress = quiet, on_start: Callable[[StoppableCall[StepCost]], None] = lambda process: None
    ) -> StepCalibration | None:  # fmt: skip
        """Run two steps on the largest batch in a child process, and store the result. Raises ``MachineError`` if it dies.

        ``on_start`` is called with the process. If that is stopped, nothing is stored, and the result is ``None``.
        """
        decisions = self.decisions(recipe)
        batch = replace(self._estimate(recipe, decisions).batch, earlier=0)  # of a long row, one segment
        work, cached, checkpointed, *_ = decisions = decisions._replace(segment=0)
        rows = memory.frozen_group_rows(batch, work) if cached else 0
        process = measurements.start_steps(recipe, batch, grouped=rows, checkpointed=checkpointed)
        on_start(process)
        cost = process.result(progress)
        if cost is None:
            return None
        probed = replace(work, cached_positions=rows * batch.width + batch.prefix, batches=(batch,))
        expected = self._estimate(recipe, decisions._replace(work=probed))
        frozen = cost["frozen"] / (rows * batch.width if rows else batch.tokens)
        measured = StepCalibration(
            scale=(cost["peak"] - cost["rest"]) / (expected.step - expected.rest),
            seconds=max(0.0, cost["step"] / batch.tokens - (0.0 if cached else frozen)), frozen=frozen, source="probe",
            trace=cost["trace"], uncompiled=max(0.0, cost["uncompiled"] / batch.tokens - (0.0 if cached else frozen)),
            batch=calibration.batch_key(recipe, batch), busy=busy_load() > 0,
        )  # fmt: skip
        calibration.store(recipe, self.fingerprint, self.machine, measured, checkpointed=checkpointed)
        return measured

    def plan(self, recipe: Recipe, splits: Splits, *, watts: float = 0.0, workspace: Path | None = None) -> Plan:
        """Plan ``recipe``, which is complete, with the rows of ``splits``. Past runs in ``workspace`` may tell the speed."""
        work, cached, checkpointed, measured, _ = decisions = self.decisions(recipe)
        estimate = self.estimate(recipe)
        probed = measured is not None and measured.batch == calibration.batch_key(recipe, estimate.batch)
        speed = self._speed(recipe, decisions, probed, workspace)
        changes: list[MemoryChange] = []
        if estimate.total > self.machine.limit:
            limit = round(self.machine.limit * (1 - margin(bool(measured))))
            changes = suggest_changes(recipe, self.lengths, self.shapes, self.estimate, limit)
        prompt_tokens, answer_tokens = self.lengths.mean_prompt_and_answer
        incomparable, most = frozenset(self.lengths.incomparable), recipe.evaluation.max_tokens
        evaluated = {row.hash for row in sample_rows(splits.evaluated, recipe.evaluation.rows)}
        cost = _cost(recipe, work, speed, watts, cached=cached, checkpointed=checkpointed)
        rule = training_rule(recipe.method.kind, self.shapes.width, example_count(splits.train, recipe.data.max_tokens))
        return Plan(
            train=len(splits.train) - self.lengths.skipped[0], valid=len(splits.valid) - self.lengths.skipped[1],
            test=len(splits.test), reserved=len(splits.reserved), steps=work.steps, epochs=work.epochs, computed=work.computed,
            trained=work.trained, read=work.tokens_read, longest=work.longest,
            truncated=self.lengths.count_truncated(recipe.data.max_tokens), prefix=self.lengths.prefix,
            bits=self.shapes.bits, parameters=self.shapes.parameters, traces=work.traces, compiles=computes_natively(self.machine.backend),
            prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, estimate=estimate, limit=self.machine.limit,
            calibrated=bool(measured), probed=probed, cost=cost, changes=tuple(changes), notes=self.lengths.notes,
            thinking=self.lengths.thinking, date=self.lengths.date, replayed=self.lengths.replayed,
            skipped=sum(self.lengths.skipped), most_evaluated=recipe.evaluation.rows, incomparable=len(incomparable & evaluated),
            learning_rate=recipe.training.learning_rate, usual_updates=(rule.least, rule.most), high_rate=high_rate(recipe),
            long_answers=0 if most == AUTO else sum(count > most for hash, count in self.lengths.references if hash in evaluated),
            time_keys=_time_keys(recipe, cost), examples=len(self.lengths.train) + len(self.lengths.valid) - self.lengths.replayed,
        )  # fmt: skip

    def _speed(self, recipe: Recipe, decisions: StepDecisions, probed: bool, workspace: Path | None) -> StepCalibration | None:
        """Return the time of a step: from a probe of the largest batch, or else a past run, another probe, or a benchmark."""
        work, _, checkpointed, measured, _ = decisions
        speed = measured if measured and measured.exact else None
        if workspace and not (speed and probed and not speed.busy):
            speed = calibration.from_past_run(workspace, recipe) or speed
        if speed is None:
            share = work.trained / max(1, work.computed)
            rates = find_rates(self.machine)
            speed = estimate_speed(rates, self.shapes, recipe.adapter, share, checkpointed=checkpointed)
        if speed is not None and speed is measured and (not probed or speed.busy):
            speed = replace(speed, source=BUSY_PROBE if probed else OTHER_PROBE)
        return speed

    def _estimate(self, recipe: Recipe, decisions: StepDecisions, scale: float = 1.0) -> MemoryEstimate:
        work, cached, checkpointed, _, segment = decisions
        return memory.estimate(
            self.shapes, recipe, work, self.machine, cached=cached, checkpointed=checkpointed, scale=scale, segment=segment
        )

    def _calibration(self, recipe: Recipe, checkpointed: bool) -> StepCalibration | None:
        if not self.fingerprint:
            return None
        return calibration.find(recipe, self.fingerprint, self.machine, checkpointed=checkpointed)


def compiling_pays(work: Workload, measured: StepCalibration | None) -> bool:
    """Return whether compiled steps save more time than tracing takes; if unmeasured, whether each shape is used a few times."""
    if measured and measured.uncompiled:
        return work.traces * measured.trace < work.computed * (measured.uncompiled - measured.seconds)
    return work.batch_count >= MIN_USES * work.traces


def local_planner(recipe: Recipe, folder: Path, config: dict[str, Any], machine: Machine, fingerprint: str = "") -> Planner:
    """Return a planner for the base in ``folder``. Raises ``InputError`` for anything that the worker would reject."""
    return Planner(machine, shapes.read_shapes(folder, config), measurements.row_lengths(recipe), fingerprint)


def high_rate(recipe: Recipe) -> float:
    """Return the learning rate if it suits SFT only and would spoil the answers of preference training, else 0."""
    rate = recipe.training.learning_rate
    return 0.0 if recipe.method.kind == "sft" or rate <= MAX_PREFERENCE_RATE else rate


def _time_keys(recipe: Recipe, cost: Cost) -> tuple[str, ...]:
    keys = {
        "training.steps": True, "data.validation": "validations" in cost.long_parts, "training.samples": cost.sample_answers > 0,
        "evaluation.rows": True, "evaluation.max_tokens": True, "evaluation.regression": bool(recipe.evaluation.regression),
    }  # fmt: skip
    return tuple(key for key, has_effect in keys.items() if has_effect)


def _cost(
    recipe: Recipe, work: Workload, speed: StepCalibration | None, watts: float, *, cached: bool, checkpointed: bool
) -> Cost:  # fmt: skip
    """Compute the time of all steps, validations and the reference pass, without sample answers."""
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
