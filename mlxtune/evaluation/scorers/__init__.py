"""Scorers: functions from a :class:`ModelAnswer` to a :class:`Score`, one metric per file.

To add one, write a file that declares a :class:`Scorer` and list it in ``registry.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlxtune.core.json_fields import optional

if TYPE_CHECKING:
    from mlxtune.evaluation.contract import Contract


@dataclass(frozen=True)
class ModelAnswer:
    """The text to score, why it ended, the reference answer, and the text of the prompt.

    ``output`` is the answer after the model's reasoning. ``ended`` is ``stop``, ``length``, ``grammar`` (:data:`GRAMMAR_LIMIT`), ``loop``
    (:data:`LOOP`), ``thinking`` (:data:`THINKING_LIMIT`) or ``thinking_loop`` (:data:`THINKING_LOOP`).
    """

    output: str
    ended: str = "stop"
    reference: str | None = None
    prompt: str = ""

    @property
    def interruption(self) -> str:
        """``cut_off`` or ``in_a_loop`` if the answer did not end on its own, else an empty string."""
        return {"length": "cut_off", GRAMMAR_LIMIT: "cut_off", LOOP: "in_a_loop"}.get(self.ended, "")


@dataclass(frozen=True)
class Score:
    passed: bool
    kind: str = optional("")  # the class of failure, a code
    detail: str = field(default="", compare=False, metadata={"key": None})
    """What is wrong, for people. It is not stored: scoring the output again finds it."""
    value: float | None = optional(None)  # a partial score from 0 to 1, for scorers that compute one
    is_final: bool = optional(False)  # whether no text could undo the failure if it followed the output
    others: tuple[str, ...] = optional(())  # the further classes of a failure that has several

    @property
    def kinds(self) -> tuple[str, ...]:
        return self.kind, *self.others


def in_words(code: str) -> str:
    """Return a class of failure in words, for the detail of a score."""
    return code.replace("_", " ")


PASS = Score(True)
GRAMMAR_LIMIT = "grammar"  # an answer was ended at the limit, under a grammar that would have ended it later, even a loop
LOOP = "loop"  # an answer was ended because it repeated itself and would have continued to do so until the token limit
THINKING_LIMIT = "thinking"  # an answer was ended within its reasoning, which reached its limit
THINKING_LOOP = "thinking_loop"  # an answer was ended within its reasoning, because the reasoning repeated itself
CORRECT = "correct"  # the metric that passes if the answer equals the reference where the contract says so
CONVERSATION = "conversation"  # the metric of a conversation's last turn that passes if all evaluated turns are correct
CONTRACT = "contract"  # the metric that passes if every required metric passes
PREFERENCE = "preference"  # the metric of a pair that passes if the chosen answer is more likely than the rejected one
ScoreFunction = Callable[[ModelAnswer], Score]


@dataclass(frozen=True)
class Scorer:
    name: str
    label: str
    build: Callable[[Contract], ScoreFunction | None]  # ``None`` if the contract does not configure the metric
    required: bool | Callable[[Contract], bool] = True  # whether it is part of the contract; the others are only reported
    needs_reference: bool = False
    is_form: bool = False  # whether it describes the shape of outputs, which is never compared between arms
    replaces_json: bool = False  # whether a contract with it requires JSON only if it has a schema
