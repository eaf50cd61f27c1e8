"""Rows that say the same as others: copies, near copies, one prompt with two answers, and twins on both sides of a split."""

from __future__ import annotations

import re
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations

from mlxtune.data import similar
from mlxtune.data.checks.finding import DROP, HAND, UNUSABLE, Finding, Fix, enter, whole_check
from mlxtune.data.checks.look import target
from mlxtune.data.checks.pairs import normalised
from mlxtune.data.checks.survey import Survey
from mlxtune.data.rows import Preference, Row, Text, Unpaired

LEAK = enter("leak", "block", "train rows that repeat held-out ones", UNUSABLE, "⇄")
COPY = enter("duplicate", "warn", "exact duplicates", Fix("drop", "keep the first", safe=True), "≈")
NEAR = enter("near-duplicate", "warn", "near-duplicates", DROP, "≈")
CONFLICT = enter("conflict", "warn", "prompts with two different answers", HAND, "≠")

_EVERY = 8  # rows in a group of twins up to which each pair is looked at, and not only the links that hold the group together
_TRIES = 2000  # twins that one row is compared with, at most, to find it in another share
_NUMBER = re.compile(r"\d+")


@whole_check
def copies(survey: Survey) -> Iterator[Finding]:
    """Rows whose whole content, metadata apart, stood there before, in the same share: in another one, that is a leak."""
    for rank, first in survey.copies.items():
        if survey.shares[rank] != survey.shares[first]:
            continue
        yield Finding(COPY.id, COPY.severity, (survey.at[rank], survey.at[first]), "The same row stands there already.")


@whole_check
def near(survey: Survey) -> Iterator[Finding]:
    """Rows whose prompts are near twins: their answers are, too, or they contradict each other."""
    for pairs in _pairs(survey):
        seen: set[tuple[str, int]] = set()
        read = lru_cache(maxsize=256)(lambda rank: survey.read(survey.at[rank]))
        for i, j, alike in pairs:
            if survey.copies.get(j, j) == survey.copies.get(i, i) or survey.shares[i] != survey.shares[j]:
                continue
            check = _relation(read(i), read(j), survey, i, j)
            if check and (check, j) not in seen:
                seen.add((check, j))
                rows = (survey.at[j], survey.at[i])
                if check == NEAR.id:
                    yield Finding(
                        NEAR.id,
                        NEAR.severity,
                        rows,
                        f"It says nearly what another row says ({alike:.2f} alike in what is asked).",
                    )
                else:
                    yield Finding(
                        CONFLICT.id,
                        CONFLICT.severity,
                        rows,
                        "Another row answers this prompt differently: one of them is wrong, or both teach to guess.",
                    )


@whole_check
def leaks(survey: Survey) -> Iterator[Finding]:
    """Rows of the train share whose prompt, or a near twin of it, is held out for the test or for validation."""
    if len(set(survey.shares)) < 2:
        return
    for members in _groups(survey):
        sides: defaultdict[str, list[int]] = defaultdict(list)
        for rank in members:
            sides[survey.shares[rank]].append(rank)
        for rank in sides.get("train", []):
            for share, severity in (("test", LEAK.severity), ("valid", "warn")):
                twins = [other for other in sides.get(share, [])[:_TRIES] if _twins(survey, rank, other)]
                if twins:
                    held = "held out for the test" if share == "test" else "held out for validation"
                    rows = (survey.at[rank], *(survey.at[other] for other in twins[:20]))
                    why = f"Its prompt is {held} too, in the same or nearly the same words: what is measured there would be memory."
                    yield Finding(LEAK.id, severity, rows, why)
                    break


def _twins(survey: Survey, one: int, two: int) -> bool:
    first, second = survey.questions[one], survey.questions[two]
    return first == second or similar.jaccard(first, second) >= survey.threshold


def _groups(survey: Survey) -> Iterator[list[int]]:
    """The ranks in each group of twins, where there is more than one."""
    members: defaultdict[int, list[int]] = defaultdict(list)
    for rank, label in enumerate(survey.labels):
        members[label].append(rank)
    return (ranks for ranks in members.values() if len(ranks) > 1)


def _pairs(survey: Survey) -> Iterator[list[similar.Pair]]:
    """Pairs of twins, group by group: all of a small group; of a large one each row with one other, which holds it together."""
    linked: defaultdict[int, list[int]] = defaultdict(list)
    for i, j, _ in survey.links:
        linked[i].append(j)
        linked[j].append(i)
    for ranks in _groups(survey):
        if len(ranks) > _EVERY:
            pairs = list(_tree(ranks[0], linked))
        else:
            pairs = list(combinations(ranks, 2))
        alike = [(i, j, similar.jaccard(survey.questions[i], survey.questions[j])) for i, j in pairs]
        yield [pair for pair in alike if pair[2] >= survey.threshold]


def _tree(root: int, linked: dict[int, list[int]]) -> Iterator[tuple[int, int]]:
    """Every other member of a group once, behind the one that it is linked to on the way to ``root``."""
    seen, waiting = {root}, deque([root])
    while waiting:
        one = waiting.popleft()
        for other in sorted(linked[one]):
            if other not in seen:
                seen.add(other)
                waiting.append(other)
                yield one, other


def _relation(one: Row, two: Row, survey: Survey, i: int, j: int) -> str:
    """Which check two rows with twin prompts are for, if one."""
    if type(one) is not type(two):
        return ""
    same = _alike(target(one), target(two))
    if isinstance(one, Text):
        return NEAR.id
    if isinstance(one, Preference) and isinstance(two, Preference):
        crossed = normalised(one.chosen) == normalised(two.rejected) or normalised(one.rejected) == normalised(two.chosen)
        return CONFLICT.id if crossed else NEAR.id if same else ""
    if isinstance(one, Unpaired) and isinstance(two, Unpaired):
        return "" if not same else NEAR.id if one.label == two.label else CONFLICT.id
    if same:
        return NEAR.id
    asked = [_NUMBER.findall(survey.questions[rank]) for rank in (i, j)]
    return CONFLICT.id if survey.systems[i] == survey.systems[j] and asked[0] == asked[1] else ""


def _alike(one: str, two: str) -> bool:
    return one == two or normalised(one) == normalised(two) or similar.jaccard(one, two) >= 0.8


def groups(labels: Sequence[int]) -> int:
    """How many different prompts there are, near twins counted once."""
    return len(set(labels))
