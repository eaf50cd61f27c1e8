"""The state of a search, read from its folder, and the next rung to train, which depends on nothing else.

    search.json                 the trials, rungs and rows; written once, before the first trial
    choices.jsonl               trials that the user dropped or pinned, and the limit that the budget set
    trials/03/                  a trial: its recipe and its events, as in a run's folder
    trials/03/trunk/            checkpoints before the decay
    trials/03/rung-2/           the adapter after the second rung, and result.json: which validation rows passed
    trials/03/failed.json       why a trial cannot continue
    outcome.json                the decision, the run with the selected adapter, and its evaluation

A result is written once and completely, so that a search that is killed continues with the same decisions.

Each trial has a trunk with a constant learning rate. A rung branches off its trunk and decays the rate to 0, so that it is a complete
run of that length with ``schedule = "wsd"``; the next rung continues from the trunk, not from the start (Hu et al. 2024,
arXiv:2404.06395).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from mlxtune.core import journal
from mlxtune.core.files import read_json, write_json
from mlxtune.core.json_fields import load_record
from mlxtune.recipe import Recipe, TrainingSection
from mlxtune.runs.locks import file_lock

PLAN, CHOICES, RESULT, FAILED, OUTCOME = "search.json", "choices.jsonl", "result.json", "failed.json", "outcome.json"
OUTCOME_VERSION = 2
REDUCTION = 3  # after a rung, the best third of the trials continues
INCUMBENT = 1  # the trial with the recipe's own values, which is never pruned
Choice = Literal["drop", "pin", "limit"]
_HINT = "Delete it to compute it again."


@dataclass(frozen=True)
class Trial:
    number: int  # starting at 1
    values: dict[str, Any]  # hyperparameters
    cost: float  # compute; 1 is that of the recipe's steps with all layers adapted, without the adapter
    rungs: tuple[int, ...]  # the lengths in steps after which it is compared
    steps: tuple[int, ...]  # that each rung takes, including the trunk since the rung before


@dataclass(frozen=True)
class SearchPlan:
    """The trials, and the validation rows with their groups of near-duplicates."""

    trials: tuple[Trial, ...]
    rows: tuple[str, ...]
    groups: tuple[str, ...]
    v: int = 1

    @property
    def rung_count(self) -> int:
        """The number of rungs, which is the same for all trials."""
        return len(self.trials[0].rungs)


@dataclass(frozen=True)
class RungResult:
    trial: int
    rung: int  # starting at 0
    passed: tuple[bool, ...]  # which rows passed
    nats: float  # in total, of the reference answers
    tokens: int  # of the reference answers
    trained: int  # steps that this rung took, including the trunk since the previous rung
    seconds: float  # that it took
    answering: float = 0.0  # seconds of these for the answers
    v: int = 1

    @property
    def rate(self) -> float:
        return sum(self.passed) / len(self.passed)

    @property
    def loss(self) -> float:
        """The mean loss per token of the reference answers; infinite if it could not be computed."""
        return self.nats / self.tokens if self.tokens else float("inf")


@dataclass(frozen=True)
class Board:
    plan: SearchPlan
    results: Mapping[tuple[int, int], RungResult] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)
    dropped: frozenset[int] = frozenset()
    pinned: frozenset[int] = frozenset()
    limit: int = 0  # the number of trials that fit the budget; 0 = all

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that the budget allows."""
        return self.plan.trials[: self.limit or None]

    def trial(self, number: int) -> Trial:
        return self.plan.trials[number - 1]

    def is_out(self, number: int) -> bool:
        return number in self.failures or number in self.dropped

    def ranking(self, rung: int) -> list[int]:
        """Return the trials with a result at ``rung``, best first: by rate, then loss, then cost, then number."""
        scored = [trial for trial in self.trials if (trial.number, rung) in self.results and not self.is_out(trial.number)]
        results = [self.results[trial.number, rung] for trial in scored]
        order = ((-one.rate, one.loss, trial.cost, trial.number) for one, trial in zip(results, scored, strict=True))
        return [number for *_, number in sorted(order)]

    def cohort(self, rung: int) -> list[int]:
        """Return the trials that take part in ``rung``: all in the first one, then the best third, the recipe, and pinned trials."""
        if rung == 0:
            return [trial.number for trial in self.trials if not self.is_out(trial.number)]
        ranking = self.ranking(rung - 1)
        best = set(ranking[: math.ceil(len(ranking) / REDUCTION)]) | {INCUMBENT} | self.pinned
        return sorted(number for number in ranking if number in best)

    def is_pruned(self, number: int) -> bool:
        """Return whether a trial took part in a complete rung and does not continue to the next one."""
        rung = self.last_rung(number) + 1
        if not 0 < rung < self.plan.rung_count or self.is_out(number):
            return False
        complete = all((other, rung - 1) in self.results for other in self.cohort(rung - 1))
        return complete and number not in self.cohort(rung)

    def next_rung(self) -> tuple[int, int] | None:
        """Return the next trial and rung to train; ``None`` if the search is complete."""
        places = ((number, rung) for rung in range(self.plan.rung_count) for number in self.cohort(rung))
        return next((place for place in places if place not in self.results), None)

    def last_rung(self, number: int) -> int:
        """Return the last rung of a trial with a result; -1 if it has none."""
        return max((rung for trial, rung in self.results if trial == number), default=-1)

    @property
    def top_rung(self) -> int:
        """The highest rung at which trials can be compared; -1 if there is none."""
        return max((rung for rung in range(self.plan.rung_count) if self.ranking(rung)), default=-1)

    def remaining_work(self, trials: int) -> tuple[int, int]:
        """Estimate how many more steps and rungs the first ``trials`` take; exact without ties and failures."""
        steps, rungs = 0.0, 0
        for rung, size in enumerate(cohort_sizes(trials, self.plan.rung_count)):
            waiting = [trial.steps[rung] for trial in self.plan.trials[:trials] if (trial.number, rung) not in self.results]
            count = max(0, size - (trials - len(waiting)))
            steps += fmean(waiting) * count if count else 0.0
            rungs += count
        return math.ceil(steps), rungs

    def estimate_seconds(self, steps: int, rungs: int) -> float:
        """Estimate the time of ``steps`` more steps and the answers after ``rungs`` rungs from the results, of which there must be some.

        The answers take as long after a short rung as after a long one, so they are not part of the time of a step.
        """
        results = self.results.values()
        training = sum(result.seconds - result.answering for result in results) / self.trained_steps
        return steps * training + rungs * fmean(result.answering for result in results)

    @property
    def trained_steps(self) -> int:
        """The total number of optimizer steps behind all results."""
        return sum(result.trained for result in self.results.values())


def cohort_sizes(trials: int, rungs: int) -> list[int]:
    """Return how many trials take part in each rung, if the recipe itself is not among the best ones."""
    sizes = [trials]
    for _ in range(rungs - 1):
        sizes.append(min(sizes[-1], math.ceil(sizes[-1] / REDUCTION) + 1))
    return sizes


def trial_folder(search: Path, number: int) -> Path:
    return search / "trials" / f"{number:02d}"


def rung_folder(search: Path, number: int, rung: int) -> Path:
    return trial_folder(search, number) / f"rung-{rung + 1}"


def write_plan(search: Path, plan: SearchPlan) -> None:
    write_json(search / PLAN, asdict(plan))


def write_result(search: Path, result: RungResult) -> None:
    write_json(rung_folder(search, result.trial, result.rung) / RESULT, asdict(result))


def write_failure(search: Path, number: int, reason: str) -> None:
    write_json(trial_folder(search, number) / FAILED, {"v": 1, "reason": reason})


def choose(search: Path, choice: Choice, number: int) -> None:
    """Record that the user drops or pins a trial, or that the budget allows ``number`` trials."""
    busy = "Another process is changing this search."
    with file_lock(search / "choices.lock", busy=busy), journal.Journal(search / CHOICES) as writer:
        writer.append({"v": 1, "choice": choice, "trial": number}, sync=True)


def read_board(search: Path) -> Board | None:
    """Read the state of the search in a folder; ``None`` if it has no plan yet. Raise ``InputError`` for a damaged file."""
    if not (search / PLAN).is_file():
        return None
    plan = load_record(SearchPlan, search / PLAN, 1, _HINT)
    numbers = [trial.number for trial in plan.trials]
    done = {place: rung_folder(search, *place) / RESULT for place in product(numbers, range(plan.rung_count))}
    failed = {number: trial_folder(search, number) / FAILED for number in numbers}
    results = {place: load_record(RungResult, file, 1, _HINT) for place, file in done.items() if file.is_file()}
    failures = {number: str(read_json(file)["reason"]) for number, file in failed.items() if file.is_file()}
    return Board(plan, results, failures, *choices(search))


def choices(search: Path) -> tuple[frozenset[int], frozenset[int], int]:
    """Return the dropped and the pinned trials, and the limit. The last choice about a trial counts."""
    latest: dict[int, str] = {}
    limit = 0
    for record in journal.read(search / CHOICES):
        match record:
            case {"choice": "limit", "trial": int(count)}:
                limit = count
            case {"choice": "drop" | "pin" as choice, "trial": int(number)}:
                latest[number] = choice
    dropped = frozenset(number for number, choice in latest.items() if choice == "drop")
    return dropped, frozenset(latest) - dropped, limit


def relative_cost(adapted: int, depth: int, rank: int, width: int) -> float:
    """Return the compute of a step: a forward pass through all layers, a backward pass through the adapted ones, and the adapter's."""
    return (depth + 2 * adapted) / (3 * depth) * (1 + 2 * rank / max(1, width))


FRACTIONS = (1 / 6, 1 / 3, 1.0)  # lengths of the rungs as fractions of the recipe's steps
MIN_STEPS = 4  # minimum number of steps of a trial
_NEVER = 1_000_000_000  # steps


def rung_lengths(total: int) -> tuple[int, ...]:
    """Return the numbers of steps after which trials of ``total`` steps are compared, in ascending order."""
    return tuple(sorted({max(2, math.ceil(fraction * total)) for fraction in FRACTIONS}))


def trunk_steps(section: TrainingSection, length: int) -> int:
    """Return the number of steps of the trunk before the rung of ``length`` steps branches off."""
    return length - _decay_steps(section, length)


def rung_steps(section: TrainingSection, lengths: Sequence[int]) -> tuple[int, ...]:
    """Return the steps that each rung of ``lengths`` takes: the trunk since the rung before branched off, and the decay."""
    starts = [0, *(trunk_steps(section, length) for length in lengths[:-1])]
    return tuple(length - start for start, length in zip(starts, lengths, strict=True))


def trunk_section(section: TrainingSection, length: int, total: int) -> TrainingSection:
    """Return the section that trains the trunk up to where the rung of ``length`` steps branches off."""
    steps = trunk_steps(section, length)
    return replace(_common(section, steps, total), schedule="constant")


def rung_section(section: TrainingSection, length: int, total: int) -> TrainingSection:
    """Return the section of a whole run of ``length`` steps, which begins with the trunk."""
    decay = _fraction(_decay_steps(section, length), length)
    return replace(_common(section, length, total), schedule="wsd", decay=decay)


def rung_recipe(recipe: Recipe, length: int, total: int) -> Recipe:
    """Return the recipe of a run that ends with the adapter of the rung of ``length`` steps."""
    section = replace(rung_section(recipe.training, length, total), validate_every=length, samples=recipe.training.samples)
    return replace(recipe, training=section)


def _common(section: TrainingSection, steps: int, total: int) -> TrainingSection:
    """Return ``section`` for ``steps`` steps, with the warmup of ``total`` steps and without validation or early stopping."""
    first = rung_lengths(total)[0]
    warmup = min(math.ceil(section.warmup * total), trunk_steps(section, first))
    return replace(
        section, steps=steps, warmup=_fraction(warmup, steps), early_stop=0, samples=0, validate_every=_NEVER, keep=1,
    )  # fmt: skip


def _decay_steps(section: TrainingSection, length: int) -> int:
    return min(length - 1, max(1, math.ceil(section.decay * length)))


def _fraction(count: int, total: int) -> float:
    """Return a fraction of ``total`` that rounds up to ``count``."""
    return round((count - 0.5) / total, 9) if count and total else 0.0
