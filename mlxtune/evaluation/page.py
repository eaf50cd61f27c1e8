"""A report as one HTML page for whoever decides: the verdict first, then pictures, then rows that fail, then the facts.

It is whole in itself: no script, no font, no request. Its policy forbids them too, so that nothing in an output could bring one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files

import mlxtune
from mlxtune.core.text import plural
from mlxtune.evaluation import pictures, regression
from mlxtune.evaluation.arms import BASE, TUNED
from mlxtune.evaluation.contract import FORMS, LABELS
from mlxtune.evaluation.failures import Failure
from mlxtune.evaluation.html import Html, el, join
from mlxtune.evaluation.report import Arm, Report
from mlxtune.evaluation.verdict import HEADLINE, Comparison
from mlxtune.evaluation.where import Span
from mlxtune.evaluation.wording import (
    CLASSES,
    beside,
    change,
    compared,
    contract,
    facts,
    hold_out,
    in_words,
    lede,
    made,
    method,
    nearby,
    p_value,
    percent,
    sides,
    some,
)

SHOWN = 6  # failed rows with their text
_LENGTH = 900  # characters of a text
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(report: Report, failures: Sequence[Failure]) -> str:
    """The page. ``failures`` are all rows that the last arm fails; the first :data:`SHOWN` are shown."""
    name = str(report.facts.get("name", "")) or "evaluation"
    body = el(
        "main",
        _verdict(report),
        _rates(report),
        _middle(report),
        _compared(report),
        _off_task(report),
        _rows(report, failures),
        _facts(report),
    )
    head = join(
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html('<meta name="referrer" content="no-referrer">'),
        el("title", f"{name}: {report.verdict.partition('. ')[0].rstrip('.')}"),
        el("style", Html(_style())),
    )
    return f'<!doctype html>\n<html lang="en">{el("head", head)}{el("body", body)}</html>\n'


@cache
def _style() -> str:
    return files("mlxtune.evaluation").joinpath("page.css").read_text("utf-8")


def _verdict(report: Report) -> Html:
    facts = report.facts
    word = report.word or None
    start = f"{word[0].upper()}{word[1:]}." if word else ""
    told = report.verdict
    title = join(el("span", start, class_=_kind(word)), told.removeprefix(start)) if word and told.startswith(start) else join(told)
    off_task = regression.of(facts)
    about = " · ".join(filter(None, [str(facts.get("name", "")), str(facts.get("base", "")), made(report)]))
    return el(
        "header",
        el("p", about, class_="about"),
        el("h1", title),
        el("p", lede(report), class_="lede"),
        el("p", hold_out(report), class_="lede"),
        el("p", "✗ ", off_task.sentence, class_="lede blocked") if off_task and off_task.blocks else None,
    )


def _rates(report: Report) -> Html:
    """Each metric's rate under each arm, the one that the verdict is about first."""
    headline = report.facts.get("headline", HEADLINE)
    parts: list[Html] = []
    for rate in sorted(report.arms[0].rates, key=lambda rate: (rate.metric != headline, rate.metric in FORMS)):
        rows = []
        for at, arm in enumerate(report.arms):
            found = arm.rate(rate.metric)
            kind = _arm_kind(report, arm)
            label = el("span", LABELS[rate.metric] if at == 0 else "", class_=_label(at, rate.metric == headline))
            rows.append(
                el(
                    "div",
                    label,
                    el("span", arm.arm, class_=f"arm {kind}"),
                    pictures.rate(found.low, found.share, found.high, kind),
                    el("span", percent(found.share), class_="figure"),
                    el("span", f"{100 * found.low:.0f}–{100 * found.high:.0f}", class_="interval"),
                    class_="row",
                )
            )
        parts.append(el("div", *rows, class_="metric"))
    title, note = "Before and after" if report.headline else "Before", "share of rows that hold, 95 % Wilson intervals"
    asks = contract(report)
    return _section(title, note, el("p", asks, class_="asks") if asks else None, el("div", *parts, class_="metrics"))


def _label(at: int, asked: bool) -> str:
    return "label none" if at else "label asked" if asked else "label"


def _middle(report: Report) -> Html:
    return el("div", _square(report), _classes(report), class_="two")


def _square(report: Report) -> Html | None:
    """The 2×2 of the comparison that the verdict is about."""
    item = report.headline
    if item is None:
        return None
    paired = item.paired

    def cell(number: int, words: str, kind: str = "") -> Html:
        return el("td", el("b", f"{number:,}"), el("span", words), class_=kind or None)

    table = el(
        "table",
        Html('<colgroup><col class="side"><col><col></colgroup>'),
        el("thead", el("tr", el("td", style="background:none"), el("th", f"{item.second} holds", scope="col"), el("th", f"{item.second} fails", scope="col"))),
        el(
            "tbody",
            el("tr", el("th", f"{item.first} holds", scope="row"), cell(paired.both, "still hold"), cell(paired.broken, "broken", "broken" if paired.broken else "")),
            el("tr", el("th", f"{item.first} fails", scope="row"), cell(paired.fixed, "fixed", "fixed" if paired.fixed else ""), cell(paired.neither, "still fail")),
        ),
        class_="square",
    )  # fmt: skip
    strip = pictures.parts([(paired.both, "both"), (paired.fixed, "fixed"), (paired.broken, "broken"), (paired.neither, "neither")])
    return _section("Row by row", LABELS[item.metric], table, strip, el("p", in_words(report, item), class_="after"))


def _classes(report: Report) -> Html | None:
    """How outputs fail the metric of the verdict, under the arms that it is about."""
    metric = str(report.facts.get("headline", HEADLINE))
    arms = sides(report)
    counts = [arm.rate(metric).failures for arm in arms]
    kinds = sorted(
        {kind for found in counts for kind in found}, key=lambda kind: (-max(found.get(kind, 0) for found in counts), kind)
    )
    if not kinds:
        return None
    most = max(found.get(kind, 0) for found in counts for kind in kinds)
    parts: list[Html] = []
    for kind in kinds[:CLASSES]:
        parts.append(el("span", kind, class_="name"))
        for arm, found in zip(arms, counts, strict=True):
            style = _arm_kind(report, arm)
            parts.append(el("span", arm.arm, class_=f"arm {style}"))
            parts.append(pictures.count(found.get(kind, 0), most, style))
            parts.append(el("span", f"{found.get(kind, 0):,}", class_="figure"))
    left = [el("p", f"and {plural(len(kinds) - CLASSES, 'class', 'classes')} more, in report.json", class_="after")]
    return _section("Why answers fail", "the first thing that breaks, in rows", el("div", *parts, class_="classes"), *left[: len(kinds) > CLASSES])  # fmt: skip


def _compared(report: Report) -> Html | None:
    pairs = compared(report)
    if not pairs:
        return None
    reach = max(max(abs(item.low), abs(item.high)) for _, items in pairs for item in items) or 1.0
    body = []
    for name, items in pairs:
        body.append(el("tr", el("th", name, scope="rowgroup", colspan=7), class_="pair"))
        body += [_comparison(item, reach, item is report.headline) for item in items]
    names = ("", "fixed", "broken", "change, points", "", "p", "")
    head = el("thead", el("tr", *(el("th", name, scope="col") for name in names)))
    table = el("div", el("table", head, el("tbody", *body), class_="table"), class_="scroll")
    return _section("Against each other", method(report), table, _margins(report))


def _comparison(item: Comparison, reach: float, headline: bool) -> Html:
    return el(
        "tr",
        el("td", LABELS[item.metric]), el("td", f"{item.paired.fixed:,}"), el("td", f"{item.paired.broken:,}"),
        el("td", pictures.shift(item.low, item.change, item.high, reach, "tuned" if headline else "")),
        el("td", change(item.low, item.change, item.high)), el("td", p_value(item.p if item.adjusted is None else item.adjusted)),
        el("td", item.word, class_=_kind(item.word)),
        class_="headline" if headline else None,
    )  # fmt: skip


def _off_task(report: Report) -> Html | None:
    """What became of general behaviour."""
    found = regression.of(report.facts)
    if found is None:
        return None
    bars = [
        part
        for arm, count, kind in ((BASE, found.base, ""), (TUNED, found.tuned, "tuned"))
        for part in (
            el("span", arm, class_=f"arm {kind}"),
            pictures.count(count, found.total, kind),
            el("span", f"{count:,}", class_="figure"),
        )
    ]
    changed = [f"{name}: {', '.join(ids)}" for name, ids in (("Broken", found.broken), ("fixed", found.fixed)) if ids]
    told = f"{found.sentence} {'; '.join(changed)}{'.' if changed else ''}"
    note = f"{plural(found.total, 'prompt')} that training should not touch, answered right"
    return _section("Off task", note, el("div", *bars, class_="classes"), el("p", told, class_="after"))


def _margins(report: Report) -> Html | None:
    """How much likelier each arm finds the chosen answers, where rows are pairs."""
    told = [
        f"{arm.arm} {arm.margin.value:+.3f} ({arm.margin.low:+.3f} to {arm.margin.high:+.3f})" for arm in report.arms if arm.margin
    ]
    if not told:
        return None
    return el(
        "p",
        f"Margin, how much likelier the chosen answer is, in nats a token: {'; '.join(told)}. Bootstrap intervals.",
        class_="after",
    )


def _rows(report: Report, failures: Sequence[Failure]) -> Html | None:
    if not failures:
        return None
    shown = failures[:SHOWN]
    note = some(len(shown), len(failures))
    return _section("Rows that fail", note, *(_row(report, failure) for failure in shown))


def _row(report: Report, failure: Failure) -> Html:
    last = report.arms[-1]
    answers = [(last.arm, _marked(failure.answer.output, failure.span), _arm_kind(report, last))]
    if other := beside(report, failure):
        answers.append((other[0], join(_cut(other[1])), ""))
    asked = next((message.content for message in reversed(failure.row.prompt) if message.role == "user"), "")
    state = ", held before" if failure.broken else ""
    near = [el("li", nearby(record)) for record in failure.near]
    return el(
        "article",
        el(
            "h3",
            f"Line {failure.row.line:,}{state}",
            el("span", failure.why, class_="why"),
            el("span", failure.kind, class_="kind"),
        ),
        el("p", _cut(asked), class_="asked"),
        el("div", *(el("div", el("h4", arm, class_=kind or None), el("pre", said or "(nothing)")) for arm, said, kind in answers), class_="answers"),
        el("ul", *near, class_="near") if near else None,
        class_="failure",
    )  # fmt: skip


def _facts(report: Report) -> Html:
    listed = list(_pairs(report))
    return _section("Facts", "", el("dl", *listed, class_="facts"))


def _pairs(report: Report) -> Iterator[Html]:
    for name, value in [*facts(report), ("made with", f"mlxtune {mlxtune.__version__}")]:
        yield el("dt", name)
        yield el("dd", value)
    yield el("dt", "check it")
    yield el("dd", el("code", "mlxtune verify report.json"), " computes every number here again, from the outputs beside it.")


def _section(title: str, note: str, *parts: Html | None) -> Html:
    return el("section", el("div", el("h2", title), el("p", note) if note else None, class_="head"), *parts)


def _arm_kind(report: Report, arm: Arm) -> str:
    return "tuned" if report.headline and arm.arm == report.headline.second else ""


def _kind(word: str | None) -> str:
    return {"cannot tell": "cannot"}.get(word or "", word or "")


def _marked(text: str, span: Span | None) -> Html:
    """``text`` with its failing part marked, if that part is among what is shown."""
    if span is None or span[0] >= _LENGTH:
        return join(_cut(text))
    start, end = span
    return join(text[:start], el("mark", _cut(text[start:end])), _cut(text[end:]) if end < _LENGTH else "")


def _cut(text: str) -> str:
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 1]}…"
