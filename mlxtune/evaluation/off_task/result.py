"""Test whether the adapter answers off-task prompts as well as the base: held, dropped, or cannot tell.

This is a paired non-inferiority test with a margin chosen before the run (Piaggio et al. 2012, JAMA 308:2594). The interval is
Tango's score interval with one-sided 95% limits, so *held* and *dropped* are each wrong at most 5% of the time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mlxtune.evaluation.off_task.prompts import OffTaskPrompt
from mlxtune.evaluation.statistics.clusters import effective_n
from mlxtune.evaluation.statistics.intervals import LEVEL, Z_ONE_SIDED, PairedCounts, tango, tango_statistic
from mlxtune.evaluation.statistics.power import non_inferiority_power
from mlxtune.evaluation.statistics.significance import fewest_changes

MARGIN = 0.05  # default of evaluation.regression_margin
LEAST = 0.2  # the sum of both arms' rates below which prompts say too little about forgetting
OffTaskOutcome = Literal["held", "dropped", "cannot_tell"]


@dataclass(frozen=True)
class OffTaskCell:
    """The correct answers to the prompts of a category, asked with or without the system prompt.

    The test counts them only if the rates of both arms add up to at least :data:`LEAST`: otherwise there is little to forget. A rule about
    the base alone would count cells in which it was lucky, and the adapter would seem to drop. This rule is the same for both arms, so
    it says nothing about which of them is better.
    """

    category: str
    with_system: bool
    total: int
    base: int
    tuned: int

    @property
    def counted(self) -> bool:
        return self.base + self.tuned >= LEAST * self.total


@dataclass(frozen=True)
class OffTaskChange:
    """How correct answers changed over the counted prompts of a category, or of all categories if ``category`` is empty."""

    category: str
    prompts: int
    paired: PairedCounts
    effective_n: float
    low: float  # a one-sided 95% limit of the change in the rate, as is ``high``
    change: float
    high: float
    power: float  # the probability of *held* if nothing was forgotten and ``statistics.power.FLIPPED`` of the answers change
    outcome: OffTaskOutcome


@dataclass(frozen=True)
class OffTaskResult:
    """The test's result over all counted prompts and by category."""

    margin: float
    overall: OffTaskChange
    categories: tuple[OffTaskChange, ...]
    cells: tuple[OffTaskCell, ...]
    broken: tuple[str, ...]  # IDs of prompts, which end in ``+system`` for those asked with the system prompt
    fixed: tuple[str, ...]
    nearness: int | None  # the fewest answers of the adapter that would have to be different for another outcome

    @property
    def outcome(self) -> OffTaskOutcome:
        return self.overall.outcome

    @property
    def set_apart(self) -> tuple[OffTaskCell, ...]:
        """The cells that the test does not count."""
        return tuple(cell for cell in self.cells if not cell.counted)


def compare_off_task(
    prompts: Sequence[OffTaskPrompt], base: Sequence[str], tuned: Sequence[str], margin: float = MARGIN
) -> OffTaskResult:
    """Compare the answers of the base and the adapter to ``prompts``, in their order, with the non-inferiority ``margin``.

    Answers to the same prompt in both conditions are dependent, so the interval uses the effective number of answers.
    """
    passes = [(prompt, prompt.passes(one), prompt.passes(two)) for prompt, one, two in zip(prompts, base, tuned, strict=True)]
    cells = []
    for category, with_system in dict.fromkeys((prompt.category, prompt.with_system) for prompt in prompts):
        own = [(one, two) for prompt, one, two in passes if (prompt.category, prompt.with_system) == (category, with_system)]
        cells.append(OffTaskCell(category, with_system, len(own), sum(one for one, _ in own), sum(two for _, two in own)))
    keys = {(cell.category, cell.with_system) for cell in cells if cell.counted}
    counted = [item for item in passes if (item[0].category, item[0].with_system) in keys]
    names = list(dict.fromkeys(prompt.category for prompt in prompts))
    overall = _change("", counted, margin)
    return OffTaskResult(
        margin,
        overall,
        tuple(_change(name, [item for item in counted if item[0].category == name], margin) for name in names),
        tuple(cells),
        broken=tuple(_answer_id(prompt) for prompt, one, two in passes if one and not two),
        fixed=tuple(_answer_id(prompt) for prompt, one, two in passes if two and not one),
        nearness=_nearness(counted, margin, overall.outcome),
    )


def _change(category: str, passes: Sequence[tuple[OffTaskPrompt, bool, bool]], margin: float) -> OffTaskChange:
    ids = [prompt.id for prompt, *_ in passes]
    rows = [(one, two) for _, one, two in passes]
    paired, size = PairedCounts.count(rows), effective_n([two - one for one, two in rows], ids, 2 * LEVEL) if rows else 0.0
    low, change, high = tango(paired, effective_n=size) if rows else (-1.0, 0.0, 1.0)
    power = non_inferiority_power(len(set(ids)), margin)
    return OffTaskChange(category, len(set(ids)), paired, size, low, change, high, power, _outcome(paired, size, margin))


def _outcome(paired: PairedCounts, size: float, margin: float) -> OffTaskOutcome:
    """Return *held* if a drop of ``margin`` is ruled out, *dropped* if a drop is certain, and otherwise *cannot tell*."""
    if not size:
        return "cannot_tell"
    if tango_statistic(paired, -margin, size) > Z_ONE_SIDED:
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
    return fewest_changes(
        (
            sorted(
                (index for index, (_, two) in enumerate(rows) if two is right),
                key=lambda index: (rows[index][0] is first, ids[index] if together else ""),
            )
            for right in directions
            for first in (False, True)
            for together in (False, True)
        ),
        is_turned,
    )


def _answer_id(prompt: OffTaskPrompt) -> str:
    return f"{prompt.id}+system" if prompt.with_system else prompt.id
