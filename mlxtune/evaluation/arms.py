"""The arms of an evaluation: the models and prompts that answer the held-out rows.

A tuned model must beat the alternatives that need no training: a better prompt, few-shot examples, a grammar. It may be combined with
a prompt or a grammar itself.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_failure, read_text
from mlxtune.core.text import plural
from mlxtune.data.rows import Conversation, Message, Preference, PromptRow, Row, shared_system_prompt
from mlxtune.recipe import Endpoint, Recipe

BASE, PROMPT, KSHOT, GRAMMAR, PARENT = "base", "base+prompt", "base+kshot", "base+grammar", "parent"
OPTIMIZED = "base+optimized"
CONSTANT, COPIER = "constant", "copier"  # the free arms, which generate nothing
ENDPOINT = "endpoint:"  # followed by the name of an endpoint
TUNED, TUNED_PROMPT, TUNED_GRAMMAR = "tuned", "tuned+prompt", "tuned+grammar"
_SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Arm:
    """The base model, optionally with ``adapter``, or the model at ``endpoint``."""

    name: str
    adapter: Path | None = None
    prompt: str = ""  # replaces a row's system turn
    shots: tuple[Message, ...] = ()  # before the user's turn
    schema: Any = None  # constrains decoding
    endpoint: Endpoint | None = None

    def prompt_for(self, row: PromptRow) -> tuple[Message, ...]:
        """Return the prompt for ``row`` as turns."""
        system = tuple(turn for turn in row.prompt if turn.role in _SYSTEM)
        others = tuple(turn for turn in row.prompt if turn.role not in _SYSTEM)
        return ((Message("system", self.prompt),) if self.prompt else system) + self.shots + others


@dataclass(frozen=True)
class SeedAdapter:
    """An adapter, the run that trained it, and the seed of that run."""

    run: str
    seed: int
    adapter: str


def is_tuned(name: str) -> bool:
    """Return whether the arm named ``name`` uses the adapter."""
    return name.partition("+")[0] == TUNED


def is_free(name: str) -> bool:
    """Return whether the arm named ``name`` generates nothing: a constant answer, or copies of training answers."""
    return name in (CONSTANT, COPIER)


def build_arms(recipe: Recipe, adapter: Path | None, train: Sequence[Row]) -> list[Arm]:
    """Build the arms of ``recipe``: the base, the arms that need no training, the adapter's parent, and the arms with the adapter.

    Few-shot examples are chosen from ``train``. Raises ``InputError`` for an unreadable file or too few conversations.
    """
    section = recipe.evaluation
    built = [Arm(BASE)]
    if PROMPT in section.arms:
        built.append(Arm(PROMPT, prompt=_prompt(recipe)))
    if KSHOT in section.arms:
        built.append(Arm(KSHOT, shots=sample_shots(train, section.shots, recipe.data.seed)))
    if GRAMMAR in section.arms and recipe.schema_file:
        built.append(Arm(GRAMMAR, schema=json.loads(_text(recipe.schema_file))))
    if OPTIMIZED in section.arms:
        built.append(Arm(OPTIMIZED, prompt=_first_prompt(recipe, train)))
    built += [
        Arm(name, endpoint=section.endpoints[name.removeprefix(ENDPOINT)]) for name in section.arms if name.startswith(ENDPOINT)
    ]
    if adapter and TUNED in section.arms:
        built += [Arm(PARENT, recipe.path(recipe.adapter.parent))] if recipe.adapter.parent else []
        built.append(Arm(TUNED, adapter))
        if TUNED_PROMPT in section.arms:
            built.append(Arm(TUNED_PROMPT, adapter, prompt=_prompt(recipe)))
        if TUNED_GRAMMAR in section.arms and recipe.schema_file:
            built.append(Arm(TUNED_GRAMMAR, adapter, schema=json.loads(_text(recipe.schema_file))))
    return built


def sample_shots(train: Sequence[Row], count: int, seed: int) -> tuple[Message, ...]:
    """Return the turns of ``count`` training rows, without system turns. ``seed`` determines the choice, regardless of row order.

    Raises ``InputError`` if there are fewer rows.
    """
    rows = sorted((row for row in train if isinstance(row, Conversation | Preference)), key=lambda row: row.hash)
    if len({json.dumps(row.tools) for row in rows}) > 1:  # a prompt has only the tools of its own row
        rows = [row for row in rows if not row.tools]
    if len(rows) < count:
        raise InputError(
            f"base+kshot needs {plural(count, 'example')}, but there are only {plural(len(rows), 'training row')}.",
            hint="Lower evaluation.shots, or leave base+kshot out of evaluation.arms.",
        )
    chosen = random.Random(seed).sample(rows, count)
    return tuple(
        turn
        for row in chosen
        for turn in (*row.prompt, row.messages[-1] if isinstance(row, Conversation) else Message("assistant", row.reference))
        if turn.role not in _SYSTEM
    )  # fmt: skip


def _first_prompt(recipe: Recipe, train: Sequence[Row]) -> str:
    """Return the prompt with which the optimization begins: the recipe's, or else the rows' own."""
    if find_spec("gepa") is None:
        raise InputError(f"The arm {OPTIMIZED} requires gepa.", hint="Run: pip install 'mlxtune[optimize]'")
    return _prompt(recipe) if recipe.evaluation.prompt else shared_system_prompt(train) or "Answer the user."


def _prompt(recipe: Recipe) -> str:
    text = _text(recipe.prompt_file) if recipe.prompt_file else recipe.evaluation.prompt
    if not text.strip():
        raise InputError(
            f"{recipe.prompt_file} is empty.",
            hint="Write your best prompt, or leave the arms with a prompt out of evaluation.arms.",
        )
    return text.strip()


def _text(file: Path) -> str:
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {file}: {read_failure(error)}.") from error
