"""A report as Markdown, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlxtune.core.text import one_line, safe_text
from mlxtune.evaluation import regression
from mlxtune.evaluation.contract import LABELS
from mlxtune.evaluation.failures import Failure
from mlxtune.evaluation.report import Report
from mlxtune.evaluation.verdict import HEADLINE
from mlxtune.evaluation.wording import (
    beside,
    change,
    compared,
    contract,
    facts,
    hold_out,
    in_words,
    lede,
    method,
    nearby,
    p_value,
    percent,
    sides,
    some,
)

SHOWN = 6  # failed rows with their text
_LENGTH = 900  # characters of a text


def render(report: Report, failures: Sequence[Failure]) -> str:
    """The whole report. Whatever came from data or a model is escaped, or stands in a fence that it cannot close."""
    blocks = [
        f"# {plain(report.verdict)}",
        plain(lede(report)),
        plain(hold_out(report)),
        plain(contract(report)),
        *_rates(report),
        *_square(report),
    ]
    blocks += [*comparisons(report), *_off_task(report), *_classes(report), *_failures(report, failures), *_facts(report)]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _rates(report: Report) -> list[str]:
    head = ["", *(plain(arm.arm) for arm in report.arms)]
    body = []
    for rate in report.arms[0].rates:
        found = [arm.rate(rate.metric) for arm in report.arms]
        cells = [f"{percent(item.share)} ({100 * item.low:.0f}–{100 * item.high:.0f})" for item in found]
        body.append([plain(LABELS[rate.metric]), *cells])
    return ["## Before and after", "Share of rows that hold, with 95 % Wilson intervals.", table(head, body)]


def _square(report: Report) -> list[str]:
    item = report.headline
    if item is None:
        return []
    first, second, paired = plain(item.first), plain(item.second), item.paired
    body = [
        [f"{first} holds", f"{paired.both} still hold", f"{paired.broken} broken"],
        [f"{first} fails", f"{paired.fixed} fixed", f"{paired.neither} still fail"],
    ]
    return [
        f"## Row by row: {LABELS[item.metric]}",
        table(["", f"{second} holds", f"{second} fails"], body),
        plain(in_words(report, item)),
    ]


def comparisons(report: Report) -> list[str]:
    """Every comparison with its change, interval and p, as blocks; none where nothing was compared."""
    if not report.comparisons:
        return []
    body = [
        [
            plain(LABELS[item.metric]), plain(pair), str(item.paired.fixed), str(item.paired.broken),
            change(item.low, item.change, item.high), plain(p_value(item.p if item.adjusted is None else item.adjusted)), item.word,
        ]
        for pair, items in compared(report)
        for item in items
    ]  # fmt: skip
    note = f"{method(report)[0].upper()}{method(report)[1:]}. Changes in points."
    return ["## Against each other", note, table(["", "", "fixed", "broken", "change", "p", ""], body)]


def _off_task(report: Report) -> list[str]:
    found = regression.of(report.facts)
    return ["## Off task", plain(found.sentence)] if found else []


def _classes(report: Report) -> list[str]:
    metric = str(report.facts.get("headline", HEADLINE))
    arms = sides(report)
    counts = [arm.rate(metric).failures for arm in arms]
    kinds = dict.fromkeys(kind for found in reversed(counts) for kind in found)
    if not kinds:
        return []
    body = [[plain(kind), *(str(found.get(kind, 0)) for found in counts)] for kind in kinds]
    return ["## Why answers fail", table(["", *(plain(arm.arm) for arm in arms)], body)]


def _failures(report: Report, failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    shown = failures[:SHOWN]
    blocks = ["## Rows that fail", plain(f"{some(len(shown), len(failures))}.")]
    for failure in shown:
        state = ", which held before" if failure.broken else ""
        asked = next((message.content for message in reversed(failure.row.prompt) if message.role == "user"), "")
        blocks += [f"### Line {failure.row.line}{state}", plain(f"{failure.kind}: {failure.why}"), "Asked:", _fence(asked)]
        blocks += [f"{plain(report.arms[-1].arm)}:", _fence(failure.answer.output)]
        if other := beside(report, failure):
            blocks += [f"{plain(other[0])}:", _fence(other[1])]
        if failure.near:
            blocks.append("\n".join(f"- {plain(nearby(record))}" for record in failure.near))
    return blocks


def _facts(report: Report) -> list[str]:
    check = "`mlxtune verify report.json` computes every number here again, from the outputs beside it."
    return ["## Facts", table(["", ""], [[plain(name), plain(value)] for name, value in facts(report)]), check]


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table; the first column on the left, numbers on the right."""
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def plain(text: str) -> str:
    """``text`` on one line, with every sign that Markdown or HTML would obey escaped, and no link made of it."""
    return re.sub(r"([\\`*_{}\[\]#|~<>&!@]|:(?=//)|(?<=www)\.)", r"\\\1", one_line(text))


def _fence(text: str) -> str:
    """``text`` in a fence longer than any run of backticks in it."""
    text = safe_text(text, limit=_LENGTH)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}"
