"""The training loop: steps, validations, checkpoints and events, for any objective."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, Protocol, TypedDict

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_flatten, tree_map

from mlxtune.core.errors import DataError, Interrupted, MlxtuneError
from mlxtune.core.hashing import sha256_json
from mlxtune.data import batching
from mlxtune.data.batching import PaddedShapes
from mlxtune.recipe import AdapterSection, TrainingSection
from mlxtune.runs.events import WarningCode
from mlxtune.training import checkpoint, optimizer
from mlxtune.training.checkpoint import check_origin
from mlxtune.training.coverage import Coverage, rows_fingerprint
from mlxtune.training.distributed.hosts import HostGroup
from mlxtune.training.distributed.launcher import PeerLost
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.objective import TrainingBatch, TrainingRow
from mlxtune.training.optimizer import Stepper
from mlxtune.training.preference.losses import Objective
from mlxtune.training.preference.reference import displacement
from mlxtune.training.stopping import MIN_ROWS, BestValidation, DivergenceDetector, MemoryGuard, lower_beyond_noise

PROGRESS_INTERVAL = 5.0  # seconds between progress events of a validation


class RunListener(Protocol):
    """Receives a run's events and can ask it to stop. Implemented by workers and tests."""

    @property
    def stopping(self) -> bool: ...

    @property
    def emit(self) -> Callable[..., None]: ...

    def warn(self, code: WarningCode, **values: Any) -> None: ...


class TrainingSummary(TypedDict):
    """The summary of ``run.finished``; ``adapter_step`` is the step whose weights the adapter has."""

    steps: int
    validation: float | None
    checkpoint: int
    adapter_step: int


@dataclass(frozen=True)
class StepPlan:
    """One optimizer step: its number (starting at 1), its epoch (starting at 0), and the rows in each batch."""

    step: int
    epoch: int
    groups: list[Sequence[int]]

    @property
    def rows(self) -> list[int]:
        return [index for group in self.groups for index in group]


@dataclass
class TrainingLoop:
    """The parts of a training run, and the loop over them."""

    folder: Path
    stack: LayerStack
    section: TrainingSection
    adapter: AdapterSection
    adapter_config: dict[str, Any]
    train: Sequence[TrainingRow]
    valid: Sequence[TrainingRow]
    objective: Objective
    compiled: bool = False
    segment: int = 0  # tokens of a long row that are computed at a time; 0 for whole rows
    # returns a cache of the frozen layers' outputs for some rows, or ``None``
    cache: Callable[[Sequence[Any]], FrozenCache | None] = field(default=lambda rows: None)
    closes_caches: bool = True  # at the end
    guard: MemoryGuard | None = None
    sample: Callable[[int], bool] = field(default=lambda step: False)  # answers a few prompts; whether the format was lost
    count_correct: Callable[[], int] = field(default=lambda: 0)  # how many answers to validation rows meet the contract
    baseline_passes: list[bool] = field(default_factory=list)  # which of these answers passed the contract before the first step
    reference_kl: Callable[[], float | None] | None = None  # the policy's distance from the reference
    pause: Callable[[], None] = field(default=lambda: None)  # called before each step
    hosts: HostGroup = field(default_factory=HostGroup)
    origin: Mapping[str, Any] = field(default_factory=dict)  # the facts that must not change when the run is resumed
    lineage: Mapping[str, Any] | None = None  # that its adapters share

    def epoch_batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each as indices into the train rows."""
        arrange = self.objective.arrange(self.train, self.section)
        return batching.epoch_batches(len(self.train), arrange, seed=self.section.seed, number=epoch, widths=self.objective.widths)

    @cached_property
    def total_steps(self) -> int:
        if self.section.steps:
            return self.section.steps
        return sum(math.ceil(len(self.epoch_batches(epoch)) / self.section.accumulate) for epoch in range(self.section.epochs))

    @cached_property
    def epochs(self) -> float:
        """The number of epochs, to one decimal if the last one is partial."""
        counts = Counter(plan.epoch for plan in islice(self.step_plans(), self.total_steps))
        last = max(counts)
        return batching.passes(last, counts[last], math.ceil(len(self.epoch_batches(last)) / self.section.accumulate))

    def step_plans(self) -> Iterator[StepPlan]:
        """Yield optimizer steps indefinitely. Gradient accumulation never crosses the end of an epoch."""
        step = epoch = 0
        while True:
            batches = self.epoch_batches(epoch)
            for start in range(0, len(batches), self.section.accumulate):
                step += 1
                groups = batches[start : start + self.section.accumulate]
                yield StepPlan(step, epoch, [part for group in groups for part in self.objective.separate(self.train, group)])
            epoch += 1

    def used_rows(self) -> set[int]:
        """Return the indices of the train rows that the run reaches: all of them, unless it ends within the first epoch."""
        plans = takewhile(lambda plan: plan.epoch == 0, islice(self.step_plans(), self.total_steps))
        return {index for plan in plans for index in plan.rows}

    @cached_property
    def padded_shapes(self) -> PaddedShapes:
        """The shapes that this host's batches are padded to, chosen from all batches of the run; none if steps are not compiled."""
        if not self.compiled:
            return {}
        plans = islice(self.step_plans(), self.total_steps)
        shards = (shard for plan in plans for group in plan.groups if (shard := self.hosts.shard(group)))
        counts = Counter(self.objective.batch_shape(self.train, shard) for shard in shards)
        return batching.choose_shapes(counts, self.objective.batch_cost, batching.MAX_SHAPES * self.objective.widths)

    def validation_batches(self) -> list[TrainingBatch]:
        """Return the whole validation set, always split into the same batches."""
        rows = range(len(self.valid))
        return self.objective.collate(self.valid, self.objective.arrange(self.valid, self.section)(rows), rows)

    def run(self, listener: RunListener, resume: checkpoint.Checkpoint | None = None) -> TrainingSummary:
        """Train to the end.

        Raise ``Interrupted`` after saving a checkpoint if the listener asks to stop or memory runs out. Raise ``MlxtuneError``,
        which lists the step's rows, if the loss is NaN or diverges; the last checkpoint is then from an earlier step. Raise
        ``DataError`` if ``resume`` was made from different rows.
        """
        return _TrainingRun(self, listener, resume).run()


class _TrainingRun:
    """The state of a running loop."""

    def __init__(self, loop: TrainingLoop, listener: RunListener, resume: checkpoint.Checkpoint | None) -> None:
        self.loop, self.listener = loop, listener
        self.optimizer: optim.Optimizer = optimizer.make(loop.section, loop.adapter)
        self.optimizer.init(loop.stack.model.trainable_parameters())
        self.coverage, self.rows = Coverage(loop.train), rows_fingerprint([*loop.train, *loop.valid])
        self.best, self.divergence = BestValidation(loop.section.early_stop), DivergenceDetector()
        self.done, self.validation_loss, self.validation_pending = 0, math.nan, False
        self.batch_losses: list[float] = []  # of the newest validation
        self.format_lost = False  # at the newest validation
        self.batches = sha256_json(loop.epoch_batches(0))
        if resume:
            self._restore(resume)
        model = loop.stack.model  # all hosts get the leader's adapter and optimizer
        model.update(loop.hosts.broadcast(model.trainable_parameters()))
        self.optimizer.state = loop.hosts.broadcast(self.optimizer.state)
        mx.eval(model.trainable_parameters(), self.optimizer.state)
        loop.hosts.rescue = self._rescue
        self._stop_agreed, self._memory_warning = False, ""
        self.stepper = Stepper(
            loop.stack, self.optimizer, loop.objective, clip=loop.section.clip, compiled=loop.compiled, segment=loop.segment
        )
        self.train_cache, self.valid_cache = loop.cache(loop.train), loop.cache(loop.valid) if loop.valid else None
        self.validation_batches = loop.validation_batches()
        self.saved = self.done

    def run(self) -> TrainingSummary:
        try:
            return self._train()
        except PeerLost as lost:
            self._save_if_needed()
            raise Interrupted(self.done, f"{lost.message}. {lost.hint}") from lost
        finally:
            for cache in (self.train_cache, self.valid_cache):
                if cache and self.loop.closes_caches:
                    cache.close()

    @property
    def stopping(self) -> bool:
        """Whether to stop. With several hosts, this is the result of the last all-reduce."""
        return self._stop_agreed if self.loop.hosts.size > 1 else self.listener.stopping

    def _save_if_needed(self) -> None:
        if self.done > self.saved:
            self._save(self.done)

    def _rescue(self, reason: str) -> None:
        """Save a checkpoint and report ``reason`` before the process exits because an all-reduce will never return."""
        self._save_if_needed()
        self.listener.emit("run.stopped", step=self.done, reason=reason)

    def _train(self) -> TrainingSummary:
        loop = self.loop
        loop.stack.model.train()
        if self.validation_batches and (not self.done or self.validation_pending):
            self._validate_and_sample(self.done)
        if self.stopping:
            raise Interrupted(self.done)
        plans = islice(loop.step_plans(), self.done, loop.total_steps)
        prepared = self._prepare(plans)
        while prepared and not self.best.should_stop:
            plan, batches = prepared
            loop.pause()
            prepared = self._step(plan, batches, plans)
            self.done = step = plan.step
            last = step == loop.total_steps
            due = self.validation_batches and (step % loop.section.validate_every == 0 or last)
            improved = due and self._validate_and_sample(step)
            early_stop, out_of_memory = self.best.should_stop, self._memory_warning
            if step % loop.section.save_every == 0 or improved or last or early_stop or out_of_memory or self.stopping:
                self._save(step)
            if (self.stopping or out_of_memory) and (not last or self.validation_pending):
                raise Interrupted(step, out_of_memory)
        if self.best.should_stop:
            self.listener.warn("stopped_early", validations=self.best.since, step=self.best.step)
        return self._finish()

    def _prepare(self, plans: Iterator[StepPlan]) -> tuple[StepPlan, list[TrainingBatch]] | None:
        """Return the next step and its batches; ``None`` after the last step."""
        loop, plan = self.loop, next(plans, None)
        if plan is None:
            return None
        shards = [shard for rows in plan.groups if (shard := loop.hosts.shard(rows))]
        return plan, loop.objective.collate(loop.train, shards, plan.rows, loop.padded_shapes)

    def _step(
        self, plan: StepPlan, batches: list[TrainingBatch], plans: Iterator[StepPlan]
    ) -> tuple[StepPlan, list[TrainingBatch]] | None:
        """Train on ``batches``, emit an event, and return the next step, which is prepared in the meantime."""
        loop, section, step = self.loop, self.loop.section, plan.step
        start = time.perf_counter()
        rate = optimizer.learning_rate(section, step - 1, loop.total_steps)
        optimizer.set_rate(self.optimizer, rate, loop.adapter)
        mx.random.seed(section.seed * 1_000_003 + step)  # dropout depends on the step, so a resumed run repeats it
        sums: Any = None
        for batch in batches:
            waited = time.perf_counter()
            arrays = batch.arrays(self.train_cache)  # computes the frozen layers' outputs in the first epoch
            start += time.perf_counter() - waited
            if sums is not None:
                mx.async_eval(sums)  # otherwise the graphs of all batches would be in memory at the same time
            sums = self.stepper.add(arrays, sums)
        sums, counts, computed = self._all_reduce(plan, batches, sums)
        (total, metric_sums), gradients = sums
        weight, trained = loop.objective.weight(counts), sum(tokens for _, tokens in counts.values())
        lazy_norm = self.stepper.apply(gradients, weight)
        lazy = total, metric_sums, lazy_norm, self.stepper.results
        mx.async_eval(lazy)
        following = self._prepare(plans)
        mx.eval(lazy)
        loss, norm = float(total) / weight, float(lazy_norm)
        self.coverage.count(counts)
        self.listener.emit(
            "step", step=step, epoch=plan.epoch, loss=_finite(loss), rate=rate, norm=_finite(norm), tokens=trained,
            computed=computed, speed=trained / (time.perf_counter() - start),
            memory=mx.get_active_memory(), peak=mx.get_peak_memory(), **self._metrics(metric_sums.tolist(), weight, at_start=step == 1),
        )  # fmt: skip
        problem = self.divergence.add(loss) or ("has a NaN or infinite gradient" if not math.isfinite(norm) else "")
        if problem:
            self._fail(step, problem, [loop.train[index].id for index in plan.rows])
        return following

    def _all_reduce(self, plan: StepPlan, batches: list[TrainingBatch], sums: Any) -> tuple[Any, dict[int, tuple[int, int]], int]:
        """Return loss and gradients over all hosts, each row's seen and trained token counts, and the number of computed positions.

        Counts come from the computed batches, not from the plan, so the coverage report detects rows computed by two hosts or by
        none.
        """
        loop = self.loop
        if sums is None:
            zeros = mx.array(0.0), mx.zeros((loop.objective.metric_count,))
            sums = zeros, tree_map(mx.zeros_like, loop.stack.model.trainable_parameters())
        warning = loop.guard.check() if loop.guard else ""
        rows = plan.rows
        own_counts = {index: pair for batch in batches for index, pair in batch.counts.items()}
        sums, (stop, out_of_memory, computed, *numbers) = loop.hosts.all_reduce(
            sums, self.listener.stopping, bool(warning), sum(batch.computed_positions for batch in batches),
            *(number for index in rows for number in own_counts.get(index, (0, 0))),
        )  # fmt: skip
        self._stop_agreed = stop > 0
        self._memory_warning = warning or ("Another host ran out of memory; see its log." if out_of_memory else "")
        counts = {index: (int(seen), int(trained)) for index, seen, trained in zip(rows, numbers[::2], numbers[1::2], strict=True)}
        return sums, counts, int(computed)

    def _fail(self, step: int, problem: str, rows: list[str]) -> None:
        last = f"last good checkpoint: {self.saved:,}" if self.saved else "no earlier checkpoint"
        listed = f"{', '.join(rows[:8])}{' …' if len(rows) > 8 else ''}"
        hint = "Check these rows, or lower training.learning_rate."
        raise MlxtuneError(f"The loss at step {step:,} {problem} (rows: {listed}; {last}).", hint=hint)

    def _metrics(self, sums: Any, weight: float, *, at_start: bool) -> dict[str, Mapping[str, float | None]]:
        """Return the objective's metrics as an event field; an empty dict if there are none."""
        means = self.loop.objective.means(sums, weight, at_start=at_start)
        return {"metrics": {name: _finite(value) for name, value in means.items()}} if means else {}

    def _validate_and_sample(self, step: int) -> bool:
        """Validate, generate sample answers, and return whether ``step`` is the best so far.

        ``validation_pending`` stays set if a stop request interrupts this.
        """
        loss = self._validate(step)
        format_lost = None if loss is None else self._sample(step)
        self.validation_pending = format_lost is None
        if loss is None or format_lost is None:
            return False
        self.validation_loss, self.format_lost = loss, format_lost
        return step > 0 and not format_lost and math.isfinite(loss) and self.best.add(step, loss, self.batch_losses)

    def _validate(self, step: int) -> float | None:
        """Return the mean loss over the whole validation set, without dropout; ``None`` if a stop request interrupts it."""
        loop, losses, interrupted = self.loop, [0.0] * len(self.validation_batches), False
        sums, counts = mx.zeros((loop.objective.metric_count,)), [0, 0]
        batches, reported = loop.hosts.shard(list(enumerate(self.validation_batches))), time.monotonic()
        loop.stack.model.eval()
        for done, (index, batch) in enumerate(batches):
            if time.monotonic() - reported >= PROGRESS_INTERVAL:
                self.listener.emit("validating", step=step, done=done, total=len(batches))
                reported = time.monotonic()
            if interrupted := self.listener.stopping:
                break
            loop.stack.streams.share_cores(len(batch.parts))
            loss, metrics = loop.objective(loop.stack, batch.arrays(self.valid_cache))
            sums = sums + metrics
            mx.eval(loss, sums)
            losses[index] = float(loss)
            counts[0] += loop.objective.weight(batch.counts)
            counts[1] += sum(trained for _, trained in batch.counts.values())
        loop.stack.model.train()
        loop.stack.streams.share_cores(1)
        sums, (weight, tokens, interruptions, *losses) = loop.hosts.all_reduce(sums, *counts, interrupted, *losses)
        if interruptions:
            self._stop_agreed = True
            return None
        total, self.batch_losses = sum(losses), losses
        fields = self._metrics(sums.tolist(), weight, at_start=step == 0)
        if loop.reference_kl and (kl := loop.reference_kl()) is not None:
            fields["metrics"] = {**fields["metrics"], "kl": _finite(kl)}
        self.listener.emit("validation", step=step, loss=_finite(total / weight), tokens=int(tokens), **fields)
        if displaced := displacement(fields.get("metrics", {})):
            self.listener.warn("displacement", **displaced)
        return total / weight

    def _sample(self, step: int) -> bool | None:
        """Generate sample answers on the leader and return whether the format was lost; ``None`` after a stop request."""
        if self.stopping:
            return None
        lost = self.loop.hosts.is_leader and self.loop.sample(step)
        _, (format_lost,) = self.loop.hosts.all_reduce({}, lost)
        return format_lost > 0

    def _save(self, step: int) -> None:
        loop, start = self.loop, time.perf_counter()
        if not loop.hosts.is_leader:
            self.saved = step
            return
        state = {
            "step": step, "rows": self.rows, "seed": loop.section.seed, "certificate": self.coverage.state,
            "best": asdict(self.best) | {"loss": _finite(self.best.loss)},
            "validated": _finite(self.validation_loss), "unchecked": self.validation_pending, "held": loop.baseline_passes,
            "batch_losses": self.batch_losses, "format_lost": self.format_lost,
            "batches": self.batches, "origin": dict(loop.origin), "first": self.divergence.first, "last": list(self.divergence.last),
        }  # fmt: skip
        checkpoint.save(loop.folder, loop.stack.model, self.optimizer, loop.adapter_config, state, loop.section.keep, loop.lineage)
        self.saved = step
        self.listener.emit("checkpoint", step=step, seconds=time.perf_counter() - start)

    def _restore(self, resume: checkpoint.Checkpoint) -> None:
        state = resume.state
        check_origin(state.get("origin", {}), self.loop.origin, resume.step)
        if state["rows"] != self.rows or state["seed"] != self.loop.section.seed:
            hint = "Restore the original data, or start a new run."
            raise DataError(f"The data differs from the data used for the checkpoint at step {resume.step:,}.", hint=hint)
        if state.get("batches") != self.batches:
            raise DataError(
                f"This version would build different batches than the run used up to its checkpoint at step {resume.step:,}.",
                hint="Resume with the version of mlxtune that started the run, or start a new run.",
            )
        checkpoint.restore(resume, self.loop.stack.model, self.optimizer)
        self.coverage.restore(state["certificate"])
        if state["best"]["step"]:
            self.best = BestValidation(**state["best"] | {"patience": self.loop.section.early_stop})
        self.divergence.first = state["first"]
        self.divergence.last.extend(state["last"])
        self.loop.baseline_passes[:] = state["held"]
        self.done, self.validation_pending = resume.step, state["unchecked"]
        self.batch_losses, self.format_lost = state["batch_losses"], state["format_lost"]
        if state["validated"] is not None:
            self.validation_loss = state["validated"]

    def _finish(self) -> TrainingSummary:
        """Write the coverage report, and load the weights of the step with the lowest validation loss if they are better.

        They may be after early stopping, if the last step lost the format, or if there are enough rows and the loss is lower beyond noise.
        """
        adapter_step = self.done
        if self.loop.hosts.is_leader:
            self.coverage.write(self.loop.folder)
            lower = len(self.loop.valid) >= MIN_ROWS and lower_beyond_noise(self.best.batches, self.batch_losses)
            if 0 < self.best.step != self.done and (self.best.should_stop or self.format_lost or lower):
                adapter_step = self._restore_best()
        return {
            "steps": self.done, "validation": _finite(self.validation_loss), "checkpoint": self.saved,
            "adapter_step": adapter_step,
        }  # fmt: skip

    def _restore_best(self) -> int:
        """Load the weights of the best step, unless those of the last step give more correct answers. Return the step of the weights."""
        best, model = checkpoint.find(self.loop.folder, self.best.step), self.loop.stack.model
        if not best:
            self.listener.warn("best_checkpoint_damaged", step=self.best.step)
            return self.done
        correct, last = self.loop.count_correct(), dict(tree_flatten(model.trainable_parameters()))
        checkpoint.restore(best, model)
        if self.loop.count_correct() < correct:
            model.load_weights(list(last.items()), strict=False)
            return self.done
        self.validation_loss = self.best.loss
        return self.best.step


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
