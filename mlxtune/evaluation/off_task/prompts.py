"""Off-task prompts: short questions with checkable answers, and the test whether the adapter answers them as well as the base.

This is a paired non-inferiority test with a margin chosen before the run (Piaggio et al. 2012, JAMA 308:2594): held, dropped, or cannot
tell. The interval is Tango's score interval with one-sided 95% limits, so *held* and *dropped* are each wrong at most 5% of the time.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import regex

from mlxtune.core.errors import DataError
from mlxtune.core.json_fields import from_json, optional
from mlxtune.data import samples
from mlxtune.data.rows import Location, Message, Unpaired
from mlxtune.data.source_files import read_json_lines
from mlxtune.evaluation.scorers.output_text import normalize
from mlxtune.evaluation.scorers.phrase_match import TIME_LIMIT, contains_words
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import LEVEL, Z_ONE_SIDED, PairedCounts, tango, tango_statistic
from mlxtune.evaluation.statistics.significance import fewest_changes, non_inferiority_power
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
    ``pattern`` matches somewhere in it. It passes all ``checks`` (see :data:`CHECKS`). Conditions that are empty or ``None`` always hold. An answer has at most ``max_tokens``.
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
        if not all(passes_check(output, check) for check in self.checks):
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
    prompts = []
    for location, value in read_json_lines(file):
        if (prompt := parse_prompt(value, location)) is None:
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
    if not all(map(is_check, prompt.checks)):
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


_WORD = regex.compile(r"[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*")
_SENTENCE_END = re.compile(r"(?<!\bMr)(?<!\bDr)(?<!\bMrs)[.!?]+[\"'”’)*]*(?=\s|$)")
_ITEM = re.compile(r"(?m)^\s*(?:[-*•+]|\d+[.)])\s+(.*\S)")


def passes_check(answer: str, check: tuple[Any, ...]) -> bool:
    """Return whether ``answer`` passes ``check``: its name and arguments. An empty answer passes none."""
    return bool(answer.strip()) and CHECKS[check[0]](answer.strip(), *check[1:])


def is_check(value: tuple[Any, ...]) -> bool:
    """Return whether ``value`` is the name of a check with arguments of its types."""
    return bool(value) and isinstance(value[0], str) and value[0] in _CHECKS.get(tuple(type(one) for one in value[1:]), ())


def _words(text: str) -> list[str]:
    return [str(word).lower() for word in _WORD.findall(text)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _sentences(text: str) -> int:
    """Return the number of sentences, or -1 if the last one does not end."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return len(ends) if ends and ends[-1] == len(text) else -1


def _is_sorted(text: str, count: int) -> bool:
    """Whether there are ``count`` items in alphabetical order: those of a list or, without one, lines or parts between commas."""
    items = _ITEM.findall(text) or _lines(text)
    items = items if len(items) > 1 else re.split(r",\s*", text.rstrip("."))
    return len(items) == count and items == sorted(items, key=str.lower)


def _finds(answer: str, text: str, end: str = "") -> bool:
    """Whether ``text`` occurs: a letter or a sign anywhere, and a word at the start of a word, before the pattern ``end``."""
    is_word = re.fullmatch(r"[\w ]{2,}", text)
    return bool(re.search(rf"(?<!\w){re.escape(text)}{end}" if is_word else re.escape(text), answer, re.IGNORECASE))


def _json(answer: str) -> Any:
    """Return the first JSON object or array in the answer, which may be in a code fence; ``None`` if there is none."""
    try:
        return json.JSONDecoder().raw_decode(re.sub(r"\A[^\[{]*", "", answer))[0]
    except (ValueError, RecursionError):
        return None


_CHECKS: Mapping[tuple[type, ...], Mapping[str, Callable[..., bool]]] = {
    (): {"lowercase": str.islower, "uppercase": str.isupper},
    (int,): {
        "max_words": lambda answer, most: len(_words(answer)) <= most,
        "min_words": lambda answer, least: len(_words(answer)) >= least,
        "words": lambda answer, count: len(_words(answer)) == count,
        "sentences": lambda answer, count: _sentences(answer) == count,
        "paragraphs": lambda answer, count: len(re.split(r"\n\s*\n", answer)) == count,
        "lines": lambda answer, count: len(_lines(answer)) == count,
        "bullets": lambda answer, count: len(re.findall(r"(?m)^\s*[-*•+] +\S", answer)) == count,
        "numbered": lambda answer, count: [*map(int, re.findall(r"(?m)^\s*(\d+)[.)] *\S", answer))] == [*range(1, count + 1)],
        "comma_items": lambda answer, count: [bool(part.strip()) for part in answer.split(",")] == [True] * count,
        "alphabetical": _is_sorted,
        "capitals": lambda answer, least: len(regex.findall(r"\b\p{Lu}{2,}\b", answer)) >= least,  # words in capital letters
        "json_items": lambda answer, count: isinstance(value := _json(answer), list) and len(value) == count,
    },
    (str,): {
        "contains": _finds,  # a word may have an ending
        "omits": lambda answer, text: not _finds(answer, text, r"(?!\w)"),
        "starts": lambda answer, text: answer.lstrip("\"'“*").lower().startswith(text.lower()),
        "ends": lambda answer, text: answer.rstrip("\"'”*").lower().endswith(text.lower()),
        "json_key": lambda answer, key: isinstance(value := _json(answer), dict) and key in value,
    },
    (str, int): {"word_times": lambda answer, word, least: _words(answer).count(word.lower()) >= least},
    (str, str): {  # text between two signs: somewhere in a line, or the whole answer
        "enclosed": lambda answer, left, right: bool(re.search(rf"{re.escape(left)}.*?\w.*?{re.escape(right)}", answer)),
        "wrapped": lambda answer, left, right: (
            re.fullmatch(rf"{re.escape(left)}.+{re.escape(right)}", answer, re.DOTALL) is not None
        ),
    },
}
CHECKS = {name: check for checks in _CHECKS.values() for name, check in checks.items()}


MARGIN = 0.05  # default of evaluation.regression_margin
OffTaskOutcome = Literal["held", "dropped", "cannot_tell"]


@dataclass(frozen=True)
class OffTaskChange:
    """How correct answers changed over the prompts of a category, or over all prompts if ``category`` is empty."""

    category: str
    prompts: int
    paired: PairedCounts
    effective_n: float
    low: float  # a one-sided 95% limit of the change in the rate, as is ``high``
    change: float
    high: float
    power: float  # the probability of *held* if nothing was forgotten and ``statistics.significance.FLIPPED`` of the answers change
    outcome: OffTaskOutcome


@dataclass(frozen=True)
class OffTaskResult:
    """The test's result over all prompts and by category."""

    margin: float
    overall: OffTaskChange
    categories: tuple[OffTaskChange, ...]
    broken: tuple[str, ...]  # IDs of prompts, which end in ``+system`` for those asked with the system prompt
    fixed: tuple[str, ...]
    nearness: int | None  # the fewest answers of the adapter that would have to be different for another outcome

    @property
    def outcome(self) -> OffTaskOutcome:
        return self.overall.outcome


def compare_off_task(
    prompts: Sequence[OffTaskPrompt], base: Sequence[str], tuned: Sequence[str], margin: float = MARGIN
) -> OffTaskResult:
    """Compare the answers of the base and the adapter to ``prompts``, in their order, with the non-inferiority ``margin``.

    All prompts count: leaving out categories that few answers get right would leave out those that the adapter forgot. Answers to the same prompt in both conditions are dependent, so the interval uses the effective number of answers.
    """
    passes = [(prompt, prompt.passes(one), prompt.passes(two)) for prompt, one, two in zip(prompts, base, tuned, strict=True)]
    overall, names = _change("", passes, margin), dict.fromkeys(prompt.category for prompt in prompts)
    categories = tuple(_change(name, [item for item in passes if item[0].category == name], margin) for name in names)
    broken, fixed = (
        tuple(f"{prompt.id}{'+system' * prompt.with_system}" for prompt, *both in passes if both == [not right, right])
        for right in (False, True)
    )
    return OffTaskResult(margin, overall, categories, broken, fixed, _nearness(passes, margin, overall.outcome))


def _change(category: str, passes: Sequence[tuple[OffTaskPrompt, bool, bool]], margin: float) -> OffTaskChange:
    ids = [prompt.id for prompt, *_ in passes]
    rows = [(one, two) for _, one, two in passes]
    paired, size = PairedCounts.count(rows), effective_n([two - one for one, two in rows], ids, 2 * LEVEL)
    low, change, high = tango(paired, size)
    power = non_inferiority_power(len(set(ids)), margin)
    return OffTaskChange(category, len(set(ids)), paired, size, low, change, high, power, _outcome(paired, size, margin))


def _outcome(paired: PairedCounts, size: float, margin: float) -> OffTaskOutcome:
    """Return *held* if a drop of ``margin`` is ruled out, *dropped* if a drop is certain, and otherwise *cannot tell*.

    A base that is right no more often than ``margin`` cannot drop by as much.
    """
    if paired.first > margin * paired.total and tango_statistic(paired, -margin, size) > Z_ONE_SIDED:
        return "held"
    return "dropped" if tango_statistic(paired, 0.0, size) < -Z_ONE_SIDED else "cannot_tell"


def _nearness(passes: Sequence[tuple[OffTaskPrompt, bool, bool]], margin: float, outcome: OffTaskOutcome) -> int | None:
    """Change the adapter's answers one after another, from right to wrong or from wrong to right, until the outcome is another one."""
    ids, rows = [prompt.id for prompt, *_ in passes], [(one, two) for _, one, two in passes]

    def is_turned(changed: frozenset[int]) -> bool:
        now = [(one, two != (index in changed)) for index, (one, two) in enumerate(rows)]
        size = effective_n([two - one for one, two in now], ids, 2 * LEVEL)
        return _outcome(PairedCounts.count(now), size, margin) != outcome

    directions = {"held": (True,), "dropped": (False,)}.get(outcome, (True, False))

    def order(right: bool, first: bool, together: bool) -> list[int]:
        own = (index for index, (_, two) in enumerate(rows) if two is right)
        return sorted(own, key=lambda index: (rows[index][0] is first, ids[index] if together else ""))

    both = (False, True)
    return fewest_changes((order(*how) for how in product(directions, both, both)), is_turned)
