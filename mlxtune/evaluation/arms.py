"""The arms of an evaluation: the models and prompts that answer the held-out rows.

A tuned model must beat the alternatives that need no training: a better prompt, few-shot examples, a grammar. It may be combined with
a prompt or a grammar itself.
"""

import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_errors, read_text
from mlxtune.core.text import plural
from mlxtune.data.rows import Conversation, Message, Preference, PromptRow, Row, shared_system_prompt
from mlxtune.evaluation.scorers.json_parser import resolve_pointer
from mlxtune.recipe import Endpoint, Recipe

BASE, PROMPT, KSHOT, GRAMMAR, PARENT = "base", "base+prompt", "base+kshot", "base+grammar", "parent"
STRONGEST = "strongest"  # the untrained arm that passes most validation rows
GRAMMAR_KSHOT, GRAMMAR_PROMPT, OPTIMIZED = "base+grammar+kshot", "base+grammar+prompt", "base+optimized"
CONSTANT, COPIER = "constant", "copier"  # the free arms, which generate nothing
ENDPOINT = "endpoint:"  # followed by the name of an endpoint
TUNED, TUNED_PROMPT, TUNED_GRAMMAR = "tuned", "tuned+prompt", "tuned+grammar"
UNTRAINED = (BASE, PROMPT, KSHOT, GRAMMAR, GRAMMAR_KSHOT, GRAMMAR_PROMPT, OPTIMIZED)  # in the order of a report
TUNED_ARMS = (TUNED, TUNED_PROMPT, TUNED_GRAMMAR)
Shown = Conversation | Preference  # training rows that few-shot arms show


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
        system = tuple(turn for turn in row.prompt if turn.is_system)
        others = tuple(turn for turn in row.prompt if not turn.is_system)
        return ((Message("system", self.prompt),) if self.prompt else system) + self.shots + others


def is_tuned(name: str) -> bool:
    return name.partition("+")[0] == TUNED


def is_free(name: str) -> bool:
    """Return whether the arm named ``name`` generates nothing: a constant answer, or copies of training answers."""
    return name in (CONSTANT, COPIER)


def default_arms(recipe: Recipe) -> tuple[str, ...]:
    """Return the arms of a recipe that lists none: the strongest ones without a prompt of the user's."""
    if not recipe.evaluation.schema:
        return (BASE, KSHOT, TUNED)
    return (BASE, KSHOT, GRAMMAR, GRAMMAR_KSHOT, TUNED, TUNED_GRAMMAR)


def arm_names(recipe: Recipe) -> tuple[str, ...]:
    """Return the arms that ``recipe`` lists or, if it lists none, the default ones that can be evaluated here."""
    return tuple(recipe.evaluation.arms) or tuple(name for name in default_arms(recipe) if not lacks_package(name))


def chooses_arms(recipe: Recipe) -> bool:
    """Return whether ``recipe`` leaves the choice of some arms to the evaluation, which then leaves out those it cannot have."""
    return not recipe.evaluation.arms or STRONGEST in recipe.evaluation.arms


def strongest_candidates(recipe: Recipe) -> tuple[str, ...]:
    """Return the arms of which ``strongest`` is one: the untrained default ones and those with the recipe's prompt."""
    prompted = (PROMPT, *((GRAMMAR_PROMPT,) if recipe.evaluation.schema else ())) if recipe.evaluation.prompt.strip() else ()
    return tuple(name for name in (*default_arms(recipe), *prompted) if name != BASE and not is_tuned(name))


def contest(recipe: Recipe) -> tuple[int, int]:
    """Return how many baselines, with the free arms, and how many tuned arms a verdict about ``recipe`` compares."""
    names = {BASE, *arm_names(recipe)}
    tuned = sum(map(is_tuned, names))
    return len(names) - tuned + len((CONSTANT, COPIER)), max(1, tuned)


def lacks_package(name: str) -> bool:
    """Return whether the arm named ``name`` needs llguidance or gepa, which is not installed."""
    needed = "llguidance" if has_grammar(name) else "gepa" if name == OPTIMIZED else ""
    return bool(needed) and find_spec(needed) is None


def has_grammar(name: str) -> bool:
    return "grammar" in name.split("+")


def build_arms(recipe: Recipe, adapter: Path | None, train: Sequence[Row]) -> list[Arm]:
    """Build the arms of ``recipe``: the base, the arms that need no training, the adapter's parent, and the arms with the adapter.

    Few-shot examples are chosen from ``train``. Raises ``InputError`` for an unreadable file or too few conversations. A recipe that
    leaves the choice to the evaluation has no arm with examples then. All candidates of ``strongest`` are included.
    """
    section, names = recipe.evaluation, arm_names(recipe)
    if STRONGEST in names:
        names += tuple(name for name in strongest_candidates(recipe) if not lacks_package(name))
    if chooses_arms(recipe) and len(shown_rows(train)) < section.shots:
        names = tuple(name for name in names if "kshot" not in name.split("+"))

    def build(name: str, adapter: Path | None = None) -> Arm:
        parts = name.split("+")
        prompt = _prompt(recipe) if "prompt" in parts else _first_prompt(recipe, train) if name == OPTIMIZED else ""
        shots = sample_shots(train, section.shots, recipe.data.seed, label_fields(recipe)) if "kshot" in parts else ()
        schema = json.loads(_text(recipe.schema_file)) if has_grammar(name) and recipe.schema_file else None
        return Arm(name, adapter, prompt, shots, schema)

    built = [build(name) for name in UNTRAINED if name in names]
    endpoints = (name for name in names if name.startswith(ENDPOINT))
    built += [Arm(name, endpoint=section.endpoints[name.removeprefix(ENDPOINT)]) for name in endpoints]
    if adapter and TUNED in names:
        built += [Arm(PARENT, recipe.path(recipe.adapter.parent))] if recipe.adapter.parent else []
        built += [build(name, adapter) for name in TUNED_ARMS if name in names]
    return built


def label_fields(recipe: Recipe) -> list[str]:
    """Return the JSON Pointers of the fields that must equal the reference's, or ``""`` for the whole answer."""
    correct = recipe.evaluation.correct or ([] if recipe.has_contract else ["answer"])
    return ["" if part == "answer" else part for part in correct if part == "answer" or part.startswith("/")]


def _first_prompt(recipe: Recipe, train: Sequence[Row]) -> str:
    """Return the prompt with which the optimization begins: the recipe's, or else the rows' own."""
    if lacks_package(OPTIMIZED):
        raise InputError(f"The arm {OPTIMIZED} requires gepa.", hint="Run: pip install 'mlxtune[optimize]'")
    return _prompt(recipe) if recipe.evaluation.prompt else shared_system_prompt(train) or "Answer the user."


def _prompt(recipe: Recipe) -> str:
    text = _text(recipe.prompt_file) if recipe.prompt_file else recipe.evaluation.prompt
    if not text.strip():
        raise InputError(f"{recipe.prompt_file} is empty.", hint="Write your best prompt, or change evaluation.arms.")
    return text.strip()


def _text(file: Path) -> str:
    with read_errors(str(file)):
        return read_text(file)


def sample_shots(train: Sequence[Row], count: int, seed: int, labels: Sequence[str] = ()) -> tuple[Message, ...]:
    """Return the turns of ``count`` training rows, without system turns. ``seed`` determines the choice, regardless of row order.

    The rows cover the values of ``labels`` in the answers, most frequent first: JSON Pointers, or ``""`` for whole answers. Raises
    ``InputError`` if there are fewer rows.
    """
    rows = sorted(shown_rows(train), key=lambda row: row.hash)
    if len(rows) < count:
        found = f"{plural(count, 'example')}, but there are only {plural(len(rows), 'training row')}"
        raise InputError(f"base+kshot needs {found}.", hint="Lower evaluation.shots, or change evaluation.arms.")
    return tuple(
        turn
        for row in _covering(rows, count, random.Random(seed), labels)
        for turn in (*row.prompt, row.messages[-1] if isinstance(row, Conversation) else Message("assistant", row.reference))
        if not turn.is_system
    )  # fmt: skip


def shown_rows(train: Sequence[Row]) -> list[Shown]:
    rows = [row for row in train if isinstance(row, Conversation | Preference)]
    if len({json.dumps(row.tools) for row in rows}) > 1:  # a prompt has only the tools of its own row
        rows = [row for row in rows if not row.tools]
    return rows


def _covering(rows: Sequence[Shown], count: int, rng: random.Random, labels: Sequence[str]) -> list[Shown]:
    """Return ``count`` of ``rows``, each with the most frequent values of ``labels`` that no earlier one has; without any, at random."""
    values = {row.hash: _label_values(row.reference, labels) for row in rows}
    counts = Counter(value for row in rows for value in values[row.hash])
    if max(counts.values(), default=1) == 1:
        return rng.sample(rows, count)
    left, chosen, shown = rng.sample(rows, len(rows)), list[Shown](), set[tuple[str, str]]()
    while len(chosen) < count:
        best = max(left, key=lambda row: sum(counts[value] for value in values[row.hash] - shown))
        if values[best.hash] <= shown and shown:
            shown.clear()  # all are covered: begin again
            continue
        chosen.append(best)
        left.remove(best)
        shown |= values[best.hash]
    return chosen


def _label_values(answer: str, labels: Sequence[str]) -> set[tuple[str, str]]:
    """Return each label that ``answer`` has, with its value as canonical JSON."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = answer.strip()
    found = {label: resolve_pointer(value, label) if label else value for label in labels}
    return {(label, json.dumps(part, sort_keys=True)) for label, part in found.items() if part is not None}
