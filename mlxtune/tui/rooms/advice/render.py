"""Draw the Advice room: interview lines, and the advice with its measurements."""

from collections.abc import Sequence
from pathlib import Path

from textual.content import Content

from mlxtune.advice.evidence import AdviceEvidence
from mlxtune.advice.verdict import Advice
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.present.advice import measured_blocks, verdict_block
from mlxtune.present.next_step import next_step_document
from mlxtune.tui import draw
from mlxtune.tui.render.text import cell, error_rows, key, line, lines, marked, paragraph
from mlxtune.tui.rooms.advice.service import InterviewLine
from mlxtune.tui.rooms.evaluate.render import failure
from mlxtune.workspace.index import RunView


def interview_row(item: InterviewLine, width: int) -> Content:
    """Draw a question in bold, or an option with its glyph, name and meaning."""
    if not item.option:
        glyph = ("✓ ", "bold $success") if item.selected else ("○ ", "$muted")
        figure = line("  ", (item.text, "bold $primary")) if item.text else Content("")
        return line(glyph, cell(item.question.ask, width - 2 - figure.cell_length, "bold"), figure)
    selected = item.selected
    return line(
        "    ",
        ("●", "bold $primary") if selected else ("○", "$faint"),
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
    missing: int,
    error: MlxtuneError | None,
    sample: Sequence[Content],
    width: int,
) -> Content:
    """Draw the verdict, the measurements and the next step, or the number of missing answers.

    ``sample`` is the state of the evaluation started from this room, or the key that starts it.
    """
    rows = error_rows(error, width) if error else []
    if advice is None or evidence is None:
        state = f"{plural(missing, 'answer')} to go" if missing else "reading the rows"
        return lines(*rows, paragraph(state, width, style="bold"), *sample)
    rows += draw.block_rows(verdict_block(advice, evidence), width)
    rows += [*draw.rows(next_step_document(advice.next), width), *sample]
    return lines(*rows, *draw.rows(measured_blocks(advice, evidence), width))


def sample_rows(sample: RunView | None, can_measure: bool, measured: bool, width: int) -> list[Content]:
    """Draw the state of the evaluation started from this room, or the key that starts it if nothing was measured."""
    if sample and sample.alive:
        return marked("●", "$primary", "Measuring on 30 held-out rows", width)
    label = "measure again" if sample else "" if measured else "measure base, prompt and examples"
    again = [line("    ", key("m", label, "screen.measure")).truncate(max(width, 0))] if can_measure and label else []
    return [*([failure(sample, sample.name, width)] if sample else []), *again]
