"""Draw the Advice room: interview lines, the advice with its measurements, the reasons, and the RAG table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from textual.content import Content

from mlxtune.advice.evidence import AdviceEvidence
from mlxtune.advice.rules import InterviewQuestion, rules
from mlxtune.advice.verdict import Advice
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.tui.render.text import cell, error_rows, fold, key, line, lines, marked, wrap
from mlxtune.tui.rooms.advice.service import InterviewLine
from mlxtune.tui.rooms.evaluate.render import failure
from mlxtune.workspace.index import RunView

_VERDICTS = {
    "fine-tune": ("✓", "$success"),
    "both": ("✓", "$success"),
    "rag": ("→", "$primary"),
    "prompt first": ("→", "$primary"),
    "not yet": ("■", "$warning"),
}
_SECTIONS = {"right": ("✓", "$success"), "wrong": ("→", "$primary"), "gate": ("■", "$warning"), "caution": ("!", "$warning")}
_POINTS = {"rag": ("→ retrieve", "$primary"), "fine-tune": ("✓ fine-tune", "$success"), "": ("·", "$faint")}


def interview_row(item: InterviewLine, width: int) -> Content:
    """Draw a question in bold, or an option with its glyph, name and meaning."""
    if not item.option:
        glyph = (f"{item.glyph} ", "bold $success" if item.glyph == "✓" else "$muted")
        figure = line("  ", (item.text, "bold $primary")) if item.text else Content("")
        return line(glyph, cell(item.question.ask, width - 2 - figure.cell_length, "bold"), figure)
    selected = item.glyph == "●"
    return line(
        "    ",
        (item.glyph, "bold $primary" if selected else "$faint"),
        " ",
        cell(item.option, 11, "bold" if selected else ""),
        " ",
        cell(item.text, width - 18, "" if selected else "$muted"),
    )


def heading_note(evidence: AdviceEvidence | None, wide: bool) -> str:
    """Return the evidence behind the advice besides the answers, for the right end of the heading."""
    if evidence is None:
        return "reading the rows"
    if not evidence.rows:
        return "based on answers alone"
    name = one_line(Path(evidence.recipe).name)
    return f"{name}, {evidence.rows:,} rows" if wide else name


def summary(
    advice: Advice | None,
    evidence: AdviceEvidence | None,
    missing: Sequence[InterviewQuestion],
    error: MlxtuneError | None,
    sample: RunView | None,
    busy: bool,
    width: int,
) -> Content:
    """Draw the verdict, the measurements and the next step, or the missing answers.

    ``sample`` is the evaluation started from this room, while it runs or after it failed. ``busy``: the accelerator is in use.
    """
    rows = error_rows(error, width) if error else []
    if advice is None:
        remaining = f"{plural(len(missing), 'answer')} to go." if missing else "Reading the rows."
        text = f"Answer the questions to see what to try first. Each reason cites the answer or number behind it. {remaining}"
        rows += [fold("Most projects should not start with fine-tuning.", width, style="bold"), fold(text, width)]
        return lines(*rows, *_sample_rows(sample, busy, width))
    rows += marked(*_VERDICTS[advice.verdict], advice.sentence, width, "bold")
    rows += [fold(text, width, "    ") for text in advice.measured[:3]]
    if sample:
        rows += _sample_rows(sample, busy, width)
    elif not busy and not advice.measured and evidence is not None and evidence.rows:
        measure = key("m", "measure base, prompt and examples first", "screen.measure")
        rows.append(line("    ", measure).truncate(max(width, 0)))
    rows.append(line(("    Next  ", "bold $primary"), fold(advice.next, width - 6, "          ", "")[10:]))
    return lines(*rows)


def _sample_rows(sample: RunView | None, busy: bool, width: int) -> list[Content]:
    """Draw the state of the evaluation started from this room."""
    if sample is None:
        return []
    if sample.alive:
        text = "Measuring on 30 held-out rows. The advice is updated when the measurement is done."
        return marked("●", "$primary", text, width)
    again = line("    ", key("m", "measure again", "screen.measure")).truncate(max(width, 0))
    return [failure(sample, sample.name, width), *([] if busy else [again])]


def reasons(advice: Advice, width: int) -> list[Content]:
    """Draw contradictions, then each reason with the facts behind it."""
    rows: list[Content] = []
    for text in advice.contradictions:
        rows += [*marked("✗", "$error", text, width), Content("")]
    for reason in advice.reasons:
        if reason.text != advice.sentence:  # the verdict's own sentence is above the list
            rows += marked(*_SECTIONS[reason.side], reason.text, width)
            rows += [*_indented("; ".join(reason.because), width), Content("")]
    return rows[:-1]


def report(advice: Advice, evidence: AdviceEvidence | None, width: int) -> list[Content]:
    """Draw the whole advice for a page."""
    rows = [*marked(*_VERDICTS[advice.verdict], advice.sentence, width, "bold"), Content("")]
    rows += _listing("Measured on held-out rows, with 95% Wilson intervals", advice.measured, width)
    rows += _listing("Contradictory answers", advice.contradictions, width)
    rows.append(line(("  Why", "bold")))
    for reason in advice.reasons:
        rows += marked(*_SECTIONS[reason.side], reason.text, width)
        rows += _indented("; ".join(reason.because), width)
        rows += _indented(reason.source, width, "$faint") if reason.source else []
    rows += [Content(""), *_listing("What would change this advice", advice.changes, width)]
    for text in evidence.passed if evidence else ():
        rows += marked("○", "$muted", f"{one_line(text)}.", width, "$muted")
    return [*rows, *marked("▌", "$primary", f"Next: {advice.next}", width)]


def _listing(title: str, texts: Sequence[str], width: int) -> list[Content]:
    if not texts:
        return []
    return [line((f"  {title}", "bold")), *(row for text in texts for row in marked("·", "$muted", text, width)), Content("")]


def rag_table(advice: Advice | None, width: int) -> list[Content]:
    """Draw the nine questions that decide between retrieval and fine-tuning, and which way the answers point."""
    points = {row.key: row.points for row in advice.table} if advice else {}
    rows = [line(("  The right column shows which way your answers point.", "$muted")), Content("")]
    for row in rules().tradeoffs:
        word, token = _POINTS[points.get(row.rule.key, "")]
        rows.append(line("  ", cell(row.ask, max(width - 18, 10), "bold"), (word, f"bold {token}")))
        for name, text in (("RAG", row.rag), ("tuned", row.tuned)):
            first, *rest = wrap(text, width - 13)
            rows += [line("    ", cell(name, 7, "$muted"), first), *(line(" " * 11, part) for part in rest)]
        rows += [*_indented(row.rule.source, width, "$faint"), Content("")]
    return rows[:-1]


def _indented(text: str, width: int, style: str = "$muted") -> list[Content]:
    return [line((f"    {row}", style)) for row in wrap(text, width - 6)]
