"""The teacher: a model on this machine, a tuned adapter, or a model at an endpoint. It answers questions in calls that are journaled.

The calls, the cost cap, consent, and key rules are those of the judge (``evaluation.judge``). Only the generation worker loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.data.generate.questions import TeacherQuestion
from mlxtune.data.generate.request import TeacherSpec
from mlxtune.evaluation.judge.endpoint import REPLY_TOKENS, CostMeter, EndpointClient, api_key, host, is_local, require_budget
from mlxtune.models.thoughts import split_thought
from mlxtune.recipe import Recipe

if TYPE_CHECKING:
    from mlxtune.models.grammar import Grammar
    from mlxtune.models.load import LoadedModel
    from mlxtune.models.template import ChatTemplate

BATCH_SIZE = 16  # questions that a model on this machine answers together
WORKERS = 4  # concurrent questions to an endpoint
THINKING_TOKENS = 2048  # limit for a teacher whose reasoning cannot be turned off


@dataclass(frozen=True)
class TeacherReply:
    """A reply's text without reasoning, why it ended (``stop`` or ``length``), and the seed that it was sampled with."""

    text: str
    ended: str
    seed: int


def require_teacher(spec: TeacherSpec) -> None:
    """Raise ``InputError`` if ``spec`` names no teacher, its endpoint has no key, or a remote endpoint has no prices or no cap."""
    if not spec.base and not spec.model:
        hint = "Use --local NAME for a model on this machine, --adapter NAME, or --model NAME --url URL for one at an endpoint."
        raise InputError("No teacher was specified.", hint=hint)
    if not spec.base:
        api_key(spec.url, spec.key_env)
        require_budget(spec.url, spec.price_in, spec.price_out, spec.cap)


def require_consent(spec: TeacherSpec) -> None:
    """Raise ``InputError`` if rows would be sent to another machine without consent."""
    if (name := remote_host(spec)) and not spec.consent:
        raise InputError(f"Training rows will be sent to {name}, which needs your consent.", hint="Consent with --send.")


def remote_host(spec: TeacherSpec) -> str:
    """Return the other machine that rows would be sent to, or an empty string."""
    name = host(spec.url) if spec.model else ""
    return "" if not name or is_local(name) else name


class EndpointTeacher:
    """A model at an OpenAI-compatible endpoint."""

    uses_examples = True  # whether training rows precede a prompt
    batch_size = 1
    workers = WORKERS

    def __init__(self, spec: TeacherSpec) -> None:
        """Raises ``InputError`` if the ``judge`` extra is not installed, or the key is missing."""
        require_teacher(spec)
        require_consent(spec)  # here, too, because this sends the rows
        self.name, self.host = spec.model, remote_host(spec)
        self.meter = make_meter(spec)
        self._client = EndpointClient(spec.url, spec.model, api_key(spec.url, spec.key_env), self.meter)

    def ask(self, questions: Sequence[TeacherQuestion], progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Return the reply to the only question as the journal stores it. Raises as :meth:`EndpointClient.complete` does."""
        (question,) = questions
        completion = self._client.complete(question.messages, seed=question.seed)
        text = split_thought(completion.text)[1].encode("utf-8", "replace").decode()  # no file can have lone surrogates
        return {"replies": [{"text": text, "ended": completion.ended, "seed": question.seed}]}


class LocalTeacher:
    """A model on this machine, with an adapter if ``spec`` names one. Its answers follow the schema of the contract, or are one of its labels.

    A tuned adapter knows the task, so it gets no examples.
    """

    host = ""
    batch_size = BATCH_SIZE
    workers = 1

    def __init__(self, spec: TeacherSpec, recipe: Recipe, loaded: LoadedModel, max_tokens: int) -> None:
        """``loaded`` already has the adapter. ``max_tokens`` limits answers; other replies have their own limit."""
        from mlxtune.models.template import TemplateSettings, load_template

        self.meter = CostMeter()
        self.uses_examples = not spec.adapter
        name = Path(loaded.source.name).name
        full = f"{Path(spec.adapter).parent.name} on {name}" if spec.adapter else f"{name}@{loaded.source.fingerprint[:8]}"
        self.name = one_line(full, 100)
        self._recipe, self._loaded, self._max_tokens = recipe, loaded, max_tokens
        settings = TemplateSettings.from_recipe(recipe) if spec.adapter else TemplateSettings(date=recipe.data.date)
        self._template: ChatTemplate = load_template(loaded.source, settings, loaded.tokenizer)

    def ask(self, questions: Sequence[TeacherQuestion], progress: Callable[[int, int], None]) -> dict[str, Any]:
        """Return the replies to the questions, which are computed together."""
        from mlxtune.models.generate import GenerationSettings, PromptGroup, generate

        constrained = all(question.is_answer for question in questions)
        seeds = [question.seed for question in questions]
        settings = GenerationSettings(
            max_tokens=self._max_tokens if constrained else REPLY_TOKENS, stops=self._template.stop_tokens, batch_size=BATCH_SIZE,
            thinking_tokens=self._template.thinking_limit(THINKING_TOKENS), grammar=self._grammar if constrained else None,
            thought_starts=self._template.thought_starts,
        )  # fmt: skip
        prompts = [self._template.question(question.messages, question.tools) for question in questions]
        outputs = generate(
            self._loaded.model, self._loaded.tokenizer, [PromptGroup(prompts, settings, seeds=seeds)], progress=progress
        )
        read, answered = self._template.calls.read, zip(outputs, questions, strict=True)
        replies = [{"text": read(one.text, asked.tools), "ended": one.ended, "seed": asked.seed} for one, asked in answered]
        return {"replies": replies}

    @cached_property
    def _grammar(self) -> Grammar | None:
        from mlxtune.models.grammar import Grammar

        file, labels = self._recipe.schema_file, self._recipe.evaluation.labels
        if file is None and not labels:
            return None
        schema = json.loads(file.read_text(encoding="utf-8")) if file else None
        lark = "" if file else "start: " + " | ".join(json.dumps(label, ensure_ascii=False) for label in labels)
        try:
            return Grammar(self._loaded.tokenizer, schema, self._template.stop_tokens, lark)
        except InputError:  # without llguidance, or for what it cannot express, the contract only filters
            return None


Teacher = EndpointTeacher | LocalTeacher


def make_meter(spec: TeacherSpec) -> CostMeter:
    return CostMeter(spec.price_in, spec.price_out, spec.cap, REPLY_TOKENS)
