"""What the data is, rather than what is wrong with it: how much, how even, how varied, and what would help the most."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlxtune.core.text import one_line, plural
from mlxtune.data.checks.finding import CHECKS, Finding, enter, whole_check
from mlxtune.data.checks.survey import Survey

TIERS = ((200, "too few"), (1000, "minimum viable"), (5000, "good"), (math.inf, "strong"))  # below so many different prompts

TIER = enter("tier", "note", "how much there is", mark="·")
COVERAGE = enter("coverage", "note", "what is rare", mark="·")
DIVERSITY = enter("diversity", "note", "how varied prompts are", mark="·")

_RARE = 0.05  # of the rows that have the key
_LEAST = 10
_SAME = 0.3  # of all prompts begin with the same three words


@dataclass(frozen=True)
class Facts:
    """``groups`` are different prompts, near twins counted once. ``openings`` is the effective number of first three words."""

    rows: int
    groups: int
    tier: str
    openings: float
    tags: dict[str, dict[str, int]]


def facts(survey: Survey) -> Facts:
    """The figures that notes and the statistics are about."""
    groups = len(set(survey.labels))
    return Facts(len(survey.at), groups, tier(groups), effective(survey.openings), tags(survey))


def tier(groups: int) -> str:
    """What a number of different prompts is called."""
    return next(name for limit, name in TIERS if groups < limit)


def effective(counts: Counter[str]) -> float:
    """The number of equally frequent kinds that would be as uneven: two to the power of the entropy in bits (Hill 1973)."""
    total = counts.total()
    return 2 ** -sum(count / total * math.log2(count / total) for count in counts.values()) if total else 0.0


def tags(survey: Survey) -> dict[str, dict[str, int]]:
    """Keys with a few values that come again, each with how many rows have it, most first."""
    found: dict[str, dict[str, int]] = {}
    for key, counts in survey.tags.items():
        if counts and len(counts) > 1 and counts.total() >= len(survey.at) / 2 and counts.total() >= 2 * len(counts):
            values = dict(counts.most_common())
            if values not in found.values():  # an answer's field that a tag repeats
                found[key] = values
    return found


@whole_check
def how_much(survey: Survey) -> Iterator[Finding]:
    if survey.at:
        groups = len(set(survey.labels))
        yield Finding(
            TIER.id,
            TIER.severity,
            (),
            f"{_capital(tier(groups))}: {plural(groups, 'different prompt')} in {plural(len(survey.at), 'row')}.",
        )


@whole_check
def how_even(survey: Survey) -> Iterator[Finding]:
    for key, counts in tags(survey).items():
        total = sum(counts.values())
        rare = [f"{one_line(value, 30)} {count}" for value, count in counts.items() if count < _LEAST or count < _RARE * total]
        if rare:
            more = f" and {len(rare) - 5} more" if len(rare) > 5 else ""
            why = f"{_capital(one_line(key, 30))}: of {total:,} rows, few have {', '.join(rare[-5:])}{more}."
            yield Finding(COVERAGE.id, COVERAGE.severity, (), why)


@whole_check
def how_varied(survey: Survey) -> Iterator[Finding]:
    if not survey.at:
        return
    opening, count = survey.openings.most_common(1)[0]
    share = count / len(survey.at)
    alone = f" “{one_line(opening, 40)} …” opens {100 * share:.0f} %." if share >= _SAME and len(survey.at) > 1 else ""
    openings = round(effective(survey.openings))
    yield Finding(
        DIVERSITY.id,
        DIVERSITY.severity,
        (),
        f"Prompts begin in about {plural(openings, 'way')}, by their first three words.{alone}",
    )


def advice(facts: Facts, findings: Sequence[Finding], fix: str = "--fix") -> str:
    """The one next thing that would help the most; ``fix`` is what the reader does to have something mended."""
    counts = Counter(finding.check for finding in findings if finding.severity != "note")
    blocks = Counter(finding.check for finding in findings if finding.severity == "block")
    if blocks["leak"]:
        return (
            f"Take out of train what is held out ({plural(blocks['leak'], 'row')}): until then no evaluation counts. {fix} does it."
        )
    if blocks["secret"]:
        return f"Take out the keys in {plural(blocks['secret'], 'row')}, and make new ones: they have been in a file. {fix} masks them."
    if blocks:
        check, count = blocks.most_common(1)[0]
        way = fix if CHECKS[check].fix.safe or fix != "--fix" else f"{fix} --also {check}"
        return f"Mend the {CHECKS[check].title} ({count:,}), or leave them out: {way}."
    if facts.rows == 0:
        return "Add rows."
    if facts.tier == "too few":
        return (
            f"Write about {200 - facts.groups:,} more rows that ask something new: under 200 different prompts, results are luck."
        )
    if counts["conflict"] > 0.01 * facts.rows:
        return f"Settle the {plural(counts['conflict'], 'prompt')} that have two different answers: they teach to guess."
    copies = counts["duplicate"] + counts["near-duplicate"]
    if copies > 0.05 * facts.rows:
        return (
            f"Leave out the {plural(copies, 'row')} that repeat others: they count twice in training. {fix} takes the exact ones."
        )
    if counts["truncated"] > 0.02 * facts.rows:
        return f"Raise data.max_tokens, or shorten the {plural(counts['truncated'], 'row')} that would be cut."
    rarest = min(((count, key, value) for key, values in facts.tags.items() for value, count in values.items()), default=None)
    if rarest and rarest[0] < _LEAST:
        return f"Add rows with {one_line(rarest[1], 30)} = {one_line(rarest[2], 30)}: there are {rarest[0]}, too few to learn or to measure."
    if facts.tier == "minimum viable":
        return f"Train: it is enough to begin with. About {1000 - facts.groups:,} more different prompts would make it good."
    return "Train: nothing here would help more."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
