"""Off-task prompts: short questions with checkable answers, used to detect forgetting."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import regex

from mlxtune.core.errors import DataError
from mlxtune.core.files import read_failure, read_text
from mlxtune.core.json_fields import from_json, optional
from mlxtune.data import samples
from mlxtune.data.rows import Location, Message, Unpaired
from mlxtune.evaluation.off_task import instructions
from mlxtune.evaluation.scorers.output_text import normalize
from mlxtune.evaluation.scorers.phrase_match import TIME_LIMIT, contains_words
from mlxtune.recipe import Recipe

SHIPPED = Path("data/samples/regression.jsonl")
OFF_TASK = "off_task_prompt"  # what an arm answers, in events
MAX_TOKENS = 32  # default maximum length of an answer
_NUMBER = re.compile(r"(?<![\d.])-?\d+(?:\.\d+)?")
_SKIP = 'To skip off-task prompts, set evaluation.regression = "".'


@dataclass(frozen=True)
class OffTaskPrompt:
    """A prompt, and the conditions that a correct answer meets. ``with_system`` prompts are asked with the task's system prompt.

    A correct answer contains at least one of the words in ``accept`` (if there are any) and none of those in ``reject``; its first
    number that is not in the prompt is ``number`` (its last one, if the prompt contains ``number``); and the regular expression
    ``pattern`` matches somewhere in it. It passes all ``checks`` (see ``instructions``). Conditions that are empty or ``None`` always hold. An answer has at most ``max_tokens``.
    """

    id: str
    prompt: str
    accept: tuple[str, ...]
    location: Location = field(metadata={"key": None})
    category: str = optional("")
    reject: tuple[str, ...] = optional(())
    number: float | None = optional(None)
    pattern: str = optional("")
    checks: tuple[tuple[Any, ...], ...] = optional(())
    with_system: bool = optional(False)
    max_tokens: int = optional(MAX_TOKENS)

    def row(self, system: str = "") -> Unpaired:
        """Return the prompt as a row without a reference answer, after ``system`` if it is asked with a system prompt."""
        turns = (Message("system", system),) if self.with_system else ()
        return Unpaired(self.location, {}, (*turns, Message("user", self.prompt)), "", False)

    def passes(self, output: str) -> bool:
        """Return whether ``output`` is a correct answer. Words match whole words, ignoring case."""
        text = normalize(output)
        if (self.accept and not _contains(text, self.accept)) or _contains(text, self.reject):
            return False
        if self.number is not None and _stated_number(text, normalize(self.prompt), self.number) != self.number:
            return False
        if not all(instructions.passes(output, check) for check in self.checks):
            return False
        try:
            return not self.pattern or bool(regex.search(self.pattern, output, timeout=TIME_LIMIT))
        except TimeoutError:
            return False


def load_prompts(recipe: Recipe) -> tuple[OffTaskPrompt, ...]:
    """Load the recipe's off-task prompts: the built-in ones, the user's, or none. Raises ``DataError``."""
    setting = recipe.evaluation.regression
    if not setting:
        return ()
    if setting != "shipped" and not recipe.path(setting).exists():
        raise DataError(f"evaluation.regression: there is no file at {recipe.path(setting)}.", hint=_SKIP)
    prompts = read_prompts(samples.samples_root() / SHIPPED if setting == "shipped" else recipe.path(setting))
    return sample_prompts(prompts, recipe.evaluation.regression_rows)


def sample_prompts(prompts: Sequence[OffTaskPrompt], count: int) -> tuple[OffTaskPrompt, ...]:
    """Return ``count`` of ``prompts`` (0 means all), of each category in proportion, spread evenly over its prompts."""
    ordered = sorted(prompts, key=lambda prompt: prompt.category)
    if not 0 < count < len(prompts):
        return tuple(prompts)
    chosen = {ordered[index * len(ordered) // count].id for index in range(count)}
    return tuple(prompt for prompt in prompts if prompt.id in chosen)


def in_both_conditions(prompts: Sequence[OffTaskPrompt], system: str) -> tuple[OffTaskPrompt, ...]:
    """Return ``prompts`` and, if the task has a ``system`` prompt, the same prompts asked with it."""
    return (*prompts, *(replace(prompt, with_system=True) for prompt in prompts if system))


def group_by_prefix(prompts: Sequence[OffTaskPrompt]) -> list[tuple[int, list[OffTaskPrompt]]]:
    """Return the groups of prompts to answer together, with their limits: those with the same limit and the same system prompt.

    The tokens that all prompts of a group begin with are computed once. Without the system prompt, only a few are the same.
    """
    keys = sorted({(prompt.max_tokens, prompt.with_system) for prompt in prompts})
    return [(key[0], [prompt for prompt in prompts if (prompt.max_tokens, prompt.with_system) == key]) for key in keys]


def read_prompts(file: Path) -> tuple[OffTaskPrompt, ...]:
    """Read lines of ``{"id", "category", "prompt"}`` with at least one of ``accept``, ``number``, ``pattern`` and ``checks``.

    Raises ``DataError`` for a malformed line.
    """
    try:
        lines = read_text(file).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {file}: {read_failure(error)}.") from error
    prompts = []
    for location, line in ((Location(file, number), line) for number, line in enumerate(lines, 1) if line.strip()):
        try:
            prompt = parse_prompt(json.loads(line), location)
        except ValueError as error:
            raise DataError(f"{location}: invalid JSON.") from error
        if prompt is None:
            raise DataError(
                f'{location}: expected {{"id": …, "prompt": …}} with "accept": [words], "number": …, "pattern": "regular expression" or "checks": ….'
            )
        prompts.append(prompt)
    if not prompts:
        raise DataError(f"{file} has no prompts.", hint=_SKIP)
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise DataError(f"{file}: two prompts have the same ID.")
    return tuple(prompts)


def parse_prompt(value: Any, location: Location) -> OffTaskPrompt | None:
    """Return the prompt that a JSON object describes, or ``None`` if it is malformed. Other keys are ignored."""
    keys = {field.name for field in fields(OffTaskPrompt)} - {"location"}
    try:
        record = {key: item for key, item in value.items() if key in keys}
        prompt = from_json(OffTaskPrompt, {"accept": [], **record}, location=location)
        regex.compile(prompt.pattern)
    except (AttributeError, KeyError, TypeError, ValueError, regex.error):
        return None
    if not all(map(instructions.is_check, prompt.checks)):
        return None
    given = prompt.accept or prompt.number is not None or prompt.pattern or prompt.checks
    words = [prompt.prompt, *prompt.accept, *prompt.reject]
    return prompt if given and prompt.max_tokens > 0 and all(word.strip() for word in words) else None


def _stated_number(text: str, prompt: str, expected: float) -> float | None:
    """Return the number that an answer states: the first one that does not repeat the prompt, or the last if that one is expected."""
    known, numbers = ([float(number) for number in _NUMBER.findall(one.replace(",", ""))] for one in (prompt, text))
    new = numbers[::-1] if expected in known else [number for number in numbers if number not in known]
    return new[0] if new else None


def _contains(text: str, words: Sequence[str]) -> bool:
    return any(contains_words(text, word) for word in words)
