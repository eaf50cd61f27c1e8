"""What a report says in words, whoever it is written for."""

from __future__ import annotations

import time
from typing import Any

from mlxtune.core.text import duration, plural
from mlxtune.evaluation.contract import LABELS
from mlxtune.evaluation.evidence import Near
from mlxtune.evaluation.failures import Failure
from mlxtune.evaluation.power import expectation
from mlxtune.evaluation.report import Arm, Report
from mlxtune.evaluation.verdict import HEADLINE, Comparison

CLASSES = 6  # of failures that are listed
_ASKS = 140  # characters of a train row's question
_DONE = {
    "accept": "accepted by", "reject": "rejected by", "skip": "skipped by", "tie": "called a tie by", "bad": "called bad by",
    "swap": "turned round by", "edit": "edited by", "tag": "tagged by", "note": "noted by",
}  # fmt: skip


def sides(report: Report) -> tuple[Arm, ...]:
    """The arms that the verdict is about, before and after; the last one alone where nothing was tuned."""
    item = report.headline
    return tuple(arm for arm in report.arms if arm.arm in (item.first, item.second)) if item else report.arms[-1:]


def lede(report: Report) -> str:
    """The headline for a reader who knows no statistics."""
    item = report.headline
    if item is None:
        told = [f"{rate.hits:,} of {rate.total:,} ({arm.arm})" for arm in report.arms for rate in [arm.rate(HEADLINE)]]
        return f"Without training, the model holds to the whole contract in {', '.join(told)} answers."
    paired = item.paired
    before, after = paired.both + paired.broken, paired.both + paired.fixed
    return (
        f"Of {paired.total:,} rows, {before:,} were right on “{LABELS[item.metric]}” before ({item.first}) and {after:,} after "
        f"({item.second}): {paired.fixed:,} fixed, {paired.broken:,} broken."
    )


def in_words(report: Report, item: Comparison) -> str:
    """The change, test and verdict of a comparison of ``report``."""
    p = item.p if item.adjusted is None else item.adjusted
    after = f"{p_value(item.p)}, {p_value(p)} after Holm" if p_value(p) != p_value(item.p) else p_value(p)
    return (
        f"The rate changed by {change(item.low, item.change, item.high)} points. If training did nothing, a difference this uneven "
        f"would come up with p {after} ({'exact sign flips of whole groups' if report.grouped else 'exact McNemar test'}): {item.word}."
    )


def hold_out(report: Report) -> str:
    """How far the rows can be believed: whether they trained, whether they are independent, how often they were seen, what they can show."""
    told = report.facts
    rows = int(told.get("rows", 0))
    groups = int(told.get("groups", rows))
    alike = f"Some ask nearly the same, and count as {plural(groups, 'group')} of rows." if groups < rows else ""
    _, _, shows = expectation(groups).partition(": ")
    power = f"A rise shows, four times in five, from {shows}" if shows[:1].isdigit() else f"They are {shows}"
    parts = [f"{plural(rows, 'held-out row')}.", told.get("untouched", ""), alike, told.get("ledger", ""), told.get("moved", "")]
    parts += [power] if report.headline is None else []
    return " ".join(str(part) for part in parts if part)


def compared(report: Report) -> list[tuple[str, list[Comparison]]]:
    """The comparisons pair by pair, each pair with its name: what the verdict is about first, then the others of what was tuned.

    Of pairs without it there is only the metric of the verdict: the rest stands in ``report.json``.
    """
    metric, last = str(report.facts.get("headline", HEADLINE)), report.arms[-1].arm
    first = (report.headline.first, report.headline.second) if report.headline else ("", "")
    pairs: dict[tuple[str, str], list[Comparison]] = {}
    for item in sorted(report.comparisons, key=lambda item: item.metric != metric):
        if item.second == last or item.metric == metric:
            pairs.setdefault((item.first, item.second), []).append(item)
    order = sorted(pairs, key=lambda pair: (pair != first, pair[1] != last))
    return [(f"{pair[1]} over {pair[0]}", pairs[pair]) for pair in order]


def method(report: Report) -> str:
    """How changes are judged."""
    grouped = report.grouped
    test = "exact sign flips of whole groups" if grouped else "exact McNemar p"
    return f"same rows; Newcombe intervals{', of what grouped rows are worth' if grouped else ''}; {test}, adjusted (Holm)"


def contract(report: Report) -> str:
    """What the whole contract asks, for a reader who was not there when it was written."""
    asked = [LABELS.get(name, name) for name in report.facts.get("asks", [])]
    return f"The whole contract: {', '.join(asked)}." if asked else ""


def made(report: Report) -> str:
    """The day it was made: ``24 November 2026``."""
    try:
        moment = time.strptime(str(report.facts.get("made", ""))[:10], "%Y-%m-%d")
    except ValueError:
        return ""
    return f"{moment.tm_mday} {time.strftime('%B %Y', moment)}"


def some(shown: int, failed: int) -> str:
    """How many of the rows that fail are shown, and where the others are."""
    if shown == failed:
        return f"all {failed} that the last arm fails" if failed > 1 else "the one that the last arm fails"
    return f"{shown} of {failed:,}, broken ones first; the others are in outputs.jsonl"


def beside(report: Report, failure: Failure) -> tuple[str, str] | None:
    """What an answer that fails is shown beside, with its name: the one that held before, else the data's own, if there is one."""
    if failure.before and (failure.broken or failure.row.reference is None):
        return sides(report)[0].arm, failure.before.output
    return ("the data's own answer", failure.row.reference) if failure.row.reference is not None else None


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def change(low: float, value: float, high: float) -> str:
    """``+46 (+38 to +54)``, in whole points."""
    return f"{signed(value)} ({signed(low)} to {signed(high)})"


def signed(share: float) -> str:
    points = round(100 * share)
    return f"−{-points}" if points < 0 else f"+{points}" if points else "0"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def nearby(near: Near) -> str:
    """A train row near a failed one: where it stands, how alike it is, what it asks, and who reviewed it."""
    seen = [
        f"{_DONE.get(by.action, by.action)} {by.who} on {time.strftime('%Y-%m-%d', time.localtime(by.t))}" for by in near.reviewed
    ]
    asks = " ".join(near.asks.split())
    asks = asks if len(asks) <= _ASKS else f"{asks[: _ASKS - 1]}…"
    return f"{100 * near.alike:.0f} % alike: {near.file}, line {near.line:,}, {', '.join(seen) or 'not reviewed'}. “{asks}”"


def facts(report: Report) -> list[tuple[str, str]]:
    """What was compared, as names and values."""
    told = report.facts
    decoding = told.get("decoding", {})
    listed = [
        ("base", " ".join(filter(None, [told.get("base", ""), _short(told.get("base_fingerprint", ""))]))),
        ("run", told.get("run", "")),
        ("adapter", told.get("adapter", "")),
        ("source", told.get("source", "")),
        ("held-out rows", plural(told.get("rows", 0), "row")),
        ("looks at them", f"{told['looks']:,}" if "looks" in told else ""),
        ("schema", _short(told.get("schema", ""))),
        ("decoding", f"{decoding.get('kind')}, at most {decoding.get('max_tokens')} tokens" if decoding else ""),
        ("compute", told.get("compute", "")),
        ("answers", "; ".join(f"{arm.arm} {'from the cache' if arm.cached else duration(arm.seconds)}" for arm in report.arms)),
        ("perplexity", _perplexity(report)),
        ("off-task prompts", _off_task(told.get("regression") or {})),
    ]
    return [(name, str(value)) for name, value in listed if value]


def _perplexity(report: Report) -> str:
    """Of the data's own answers, lower is likelier."""
    told = [f"{arm.arm} {arm.perplexity:.2f}" for arm in report.arms if arm.perplexity is not None]
    return f"{', '.join(told)}, of the data's own answers" if told else ""


def _off_task(found: dict[str, Any]) -> str:
    """What became of general behaviour."""
    if not found:
        return ""
    return f"{found['base']} of {found['total']} answered right by the base, {found['tuned']} by the adapter"


def _short(hash: str) -> str:
    return f"({hash[:12]})" if hash else ""
