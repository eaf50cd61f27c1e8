"""Answer the held-out rows and the off-task prompts with one arm after another, on one loaded model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import Location, Message, PromptRow, Unpaired
from mlxtune.data.split import Splits, sample_rows
from mlxtune.evaluation.answer_budget import LONGER, AnswerBudget
from mlxtune.evaluation.answers import ArmAnswers, SeedAnswers, is_undecided
from mlxtune.evaluation.arms import BASE, STRONGEST, TUNED, Arm
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.endpoint_answers import endpoint_answers
from mlxtune.evaluation.off_task.prompts import OFF_TASK, OffTaskPrompt, group_by_prefix
from mlxtune.evaluation.optimized_prompt import REFLECTION_TOKENS, VALIDATION_ROWS, PromptOptimizer, training_seconds
from mlxtune.evaluation.outputs import AnswerOptions, Part, answer_room, answer_together, generate_answers, model_identity
from mlxtune.evaluation.report import EndpointFacts, OptimizerFacts
from mlxtune.models import lora
from mlxtune.models.generate import Progress
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix_cache import PrefixCache
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import Endpoint
from mlxtune.runs.events import HELD_OUT_ROW
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker


class ArmRunner:
    """Runs arms on ``loaded``, which has no adapter at first. Arms with the same adapter must follow one another.

    Answers are limited by ``budget`` and should satisfy ``schema``, if there is one. For preference pairs with an ID in ``compared``,
    the likelihoods of both answers are computed.
    """

    def __init__(
        self,
        worker: Worker,
        loaded: LoadedModel,
        template: ChatTemplate,
        budget: AnswerBudget,
        compared: frozenset[str],
        schema: Any,
    ) -> None:
        section = worker.recipe.evaluation
        self.endpoints: dict[str, EndpointFacts] = {}
        self._worker, self._loaded, self._template = worker, loaded, template
        self.compared = compared
        cache = worker.folder.parent / "cache"
        self._options = AnswerOptions(
            template.settings, budget.max_tokens, section.thinking_tokens, section.batch_size, cache, section.stop_loops, schema
        )
        self._grammar_tokens = budget.grammar_tokens or budget.max_tokens
        self._adapter: Path | None = None
        self._prefixes = PrefixCache(loaded.model)

    def answer(self, arm: Arm, rows: Sequence[PromptRow]) -> ArmAnswers:
        tell = partial(self._worker.progress_reporter, arm.name)
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
            extras = self._worker.recipe.evaluation.extras
            answers = self._generate(
                arm, rows, self._options, tell, compared=self.compared, timed=extras, score_references=extras or bool(self.compared)
            )
        self._worker.emit("arm.finished", arm=arm.name, rows=len(rows), cached=answers.cached, seconds=answers.seconds)
        if answers.no_likelihood_reason:
            self._worker.warn("no_perplexity", arm=arm.name, reason=answers.no_likelihood_reason)
        return answers

    def continue_answers(self, arm: Arm, rows: Sequence[PromptRow], measured: ArmAnswers) -> ArmAnswers:
        """Return ``measured``, the answers of ``arm`` to ``rows``, in which those that were cut off and might have passed are longer."""
        options, before = self._options, measured.answers
        room = answer_room([arm], self._loaded, self._template, rows, options.thinking_tokens)
        most = self._grammar_tokens if arm.schema is not None else options.max_tokens
        factor = LONGER if room is None else min(LONGER, room // most)
        cut = [index for index, one in enumerate(before) if one.ended == "length" and is_undecided(one)]
        if factor < 2 or not cut:
            return measured
        longer = self._generate(
            arm, [rows[index] for index in cut], options, partial(self._worker.progress_reporter, arm.name),
            timed=any(one.seconds is not None for one in before), score_references=False, factor=factor,
        )  # fmt: skip
        answers = list(before)
        for index, one in zip(cut, longer.answers, strict=True):
            answers[index] = replace(one, nats=before[index].nats, tokens=before[index].tokens)
        return replace(measured, answers=tuple(answers), seconds=measured.seconds + longer.seconds)

    def optimize(self, arm: Arm, contract: Contract, splits: Splits) -> tuple[Arm, OptimizerFacts]:
        """Return ``arm`` with an optimized prompt, and what that took: as long as the training, or ``optimizer_calls`` answers."""
        recipe, options = self._worker.recipe, self._options
        section, rows = recipe.evaluation, [row for row in splits.train if isinstance(row, PromptRow)]
        endpoint = section.endpoints[section.optimizer] if section.optimizer else None
        budget = section.optimizer_calls or training_seconds(self._worker, self._loaded.source, splits)
        kind = "optimizer_call" if section.optimizer_calls else "optimizer_second"
        report = self._worker.progress_reporter(arm.name, kind)
        rendered = self._template.prompt((Message("user", ""),), ())  # how the template renders prompts today
        reflecting = [endpoint.url, endpoint.model] if endpoint else []
        identity = [model_identity(arm, self._loaded), rendered, options.max_tokens, options.thinking_tokens, reflecting]

        def tell(_: str) -> Progress:
            return lambda *_: report(int(optimizer.used), int(budget))

        optimizer = PromptOptimizer(
            contract,
            lambda prompt, rows: self._generate(replace(arm, prompt=prompt), rows, options, tell, of="row", score_references=False),
            lambda request: self._reflect(request, endpoint, tell, optimizer.facts["spent"]),
            options.cache / f"{sha256_json(identity)[:32]}.optimizer.jsonl",
            budget,
            counts_calls=bool(section.optimizer_calls),
        )
        validation = [row for row in splits.valid if isinstance(row, PromptRow)] or rows
        report(0, int(budget))
        prompt = optimizer.optimize(arm.prompt, rows, sample_rows(validation, VALIDATION_ROWS), recipe.data.seed)
        return replace(arm, prompt=prompt), {**optimizer.facts, "model": section.optimizer or BASE}

    def _reflect(
        self, request: str, endpoint: Endpoint | None, tell: Callable[[str], Progress], spent: float
    ) -> tuple[str, int, float]:
        """Ask the reflecting model, which is the base or the model at ``endpoint``, on which ``spent`` dollars were spent so far.

        Return its reply, the length of the reply in tokens, and the dollars spent on it.
        """
        options, row = self._options, Unpaired(Location(Path(), 0), {}, (Message("user", request),), "", False)
        if endpoint is None:
            alone = Arm(BASE)
            room = answer_room([alone], self._loaded, self._template, [row], options.thinking_tokens)
            limit = REFLECTION_TOKENS if room is None else max(1, min(REFLECTION_TOKENS, room))
            answers, cost = self._generate(alone, [row], replace(options, max_tokens=limit), tell, of="row"), 0.0
        else:
            limited = replace(endpoint, cap=max(1e-9, endpoint.cap - spent) if endpoint.cap else 0.0)
            answers, cost = endpoint_answers(
                Arm(BASE), limited, [row], max_tokens=REFLECTION_TOKENS + options.thinking_tokens, cache=options.cache, tell=tell,
                count_tokens=self._template.count_tokens,
            )  # fmt: skip
        (reply,) = answers.answers
        return reply.output, reply.answer_tokens + reply.thought_tokens, cost

    def answer_off_task(self, arm: Arm, prompts: Sequence[OffTaskPrompt], system: str) -> list[str]:
        """Return the answers of ``arm`` to off-task ``prompts``, in order. ``system`` is the task's system prompt."""
        self._worker.emit("arm.started", arm=arm.name, rows=len(prompts), of=OFF_TASK)
        groups = group_by_prefix(prompts)
        parts = [
            (arm, [one.row(system) for one in group], replace(self._options, max_tokens=limit, schema=None))
            for limit, group in groups
        ]
        answered = self._answer_together(parts, self._worker.progress_reporter(arm.name, OFF_TASK))
        cached, seconds = all(part.cached for part in answered), sum(part.seconds for part in answered)
        self._worker.emit("arm.finished", arm=arm.name, rows=len(prompts), cached=cached, seconds=seconds, of=OFF_TASK)
        outputs = {
            prompt: answer.output
            for (_, group), part in zip(groups, answered, strict=True)
            for prompt, answer in zip(group, part.answers, strict=True)
        }
        return [outputs[prompt] for prompt in prompts]

    def answer_candidates(self, arms: Sequence[Arm], rows: Sequence[PromptRow]) -> list[ArmAnswers]:
        """Return the answers of untrained ``arms`` to the validation ``rows``."""
        progress = self._worker.progress_reporter(STRONGEST, "validation row")
        return self._answer_together([(arm, rows, self._options) for arm in arms], progress)

    def answer_validation(self, arm: Arm, rows: Sequence[PromptRow]) -> ArmAnswers:
        tell = partial(self._worker.progress_reporter, arm.name)
        return self._generate(arm, rows, self._options, tell, of="validation row", score_references=False)

    def answer_with_seeds(
        self, seeds: Sequence[Run], validation: Sequence[PromptRow], rows: Sequence[PromptRow]
    ) -> list[SeedAnswers]:
        """Return the answers of the adapters of ``seeds``, runs that differ only in the seed, to the ``validation`` and the held-out ``rows``.

        The model then has the last one's adapter.
        """
        answers = []
        for run in seeds:
            seed = run.recipe().training.seed
            arm, tell = Arm(TUNED, run.adapter), partial(self._worker.progress_reporter, f"seed {seed}")
            parts = [
                self._generate(arm, prompts, self._options, tell, of=f"{part} row", compared=self.compared).answers
                for part, prompts in (("validation", validation), ("held-out", rows))
            ]
            answers.append(SeedAnswers(run.id, seed, *parts))
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
        score_references: bool = True,
        factor: int = 1,
    ) -> ArmAnswers:
        self._load_adapter(arm)
        options = self._limited(arm, options)
        options = replace(options, max_tokens=factor * options.max_tokens)
        shared = self._prefixes
        return generate_answers(
            arm, self._loaded, rows, options, tell, of=of, compared=compared, timed=timed, shared=shared, score_references=score_references
        )  # fmt: skip

    def _answer_together(self, parts: Sequence[Part], progress: Progress) -> list[ArmAnswers]:
        self._load_adapter(parts[0][0])
        limited = [(arm, rows, self._limited(arm, options)) for arm, rows, options in parts]
        return answer_together(limited, self._loaded, self._prefixes, progress)

    def _limited(self, arm: Arm, options: AnswerOptions) -> AnswerOptions:
        return options if arm.schema is None else replace(options, max_tokens=self._grammar_tokens)

    def _load_adapter(self, arm: Arm) -> None:
        if arm.adapter != self._adapter:
            if arm.adapter is None:
                lora.remove(self._loaded.model)
            else:
                (lora.load_weights if self._adapter else lora.load)(self._loaded.model, arm.adapter)
            self._prefixes, self._adapter = PrefixCache(self._loaded.model), arm.adapter
