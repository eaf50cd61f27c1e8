"""The arms of an evaluation: who answers the held-out rows, and how each is asked. No mlx here: faces read it.

Whoever says that training helped must beat what needs no training: a better prompt, a few examples in it, a grammar.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, plural
from mlxtune.data.rows import Conversation, Message, Preference, Question, Row
from mlxtune.recipe import Recipe

BASE, PROMPT, KSHOT, GRAMMAR, PARENT, TUNED = "base", "base+prompt", "base+kshot", "base+grammar", "parent", "tuned"
_SYSTEM = ("system", "developer")


@dataclass(frozen=True)
class Arm:
    """One contestant: the base, or the base with ``adapter``.

    ``prompt`` stands in place of a row's system turn where there is one; ``shots`` are turns before the question; ``schema`` is
    what a grammar holds the answers to.
    """

    name: str
    adapter: Path | None = None
    prompt: str = ""
    shots: tuple[Message, ...] = ()
    schema: Any = None

    def ask(self, row: Question) -> tuple[Message, ...]:
        """The turns that this arm is asked with."""
        system = tuple(turn for turn in row.prompt if turn.role in _SYSTEM)
        others = tuple(turn for turn in row.prompt if turn.role not in _SYSTEM)
        return ((Message("system", self.prompt),) if self.prompt else system) + self.shots + others


def arms(recipe: Recipe, adapter: Path | None, train: Sequence[Row]) -> list[Arm]:
    """Those that ``recipe`` asks for, the base first and then all that needs no training.

    With an ``adapter`` it comes last, behind what its training started from. Shots are chosen from ``train``. Raises
    ``InputError`` when a file cannot be read, or ``train`` has too few conversations.
    """
    section = recipe.evaluation
    found = [Arm(BASE)]
    if PROMPT in section.arms:
        found.append(Arm(PROMPT, prompt=_prompt(recipe)))
    if KSHOT in section.arms:
        found.append(Arm(KSHOT, shots=shots(train, section.shots, recipe.data.seed)))
    if GRAMMAR in section.arms and recipe.schema:
        found.append(Arm(GRAMMAR, schema=json.loads(_text(recipe.schema))))
    if adapter and TUNED in section.arms:
        found += [Arm(PARENT, recipe.path(recipe.adapter.parent))] if recipe.adapter.parent else []
        found.append(Arm(TUNED, adapter))
    return found


def shots(train: Sequence[Row], count: int, seed: int) -> tuple[Message, ...]:
    """``count`` training rows, chosen by ``seed`` whatever their order, as turns without their system turn.

    Raises ``InputError`` when there are fewer.
    """
    rows = sorted((row for row in train if isinstance(row, Conversation | Preference) and not row.tools), key=lambda row: row.hash)
    if len(rows) < count:
        raise InputError(
            f"base+kshot wants {plural(count, 'example')}, and there are {plural(len(rows), 'training row')} to take.",
            mend="Lower evaluation.shots, or leave base+kshot out of evaluation.arms.",
        )
    chosen = random.Random(seed).sample(rows, count)
    return tuple(
        turn
        for row in chosen
        for turn in (*row.prompt, Message("assistant", row.reference))
        if turn.role not in _SYSTEM
    )  # fmt: skip


def _prompt(recipe: Recipe) -> str:
    text = _text(recipe.prompt_file) if recipe.prompt_file else recipe.evaluation.prompt
    if not text.strip():
        raise InputError(
            f"{recipe.prompt_file} is empty.", mend="Write your best prompt, or leave base+prompt out of evaluation.arms."
        )
    return text.strip()


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read: {one_line(str(error), 120)}.") from error
