"""What the Advice room shows: a line of the interview, the verdict with what was measured, its reasons, and the nine questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.tui.advices import Line
from mlxtune.tui.draw import Part, col, fold, key, line, lines, wrap
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.widgets.evaluate_pictures import trouble

if TYPE_CHECKING:
    from mlxtune.advice.evidence import Evidence
    from mlxtune.advice.rules import Question
    from mlxtune.advice.verdict import Advice

Rows = list[tuple[Part, ...]]

_VERDICTS = {
    "fine-tune": ("✓", "$success"),
    "both": ("✓", "$success"),
    "rag": ("→", "$primary"),
    "prompt first": ("→", "$primary"),
    "not yet": ("■", "$warning"),
}
_SIDES = {"right": ("✓", "$success"), "wrong": ("→", "$primary"), "gate": ("■", "$warning"), "caution": ("!", "$warning")}
_POINTS = {"rag": ("→ retrieve", "$primary"), "fine-tune": ("✓ fine-tune", "$success"), "": ("·", "$faint")}


def interview_row(one: Line, width: int) -> Content:
    """A question in bold, or an option with its mark, its name and what it means."""
    if not one.option:
        mark = (f"{one.mark} ", "bold $success" if one.mark == "✓" else "$muted")
        figure = line("  ", (one.text, "bold $primary")) if one.text else Content("")
        return line(mark, col(one.question.ask, width - 2 - figure.cell_length, "bold"), figure)
    chosen = one.mark == "●"
    return line(
        "    ",
        (one.mark, "bold $primary" if chosen else "$faint"),
        " ",
        col(one.option, 11, "bold" if chosen else ""),
        " ",
        col(one.text, width - 18, "" if chosen else "$muted"),
    )


def about(evidence: Evidence | None, wide: bool) -> str:
    """What the advice rests on beside the answers, at the end of the heading's rule."""
    if evidence is None:
        return "reading the rows"
    if not evidence.rows:
        return "from answers alone"
    return f"{one_line(evidence.recipe)}, {evidence.rows:,} rows" if wide else one_line(evidence.recipe)


def verdict(
    advised: Advice | None,
    evidence: Evidence | None,
    missing: Sequence[Question],
    error: MlxtuneError | None,
    sample: RunView | None,
    busy: bool,
    width: int,
) -> Content:
    """The verdict in a sentence, what was measured, and the next step; before that, what is missing for one.

    ``sample`` is the measuring that was asked for here, while it is at work or when it broke off; ``busy`` says that something is.
    """
    rows: list[Content] = []
    if error:
        rows += [line(("  ✗ ", "bold $error"), fold(one_line(error.message), width - 2, "    ", "")[4:])]
        rows += [fold(one_line(error.mend), width, "    ")] if error.mend else []
    if advised is None:
        left = f"{plural(len(missing), 'answer')} to go." if missing else "The rows are being read."
        rows += [
            fold("Most who reach for fine-tuning should not, yet.", width, style="bold"),
            fold(
                f"Answer the questions, and the rules say what comes first, each reason tied to an answer or a number. {left}",
                width,
            ),
        ]
        return lines(*rows, *_sampled(sample, busy, width))
    mark, token = _VERDICTS[advised.verdict]
    rows.append(line((f"  {mark} ", f"bold {token}"), fold(advised.sentence, width - 2, "    ", "bold")[4:]))
    rows += [fold(text, width, "    ") for text in advised.measured[:3]]
    if sample:
        rows += _sampled(sample, busy, width)
    elif not busy and not advised.measured and evidence is not None and evidence.rows:
        rows.append(line("    ", key("m", "measure base, prompt and examples first", "screen.measure")).truncate(max(width, 0)))
    rows.append(line(("    Next  ", "bold $primary"), fold(advised.next, width - 6, "          ", "")[10:]))
    return lines(*rows)


def _sampled(sample: RunView | None, busy: bool, width: int) -> list[Content]:
    """How the measuring that was asked for here goes, or why it broke off."""
    if sample is None:
        return []
    if sample.alive:
        told = "Measuring on 30 held-out rows. The advice follows when it has ended."
        return [line(("  ● ", "bold $primary"), fold(told, width - 2, "    ", "")[4:])]
    again = line("    ", key("m", "measure again", "screen.measure")).truncate(max(width, 0))
    return [trouble(sample, width), *([] if busy else [again])]


def reasons(advised: Advice, width: int) -> Rows:
    """Each reason with what it rests on, and what does not go together."""
    rows: Rows = []
    for text in advised.contradictions:
        rows += [*_marked(("✗", "$error"), text, width), ("",)]
    for reason in advised.reasons:
        if reason.text == advised.sentence:  # it stands above
            continue
        rows += _marked(_SIDES[reason.side], reason.text, width)
        rows += [("    ", (part, "$muted")) for part in wrap("; ".join(reason.because), width - 4)]
        rows.append(("",))
    return rows[:-1]


def whole(advised: Advice, evidence: Evidence | None, width: int) -> Rows:
    """The whole advice on a page."""
    rows: Rows = [*_marked(_VERDICTS[advised.verdict], advised.sentence, width, "bold"), ("",)]
    for title, texts in (
        ("Measured, held-out rows with 95 % Wilson intervals", advised.measured),
        ("What does not go together", advised.contradictions),
    ):
        if texts:
            rows += [((f"  {title}", "bold"),), *(row for text in texts for row in _marked(("·", "$muted"), text, width)), ("",)]
    rows.append((("  Why", "bold"),))
    for reason in advised.reasons:
        rows += _marked(_SIDES[reason.side], reason.text, width)
        rows += [("    ", (part, "$muted")) for part in wrap("; ".join(reason.because), width - 4)]
        rows += [("    ", (part, "$faint")) for part in wrap(reason.source, width - 4)] if reason.source else []
    rows.append(("",))
    if advised.changes:
        rows += [
            (("  What would change this", "bold"),),
            *(row for text in advised.changes for row in _marked(("·", "$muted"), text, width)),
            ("",),
        ]
    for text in evidence.passed if evidence else ():
        rows += _marked(("○", "$muted"), f"{one_line(text)}.", width, "$muted")
    return [*rows, *_marked(("▌", "$primary"), f"Next: {advised.next}", width)]


def table(advised: Advice | None, width: int) -> Rows:
    """The nine questions between retrieval and training: what each of the two does, and where yours points."""
    from mlxtune.advice.rules import rules

    points = {row.key: row.points for row in advised.table} if advised else {}
    rows: Rows = [(("  Where yours is about it, the sign says which way it points.", "$muted"),), ("",)]
    for row in rules().rows:
        word, token = _POINTS[points.get(row.rule.key, "")]
        rows.append(("  ", col(row.ask, max(width - 18, 10), "bold"), (word, f"bold {token}")))
        for name, text in (("RAG", row.rag), ("tuned", row.tuned)):
            first, *rest = wrap(text, width - 12)
            rows += [("    ", col(name, 7, "$muted"), first), *((" " * 11, part) for part in rest)]
        rows += [((f"    {part}", "$faint"),) for part in wrap(row.rule.source, width - 4)]
        rows.append(("",))
    return rows[:-1]


def cut(rows: Rows, height: int) -> Content:
    """As many rows as fit, and a word where some do not."""
    if 0 < height < len(rows):
        return lines(*(line(*row) for row in rows[: height - 1]), line("    ", key("w", "more", "screen.reasons", "$muted")))
    return lines(*(line(*row) for row in rows))


def _marked(mark: tuple[str, str], text: str, width: int, style: str = "") -> Rows:
    """``text`` on rows behind its sign."""
    first, *rest = wrap(text, width - 4)
    return [((f"  {mark[0]} ", f"bold {mark[1]}"), (first, style)), *(("    ", (part, style)) for part in rest)]
