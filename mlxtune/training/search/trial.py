"""Train and score one rung of a trial, with everything that trials share computed once."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from mlxtune.core.errors import Interrupted, MlxtuneError
from mlxtune.core.files import Closeable, disk_errors, write_text
from mlxtune.data.rows import PromptRow
from mlxtune.evaluation.answer_budget import answer_budget
from mlxtune.evaluation.answers import reference_likelihood, score_answers
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import evaluated_rows
from mlxtune.evaluation.outputs import AnswerOptions, generate_answers
from mlxtune.evaluation.scorers import CONTRACT, CORRECT
from mlxtune.models import lora
from mlxtune.models.template import TemplateSettings
from mlxtune.recipe import Recipe, TrainingSection, dump
from mlxtune.runs.events import EventWriter
from mlxtune.runs.worker import Worker
from mlxtune.training import checkpoint
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.power_wait import PowerWait
from mlxtune.training.search import board as boards
from mlxtune.training.search.board import RungResult, SearchPlan, Trial, rung_folder, trial_folder
from mlxtune.training.search.space import with_values
from mlxtune.training.setup import Foundation, TrainingSetup, build_loop, with_replay
from mlxtune.training.worker import write_data


class TrialListener(EventWriter):
    """Writes a trial's events, and stops its training loop if the search stops or the user drops the trial."""

    def __init__(self, worker: Worker, number: int) -> None:
        folder = trial_folder(worker.folder, number)
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder)
        self._worker, self._number = worker, number

    @property
    def stopping(self) -> bool:
        return self._worker.stopping or self._number in boards.choices(self._worker.folder)[0]


@dataclass
class TrialRunner(Closeable):
    """Trains rungs of trials of ``recipe`` in the folder of a search. ``rows`` are the validation rows in the order of ``plan``."""

    worker: Worker
    recipe: Recipe
    base: Foundation
    rows: Sequence[PromptRow]
    plan: SearchPlan
    _caches: dict[tuple[int, float], FrozenCache] = field(default_factory=dict)

    @cached_property
    def pause(self) -> PowerWait:
        return PowerWait(self.recipe.training.wait_for, self.worker)

    @cached_property
    def max_tokens(self) -> int:
        """The maximum length of an answer, as in the evaluation on held-out rows."""
        rows = [*self.base.splits.train, *self.base.splits.valid]
        return answer_budget(self.recipe.evaluation, rows, self.base.template.count_tokens).max_tokens

    def run(self, trial: Trial, rung: int) -> RungResult:
        """Train ``trial`` up to ``rung`` and score it. It continues from its newest checkpoint.

        Raise ``Interrupted`` after saving a checkpoint if its listener says so, or other apps need the memory, and another
        ``MlxtuneError`` if the trial cannot be trained or needs too much memory itself.
        """
        start, waited = time.monotonic(), self.pause.waited
        folder, target, total = trial_folder(self.worker.folder, trial.number), trial.rungs[rung], trial.rungs[-1]
        recipe = with_values(self.recipe, trial.values)
        listener, setup = TrialListener(self.worker, trial.number), None
        try:
            write_text(folder / "recipe.toml", dump(boards.rung_recipe(recipe, total, total)))
            setup = self._setup(recipe, folder, listener)
            branch = rung_folder(self.worker.folder, trial.number, rung)
            resume = checkpoint.newest(branch)
            if resume is None:
                self._train(setup, boards.trunk_section(recipe.training, target, total), folder / "trunk", listener)
                resume = checkpoint.newest(folder / "trunk")
            if resume is None or resume.step < target:
                self._train(setup, boards.rung_section(recipe.training, target, total), branch, listener, resume)
            else:
                checkpoint.restore(resume, self.base.loaded.model)
            lora.save(branch / "adapter", lora.adapter_arrays(self.base.loaded.model), setup.loop.adapter_config)
            trained = time.monotonic()
            passed, nats, tokens = self._score(trial, branch / "adapter")
            shutil.rmtree(branch / "checkpoints", ignore_errors=True)
        except Interrupted as stop:
            if stop.reason and setup and setup.loop.guard and setup.loop.guard.over_limit:
                raise MlxtuneError(f"It does not fit in memory: {stop.reason}") from stop
            raise
        finally:
            listener.close()
            lora.remove(self.base.loaded.model)
        answering = time.monotonic() - trained
        training = trained - start - (self.pause.waited - waited)
        return RungResult(trial.number, rung, passed, nats, tokens, trial.steps[rung], training + answering, answering)

    def _setup(self, recipe: Recipe, folder: Path, listener: TrialListener) -> TrainingSetup:
        """Add the trial's adapter to the model and build its loop, without validation rows: trials are compared by their answers."""
        many = replace(recipe, training=replace(recipe.training, steps=0, epochs=max(2, recipe.training.epochs)))
        base = with_replay(self.base, recipe, listener)
        setup = build_loop(base, many, folder, listener)  # all trials together make more than one pass over the rows
        loop = setup.loop
        write_data(folder, recipe, setup, loop.valid)
        loop.valid, loop.pause, loop.closes_caches = [], self.pause, False  # the trunk and the rung both use the cache
        if recipe.method.kind == "sft":
            build, key = loop.cache, (loop.stack.first_adapted, recipe.data.replay)
            loop.cache = lambda rows: self._shared_cache(key, lambda: build(rows))
        return setup

    def _shared_cache(self, key: tuple[int, float], build: Callable[[], Any]) -> FrozenCache | None:
        """Return the cache of the layers below the first adapted one. Trials with the same rows and layers share it under ``key``.

        The memory that one run may use for its cache is divided equally among all caches: one for each number of adapted layers
        and share of replay.
        """
        if key not in self._caches and (cache := build()):
            cache.budget //= len({(trial.values.get("layers"), trial.values.get("replay")) for trial in self.plan.trials})
            self._caches[key] = cache
        return self._caches.get(key)

    def _train(
        self,
        setup: TrainingSetup,
        section: TrainingSection,
        folder: Path,
        listener: TrialListener,
        resume: checkpoint.Checkpoint | None = None,
    ) -> None:
        """Train with ``section`` to its end, from the newest checkpoint in ``folder`` or from ``resume``."""
        resume = checkpoint.newest(folder) or resume
        if resume and resume.step >= section.steps:
            return
        with disk_errors(folder.name):
            folder.mkdir(exist_ok=True)
        loop = replace(setup.loop, folder=folder, section=section)
        fields = {"kind": "train", "name": self.recipe.name, "base": self.recipe.model.base, "pid": 0, "host": ""}
        listener.emit("run.resumed" if resume else "run.started", **fields, **({"step": resume.step} if resume else {}))
        loop.run(listener, resume)

    def _score(self, trial: Trial, adapter: Path) -> tuple[tuple[bool, ...], float, int]:
        """Return which validation rows are answered correctly or, without references, pass the contract, and the total loss in nats and tokens of their reference answers."""
        loaded, section, contract = self.base.loaded, self.recipe.evaluation, Contract.from_recipe(self.recipe)
        loaded.model.eval()
        try:
            settings, cache = TemplateSettings.from_recipe(self.recipe), self.worker.folder / "cache"
            options = AnswerOptions(
                settings, self.max_tokens, section.thinking_tokens, section.batch_size, cache, section.stop_loops,
                contract.schema_document,
            )  # fmt: skip
            tell = partial(self.worker.progress_reporter, f"trial {trial.number}")
            answers = generate_answers(Arm(f"trial {trial.number}", adapter), loaded, self.rows, options, tell).answers
        finally:
            loaded.model.train()
        scored = score_answers(contract, evaluated_rows(self.rows), answers)
        passed = tuple((answer.scores.get(CORRECT) or answer.scores[CONTRACT]).passed for answer in scored)
        return passed, *reference_likelihood(answers)

    def close(self) -> None:
        for cache in self._caches.values():
            cache.close()
