"""The loop: steps, validations, checkpoints and events, for any objective over batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.optimizers as optim
from mlx.utils import tree_map

from mlxtune.core.errors import DataError, Interrupted, MlxtuneError
from mlxtune.core.hashing import sha256_json
from mlxtune.data import batching
from mlxtune.recipe import AdapterSection, TrainingSection
from mlxtune.training import checkpoint, drift, optimizer, schedule
from mlxtune.training.certificate import Certificate, fingerprint
from mlxtune.training.guard import MemoryGuard
from mlxtune.training.hosts import Hosts
from mlxtune.training.objective import Arrays, Batch, Cache, Objective, Row
from mlxtune.training.peers import PeerLost
from mlxtune.training.stack import Stack
from mlxtune.training.step import Stepper
from mlxtune.training.watch import Best, Divergence


class Listener(Protocol):
    """Whoever follows the loop: a worker, or a test."""

    @property
    def stopping(self) -> bool: ...

    @property
    def emit(self) -> Callable[..., None]: ...


@dataclass(frozen=True)
class Planned:
    """One optimizer step: its number from 1, its epoch from 0, and the rows of each of its batches."""

    step: int
    epoch: int
    groups: list[list[int]]


@dataclass
class Loop:
    """Everything a training run works with.

    ``cache`` makes a cache of what enters the first adapted layer for rows, or ``None``; ``compiled`` suits a GPU. ``sample`` lets
    the model answer a few prompts and returns a warning, or nothing; ``held`` is which answers held the contract before the first
    step, as it remembers them; ``distance`` measures how far the model is from its reference.
    """

    folder: Path
    stack: Stack
    section: TrainingSection
    adapter: AdapterSection
    config: dict[str, Any]
    train: Sequence[Row]
    valid: Sequence[Row]
    objective: Objective
    compiled: bool = False
    cache: Callable[[Sequence[Any]], Cache | None] = field(default=lambda rows: None)
    guard: MemoryGuard | None = None
    sample: Callable[[int], str] = field(default=lambda step: "")
    held: list[bool] = field(default_factory=list)
    distance: Callable[[], float | None] | None = None
    hosts: Hosts = field(default_factory=Hosts)

    def batches_of(self, number: int) -> list[list[int]]:
        """Epoch ``number`` as indices of train rows."""
        arrange = self.objective.arrange(self.train, self.section)
        return batching.epoch(len(self.train), arrange, seed=self.section.seed, number=number)

    @cached_property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        if self.section.steps:
            return self.section.steps
        return sum(math.ceil(len(self.batches_of(number)) / self.section.accumulate) for number in range(self.section.epochs))

    @cached_property
    def epochs(self) -> int:
        """How many epochs the steps reach into."""
        return next(planned.epoch for planned in self.steps() if planned.step == self.total) + 1

    def steps(self) -> Iterator[Planned]:
        """Every optimizer step, without end; accumulation never reaches over an epoch's end."""
        step = number = 0
        while True:
            epoch = self.batches_of(number)
            for start in range(0, len(epoch), self.section.accumulate):
                step += 1
                yield Planned(step, number, epoch[start : start + self.section.accumulate])
            number += 1

    def validation(self) -> list[Batch]:
        """The whole validation set, always in the same batches."""
        every = range(len(self.valid))
        return self.objective.collate(self.valid, self.objective.arrange(self.valid, self.section)(every), every)

    def run(self, listener: Listener, resume: checkpoint.Checkpoint | None = None) -> dict[str, Any]:
        """Train to the end and return a summary.

        Raises ``Interrupted`` after a checkpoint when the listener wants to stop or memory runs out, ``MlxtuneError`` when the
        loss is not a number or runs away: the last checkpoint is from before it, and the rows of the step are named; ``DataError``
        when ``resume`` was made from other rows.
        """
        return _Run(self, listener, resume).to_the_end()


class _Run:
    """A loop under way: what changes from step to step."""

    def __init__(self, loop: Loop, listener: Listener, resume: checkpoint.Checkpoint | None) -> None:
        self.loop, self.listener = loop, listener
        self.optimizer: optim.Optimizer = optimizer.make(loop.section, loop.adapter)
        self.optimizer.init(loop.stack.model.trainable_parameters())
        self.certificate, self.rows = Certificate(loop.train), fingerprint([*loop.train, *loop.valid])
        self.best, self.divergence = Best(loop.section.early_stop), Divergence()
        self.done, self.validated, self.unchecked = 0, math.nan, False
        self.batches = sha256_json(loop.batches_of(0))
        if resume:
            self._restore(resume)
        self._spread()
        loop.hosts.rescue = self._rescue
        self._wish, self._short = False, ""
        self.stepper = Stepper(loop.stack, self.optimizer, loop.objective, clip=loop.section.clip, compiled=loop.compiled)
        self.frozen, self.frozen_valid = loop.cache(loop.train), loop.cache(loop.valid) if loop.valid else None
        self.held = loop.validation()
        self.saved = self.done

    def to_the_end(self) -> dict[str, Any]:
        try:
            return self._train()
        except PeerLost as lost:
            self._keep()
            raise Interrupted(self.done, f"{lost.message}. {lost.mend}") from lost
        finally:
            for cache in (self.frozen, self.frozen_valid):
                if cache:
                    cache.close()

    @property
    def stopping(self) -> bool:
        """Whether to stop; several hosts do what they agreed on in their last sum."""
        return self._wish if self.loop.hosts.size > 1 else self.listener.stopping

    def _spread(self) -> None:
        """Begin with the leader's adapter and optimizer."""
        model = self.loop.stack.model
        model.update(self.loop.hosts.spread(model.trainable_parameters()))
        self.optimizer.state = self.loop.hosts.spread(self.optimizer.state)
        mx.eval(model.trainable_parameters(), self.optimizer.state)

    def _keep(self) -> None:
        if self.done > self.saved:
            self._save(self.done)

    def _rescue(self, reason: str) -> None:
        """The last word when a sum never comes back."""
        self._keep()
        self.listener.emit("run.stopped", step=self.done, reason=reason)

    def _train(self) -> dict[str, Any]:
        loop, listener = self.loop, self.listener
        loop.stack.model.train()
        if self.held and (not self.done or self.unchecked):
            self._check(self.done)
        if self.stopping:
            raise Interrupted(self.done)
        steps = (planned for planned in loop.steps() if planned.step > self.done)
        planned, batches = self._prepare(next(steps))
        while planned.step <= loop.total and not self.best.stale:
            following = self._step(planned, batches, steps)
            self.done = step = planned.step
            last = step == loop.total
            due = self.held and (step % loop.section.validate_every == 0 or last)
            improved = due and self._check(step)
            stale, short = self.best.stale, self._short
            if step % loop.section.save_every == 0 or improved or last or stale or short or self.stopping:
                self._save(step)
            if (self.stopping or short) and (not last or self.unchecked):
                raise Interrupted(step, short)
            planned, batches = following
        if self.best.stale:
            listener.emit(
                "warning",
                text=f"Stopped early: {self.best.since} validations were no better than that of step {self.best.step:,}.",
            )
        return self._finish()

    def _prepare(self, planned: Planned) -> tuple[Planned, list[Batch]]:
        loop = self.loop
        shares = [share for rows in planned.groups if (share := loop.hosts.share(rows))]
        return planned, loop.objective.collate(loop.train, shares, [at for rows in planned.groups for at in rows])

    def _step(self, planned: Planned, batches: list[Batch], steps: Iterator[Planned]) -> tuple[Planned, list[Batch]]:
        """Train on ``batches``, say so, and return the next step, which is prepared meanwhile."""
        loop, section, step = self.loop, self.loop.section, planned.step
        start = time.perf_counter()
        rate = schedule.rate(section, step - 1, loop.total)
        optimizer.set_rate(self.optimizer, rate, loop.adapter)
        mx.random.seed(section.seed * 1_000_003 + step)  # dropout depends on the step, so a resumed run repeats it
        sums: Any = None
        for batch in batches:
            sums = self.stepper.add(self._arrays(batch, self.frozen), sums)
            mx.async_eval(sums)  # or the graphs of all batches would be alive together
        sums, counts, computed = self._total(planned, batches, sums)
        (total, measured), gradients = sums
        weight, trained = loop.objective.weight(counts), sum(tokens for _, tokens in counts.values())
        lazy = self.stepper.apply(gradients, weight)
        mx.async_eval(lazy, self.stepper.results)
        following = self._prepare(next(steps))
        mx.eval(lazy, self.stepper.results)
        loss, norm = _number(total) / weight, _number(lazy)
        self.certificate.count(counts)
        self.listener.emit(
            "step", step=step, epoch=planned.epoch, loss=_finite(loss), rate=rate, norm=_finite(norm), tokens=trained,
            computed=computed, speed=trained / (time.perf_counter() - start),
            memory=mx.get_active_memory(), peak=mx.get_peak_memory(), **self._measured(measured.tolist(), weight),
        )  # fmt: skip
        wrong = self.divergence.add(loss) or ("has a gradient that is not a number" if not math.isfinite(norm) else "")
        if wrong:
            self._refuse(step, wrong, [loop.train[at].id for rows in planned.groups for at in rows])
        return following

    def _total(self, planned: Planned, batches: list[Batch], sums: Any) -> tuple[Any, dict[int, tuple[int, int]], int]:
        """Loss and gradients over all hosts, each row's tokens seen and trained, and the positions computed.

        What the batches held is added up, not what was planned: a row that two hosts computed, or none, shows in the certificate.
        """
        loop = self.loop
        if sums is None:
            nothing = mx.array(0.0), mx.zeros((loop.objective.sums,))
            sums = nothing, tree_map(mx.zeros_like, loop.stack.model.trainable_parameters())
        short = loop.guard.check() if loop.guard else ""
        rows = [at for group in planned.groups for at in group]
        mine = {at: pair for batch in batches for at, pair in batch.counts.items()}
        sums, (stop, scarce, computed, *found) = loop.hosts.total(
            sums, self.listener.stopping, bool(short), sum(batch.computed for batch in batches),
            *(number for at in rows for number in mine.get(at, (0, 0))),
        )  # fmt: skip
        self._wish, self._short = stop > 0, short or ("Another host ran out of memory; its log says more." if scarce else "")
        counts = {at: (int(seen), int(trained)) for at, seen, trained in zip(rows, found[::2], found[1::2], strict=True)}
        return sums, counts, int(computed)

    def _refuse(self, step: int, wrong: str, rows: list[str]) -> None:
        kept = f"The last good checkpoint is that of step {self.saved:,}." if self.saved else "There is no checkpoint before it."
        raise MlxtuneError(
            f"The loss of step {step:,} {wrong}. Its rows: {', '.join(rows[:8])}{' …' if len(rows) > 8 else ''}. {kept}",
            mend="Look at these rows, or lower training.learning_rate.",
        )

    def _arrays(self, batch: Batch, frozen: Cache | None) -> Arrays:
        return batch.arrays | {"entering": frozen.entering(batch) if frozen else []}

    def _measured(self, sums: Any, weight: float) -> dict[str, Mapping[str, float | None]]:
        """What the objective measured, as the field of an event; no field where that is nothing."""
        found = self.loop.objective.means(sums, weight)
        return {"metrics": {name: _finite(value) for name, value in found.items()}} if found else {}

    def _check(self, step: int) -> bool:
        """Validate and let the model answer; whether ``step`` is the best so far. It stays ``unchecked`` where a stop came before that."""
        loss = self._validate(step)
        lost = None if loss is None else self._sample(step)
        self.unchecked = lost is None
        if loss is None or lost is None:
            return False
        self.validated = loss
        return step > 0 and not lost and math.isfinite(loss) and self.best.add(step, loss)

    def _validate(self, step: int) -> float | None:
        """Mean loss over the whole validation set, dropout off; nothing when it was asked to stop on the way."""
        loop, total, broken = self.loop, 0.0, 0
        sums, counts = mx.zeros((loop.objective.sums,)), [0, 0]
        loop.stack.model.eval()
        for batch in loop.hosts.share(self.held):
            if broken := self.listener.stopping:  # a part of the validation set is no validation
                break
            loop.stack.lanes.share(len(batch.parts))
            loss, measured = loop.objective(loop.stack, self._arrays(batch, self.frozen_valid))
            sums = sums + measured
            mx.eval(loss, sums)
            total += _number(loss)
            counts[0] += loop.objective.weight(batch.counts)
            counts[1] += sum(trained for _, trained in batch.counts.values())
        loop.stack.model.train()
        loop.stack.lanes.share(1)
        sums, (total, weight, tokens, parts) = loop.hosts.total(sums, total, *counts, broken)
        if parts:
            self._wish = True
            return None
        fields = self._measured(sums.tolist(), weight)
        if loop.distance and (distance := loop.distance()) is not None:
            fields["metrics"] = {**fields["metrics"], "kl": _finite(distance)}
        self.listener.emit("validation", step=step, loss=_finite(total / weight), tokens=int(tokens), **fields)
        self._warn(drift.displaced(fields.get("metrics", {})))
        return total / weight

    def _sample(self, step: int) -> bool | None:
        """Let the model answer, and say whether it lost its format; the leader's word goes. Nothing when it is to stop."""
        lost = ""
        if self.stopping:
            return None
        if self.loop.hosts.leads:
            lost = self.loop.sample(step)
            self._warn(lost)
        _, (word,) = self.loop.hosts.total({}, bool(lost))
        return word > 0

    def _warn(self, text: str) -> None:
        if text:
            self.listener.emit("warning", text=text)

    def _save(self, step: int) -> None:
        loop, start = self.loop, time.perf_counter()
        if not loop.hosts.leads:
            self.saved = step
            return
        state = {
            "step": step, "rows": self.rows, "seed": loop.section.seed, "certificate": self.certificate.state,
            "best": {"step": self.best.step, "loss": _finite(self.best.loss), "since": self.best.since},
            "validated": _finite(self.validated), "unchecked": self.unchecked, "held": self.loop.held, "batches": self.batches,
            "first": self.divergence.first, "last": list(self.divergence.last),
        }  # fmt: skip
        checkpoint.save(loop.folder, loop.stack.model, self.optimizer, loop.config, state, loop.section.keep)
        self.saved = step
        self.listener.emit("checkpoint", step=step, seconds=time.perf_counter() - start)

    def _restore(self, found: checkpoint.Checkpoint) -> None:
        if found.state["rows"] != self.rows or found.state["seed"] != self.loop.section.seed:
            raise DataError(
                f"The rows are not those that the checkpoint of step {found.step:,} was trained on.",
                mend="Restore the data as it was, or start a new run.",
            )
        if found.state.get("batches") != self.batches:
            raise DataError(
                f"The rows would come in other batches than those that the checkpoint of step {found.step:,} was trained in.",
                mend="Go on with the version of mlxtune that it was made with, or start a new run.",
            )
        checkpoint.restore(found, self.loop.stack.model, self.optimizer)
        self.certificate.restore(found.state["certificate"])
        best = found.state["best"]
        if best["step"]:
            self.best.step, self.best.loss, self.best.since = best["step"], best["loss"], best["since"]
        self.divergence.first = found.state["first"]
        self.divergence.last.extend(found.state["last"])
        self.loop.held[:] = found.state["held"]
        self.done, self.unchecked = found.step, found.state["unchecked"]
        if found.state["validated"] is not None:
            self.validated = found.state["validated"]

    def _finish(self) -> dict[str, Any]:
        """Leave the certificate; the model holds the best weights by validation, which may not be the last."""
        kept = self.done
        if self.loop.hosts.leads:
            self.certificate.write(self.loop.folder)
        if self.loop.hosts.leads and self.best.step and self.best.step != self.done:
            found = checkpoint.at(self.loop.folder, self.best.step)
            if found:
                checkpoint.restore(found, self.loop.stack.model)
                kept, self.validated = self.best.step, self.best.loss
            else:
                self.listener.emit(
                    "warning", text=f"The best checkpoint, step {self.best.step:,}, is damaged: the adapter is the last."
                )
        return {"steps": self.done, "validation": _finite(self.validated), "checkpoint": self.saved, "adapter_step": kept}


def _number(scalar: mx.array) -> float:
    value: Any = scalar.item()
    return float(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
