"""Statistics of a source: the number, balance and variety of its distinct prompts."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlxtune.data.checks.base import Check, CheckFamily, Finding
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.checks.secrets import entropy

MIN_PROMPTS = 200
GOOD_PROMPTS = 1000
RARE_ROWS = 10  # a tag on fewer rows is too rare to learn or measure
Tier = Literal["too_few", "minimum_viable", "good", "strong"]
_TIERS: tuple[tuple[float, Tier], ...] = (
    (MIN_PROMPTS, "too_few"), (GOOD_PROMPTS, "minimum_viable"), (5000, "good"), (math.inf, "strong"),
)  # fmt: skip
_RARE_SHARE = 0.05  # share of the rows that have the key; of many values, half the mean share
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}\b.*")
_COMMON_OPENING = 0.3  # share of prompts that begin with the same three words

family = CheckFamily()
_TIER = family.register(Check("tier", "note", "amount of data", "{prompts:n distinct prompt} in {rows:n row}.", glyph="·"))
_COVERAGE = family.register(
    Check("coverage", "note", "rare values", "Few of {total:n row} have these values of {key}: {values}.", glyph="·")
)
_DIVERSITY_WORDING = {
    "": "Prompts begin with about {openings:n distinct three-word opening}.",
    "common": "Prompts begin with about {openings:n distinct three-word opening}; {share:.0%} begin with “{opening} …”.",
}
_DIVERSITY = family.register(Check("diversity", "note", "variety of prompts", _DIVERSITY_WORDING, glyph="·"))


@dataclass(frozen=True)
class Statistics:
    """``groups`` counts distinct prompts (near-duplicates once). ``openings`` is the effective number of three-word openings."""

    rows: int
    groups: int
    tier: Tier
    openings: float
    tags: dict[str, dict[str, int]]


def statistics(corpus: Corpus) -> Statistics:
    groups = _groups(corpus)
    return Statistics(len(corpus.counted), groups, tier(groups), effective_number(corpus.openings), tag_counts(corpus))


def _groups(corpus: Corpus) -> int:
    return len({corpus.labels[rank] for rank in corpus.counted})


def tier(groups: int) -> Tier:
    return next(name for limit, name in _TIERS if groups < limit)


def effective_number(counts: Counter[str]) -> float:
    """Return the number of equally frequent kinds with the same entropy: 2 to the power of the entropy in bits (Hill 1973)."""
    return 2 ** entropy(counts) if counts else 0.0


def tag_counts(corpus: Corpus) -> dict[str, dict[str, int]]:
    """Return the keys that have few, repeated values other than dates, each with the number of rows per value, most frequent first."""
    tags: dict[str, dict[str, int]] = {}
    for key, counts in corpus.tags.items():
        if counts and len(counts) > 1 and counts.total() >= len(corpus.counted) / 2 and counts.total() >= 2 * len(counts):
            values = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
            if values not in tags.values() and not all(map(_DATE.fullmatch, values)):  # skip an answer field that repeats a tag
                tags[key] = values
    return tags


def is_rare(count: int, total: int, values: int = 1) -> bool:
    """Return whether ``count`` of ``total`` rows are too few to learn one of ``values`` values from."""
    return count < RARE_ROWS or count < min(_RARE_SHARE, 0.5 / values) * total


@family.corpus_check
def amount(corpus: Corpus) -> Iterator[Finding]:
    if corpus.counted:
        yield _TIER.finding(values={"prompts": _groups(corpus), "rows": len(corpus.counted)})


@family.corpus_check
def coverage(corpus: Corpus) -> Iterator[Finding]:
    for key, counts in tag_counts(corpus).items():
        total = sum(counts.values())
        if rare := {value: n for value, n in reversed(counts.items()) if is_rare(n, total, len(counts))}:
            yield _COVERAGE.finding(values={"key": key, "total": total, "values": rare})


@family.corpus_check
def diversity(corpus: Corpus) -> Iterator[Finding]:
    if not corpus.counted:
        return
    opening, count = corpus.openings.most_common(1)[0]
    share = count / len(corpus.counted)
    values = {"openings": round(effective_number(corpus.openings)), "share": share, "opening": opening}
    is_common = share >= _COMMON_OPENING and len(corpus.counted) > 1
    yield _DIVERSITY.finding(reason="common" if is_common else "", values=values)
