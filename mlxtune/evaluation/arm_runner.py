"""Answer the held-out rows and the off-task prompts with one arm after another, on one loaded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mlxtune.data.rows import PromptRow
from mlxtune.evaluation.answers import ArmAnswers, SeedAnswers
from mlxtune.evaluation.arms import TUNED, Arm, SeedAdapter
from mlxtune.evaluation.endpoint_answers import endpoint_answers
from mlxtune.evaluation.off_task.prompts import OFF_TASK, OffTaskPrompt, group_by_prefix
from mlxtune.evaluation.outputs import AnswerOptions, generate_answers
from mlxtune.evaluation.progress import progress_reporter
from mlxtune.evaluation.report import EndpointFacts
from mlxtune.models import lora
from mlxtune.models.generate import Progress
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix_cache import PrefixCache
from mlxtune.models.template import ChatTemplate
from mlxtune.runs.events import HELD_OUT_ROW
from mlxtune.runs.worker import Worker


class ArmRunner:
    """Runs arms on ``loaded``, which has no adapter at first. Arms with the same adapter must follow one another.

    Answers have at most ``max_tokens``. For preference pairs with an ID in ``compared``, the likelihoods of both answers are computed.
    """

    def __init__(
        self, worker: Worker, loaded: LoadedModel, template: ChatTemplate, max_tokens: int, compared: frozenset[str]
    ) -> None:
        section = worker.recipe.evaluation
        self.endpoints: dict[str, EndpointFacts] = {}
        self._worker, self._loaded, self._template = worker, loaded, template
        self.compared = compared
        cache = worker.folder.parent / "cache"
        self._options = AnswerOptions(template.settings, max_tokens, section.thinking_tokens, section.batch_size, cache)
        self._adapter: Path | None = None
        self._prefixes = PrefixCache(loaded.model)

    def answer(self, arm: Arm, rows: Sequence[PromptRow]) -> ArmAnswers:
        """Return the answers of ``arm`` to the held-out ``rows``."""
        tell = partial(progress_reporter, self._worker, arm.name)
        self._worker.emit("arm.started", arm=arm.name, rows=len(rows))
        if arm.endpoint:
            options = self._options
            thinking_tokens = 0 if options.settings.thinking == "off" else options.thinking_tokens
            answers, spent = endpoint_answers(
                arm, arm.endpoint, rows, max_tokens=options.max_tokens + thinking_tokens, cache=options.cache, tell=tell,
                count_tokens=self._template.count_tokens,
            )  # fmt: skip
            self.endpoints[arm.name] = {"url": arm.endpoint.url, "model": arm.endpoint.model, "spent": spent}
        else:
            answers = self._generate(arm, rows, self._options, tell, compared=self.compared, timed=True)
        self._worker.emit("arm.finished", arm=arm.name, rows=len(rows), cached=answers.cached, seconds=answers.seconds)
        if answers.no_likelihood_reason:
            self._worker.warn("no_perplexity", arm=arm.name, reason=answers.no_likelihood_reason)
        return answers

    def answer_off_task(self, arm: Arm, prompts: Sequence[OffTaskPrompt], system: str) -> list[str]:
        """Return the answers of ``arm`` to off-task ``prompts``, in order. ``system`` is the task's system prompt."""
        outputs: dict[OffTaskPrompt, str] = {}
        answered, cached, seconds = 0, True, 0.0
        self._worker.emit("arm.started", arm=arm.name, rows=len(prompts), of=OFF_TASK)
        for limit, group in group_by_prefix(prompts):
            tell = partial(progress_reporter, self._worker, arm.name, done_before=answered, total=len(prompts))
            options = replace(self._options, max_tokens=limit)
            answers = self._generate(arm, [prompt.row(system) for prompt in group], options, tell, of=OFF_TASK)
            outputs |= {prompt: answer.output for prompt, answer in zip(group, answers.answers, strict=True)}
            answered, cached, seconds = answered + len(group), cached and answers.cached, seconds + answers.seconds
        self._worker.emit("arm.finished", arm=arm.name, rows=len(prompts), cached=cached, seconds=seconds, of=OFF_TASK)
        return [outputs[prompt] for prompt in prompts]

    def answer_with_seeds(
        self, seeds: Sequence[SeedAdapter], validation: Sequence[PromptRow], rows: Sequence[PromptRow]
    ) -> list[SeedAnswers]:
        """Return every seed's answers to the ``validation`` and the held-out ``rows``. The model then has the last seed's adapter."""
        answers = []
        for seed in seeds:
            arm, tell = Arm(TUNED, Path(seed.adapter)), partial(progress_reporter, self._worker, f"seed {seed.seed}")
            parts = [
                self._generate(arm, prompts, self._options, tell, of=f"{part} row", compared=self.compared).answers
                for part, prompts in (("validation", validation), ("held-out", rows))
            ]
            answers.append(SeedAnswers(seed.run, seed.seed, *parts))
        return answers

    def _generate(
        self,
        arm: Arm,
        rows: Sequence[PromptRow],
        options: AnswerOptions,
        tell: Callable[[str], Progress],
        *,
        of: str = HELD_OUT_ROW,
        compared: frozenset[str] = frozenset(),
        timed: bool = False,
    ) -> ArmAnswers:
        if arm.adapter != self._adapter:
            assert arm.adapter
            (lora.load_weights if self._adapter else lora.load)(self._loaded.model, arm.adapter)
            self._prefixes, self._adapter = PrefixCache(self._loaded.model), arm.adapter
        shared = self._prefixes
        return generate_answers(arm, self._loaded, rows, options, tell, of=of, compared=compared, timed=timed, shared=shared)
