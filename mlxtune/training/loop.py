"""The loop: steps, validations, checkpoints and events, for any objective over batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
from mlx.utils import tree_map

from mlxtune.core.errors import Interrupted, MlxtuneError
from mlxtune.models.head import Split
from mlxtune.models.template import Encoded
from mlxtune.recipe import TrainingSection
from mlxtune.training import batches, checkpoint, schedule, sft
from mlxtune.training.batches import Batch
from mlxtune.training.samples import Sampler


class Listener(Protocol):
    """Whoever follows the loop: a worker, or a test."""

    @property
    def stopping(self) -> bool: ...

    @property
    def emit(self) -> Callable[..., None]: ...


@dataclass
class Loop:
    """Everything a training run works with. ``prefix`` is how many tokens all rows share and compute once per batch."""

    folder: Path
    model: nn.Module
    split: Split
    section: TrainingSection
    config: dict[str, Any]
    train: Sequence[Encoded]
    valid: Sequence[Encoded]
    prefix: int
    sample: Sampler = field(default=lambda step: None)

    def batches_of(self, number: int) -> list[list[int]]:
        """Epoch ``number`` as indices of train rows."""
        section = self.section
        return batches.epoch(
            self.train,
            seed=section.seed,
            number=number,
            batch_tokens=section.batch_tokens,
            batch_size=section.batch_size,
            prefix=self.prefix,
        )

    @property
    def total(self) -> int:
        """Optimizer steps of the whole run."""
        if self.section.steps:
            return self.section.steps
        return sum(math.ceil(len(self.batches_of(number)) / self.section.accumulate) for number in range(self.section.epochs))

    @property
    def epochs(self) -> int:
        """How many epochs the steps reach into."""
        return next(number for step, (number, _) in enumerate(self.steps(), 1) if step >= self.total) + 1

    def steps(self) -> Iterator[tuple[int, list[list[int]]]]:
        """For each optimizer step, its epoch and its micro-batches; accumulation never reaches over an epoch's end."""
        number = 0
        while True:
            epoch = self.batches_of(number)
            for start in range(0, len(epoch), self.section.accumulate):
                yield number, epoch[start : start + self.section.accumulate]
            number += 1

    def validation(self) -> list[Batch]:
        """The whole validation set, always in the same batches."""
        section = self.section
        groups = batches.group(
            self.valid, range(len(self.valid)), batch_tokens=section.batch_tokens, batch_size=section.batch_size, prefix=self.prefix
        )
        return [batches.collate([self.valid[at] for at in group], self.prefix) for group in groups]

    def run(self, listener: Listener, resume: checkpoint.Checkpoint | None = None) -> dict[str, Any]:
        """Train to the end and return a summary.

        Raises ``Interrupted`` after a checkpoint when the listener wants to stop, ``MlxtuneError`` when the loss is not a number:
        the last checkpoint is from before it, and the rows of the step are named.
        """
        optimizer = optim.AdamW(learning_rate=0.0, weight_decay=self.section.weight_decay, bias_correction=True)
        optimizer.init(self.model.trainable_parameters())
        done, total = 0, self.total
        if resume:
            checkpoint.restore(resume, self.model, optimizer)
            done = resume.step
        self.model.train()
        gradients_of = nn.value_and_grad(self.model, lambda batch: sft.loss_sum(self.model, self.split, batch))
        held = self.validation()
        validated = self._validate(listener, held, 0) if held and not resume else math.nan
        if listener.stopping:
            raise Interrupted(done)
        saved = done
        for step, (number, groups) in enumerate(self.steps(), 1):
            if step <= done:
                continue
            if step > total:
                break
            self._step(listener, optimizer, gradients_of, step, total, number, groups)
            if held and (step % self.section.validate_every == 0 or step == total):
                validated = self._validate(listener, held, step)
                if not listener.stopping:
                    self.sample(step)
            if step % self.section.save_every == 0 or step == total or listener.stopping:
                self._save(listener, optimizer, step)
                saved = step
            if listener.stopping and step < total:
                raise Interrupted(step)
        return {"steps": total, "validation": _finite(validated), "checkpoint": saved}

    def _step(
        self,
        listener: Listener,
        optimizer: optim.Optimizer,
        gradients_of: Any,
        step: int,
        total: int,
        number: int,
        groups: list[list[int]],
    ) -> None:
        start = time.perf_counter()
        learning_rate = schedule.rate(self.section, step - 1, total)
        optimizer.learning_rate = learning_rate
        mx.random.seed(self.section.seed * 1_000_003 + step)  # dropout depends on the step alone: a resumed run draws the same
        loss, gradients, trained = 0.0, None, 0
        rows: list[str] = []
        for indices in groups:
            batch = batches.collate([self.train[at] for at in indices], self.prefix)
            value, new = gradients_of(batch)
            gradients = new if gradients is None else tree_map(mx.add, gradients, new)
            mx.eval(value, gradients)
            loss, trained = loss + value.item(), trained + batch.trained
            rows += batch.rows
        if not math.isfinite(loss):
            listener.emit("step", **self._facts(step, number, None, learning_rate, trained, start))
            raise MlxtuneError(
                f"The loss of step {step:,} is not a number. Its rows: {', '.join(rows[:8])}{' …' if len(rows) > 8 else ''}.",
                mend="Look at these rows, or lower training.learning_rate.",
            )
        gradients = tree_map(lambda gradient: gradient / trained, gradients)
        if self.section.clip:
            gradients, _ = optim.clip_grad_norm(gradients, self.section.clip)
        optimizer.update(self.model, gradients)
        mx.eval(self.model.trainable_parameters(), optimizer.state)
        listener.emit("step", **self._facts(step, number, loss / trained, learning_rate, trained, start))

    def _facts(self, step: int, number: int, loss: float | None, rate: float, trained: int, start: float) -> dict[str, Any]:
        return {
            "step": step,
            "epoch": number,
            "loss": loss,
            "rate": rate,
            "tokens": trained,
            "speed": trained / (time.perf_counter() - start),
            "memory": mx.get_active_memory(),
            "peak": mx.get_peak_memory(),
        }

    def _validate(self, listener: Listener, held: list[Batch], step: int) -> float:
        found = sft.validate(self.model, self.split, held, lambda: listener.stopping)
        if found is None:
            return math.nan
        loss, tokens = found
        listener.emit("validation", step=step, loss=_finite(loss), tokens=tokens)
        return loss

    def _save(self, listener: Listener, optimizer: optim.Optimizer, step: int) -> None:
        start = time.perf_counter()
        checkpoint.save(self.folder, self.model, optimizer, self.config, {"step": step}, self.section.keep)
        listener.emit("checkpoint", step=step, seconds=time.perf_counter() - start)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
