"""The panels of the Home room."""

from collections.abc import Sequence

from textual.content import Content

from mlxtune.advice.next_step import NextStep
from mlxtune.present.labels import GLYPHS, word
from mlxtune.present.next_step import step_mark, step_title, step_why
from mlxtune.present.run import STATUS_LABELS
from mlxtune.present.workflow import StageState, WorkflowStage
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui.render.text import age, cell, clickable, line, lines, marked, paragraph
from mlxtune.tui.status import brief_result
from mlxtune.workspace.index import RunView, Snapshot

STATE_STYLES: dict[StageState, tuple[str, str]] = {
    "waiting": ("○", "$faint"), "partly": ("◐", "$primary"), "running": ("●", "$primary"), "done": ("✓", "$success"),
    "undecided": ("·", "$warning"), "warning": ("!", "$warning"), "failed": ("✗", "$error"),
}  # fmt: skip


def next_step(step: NextStep, snapshot: Snapshot, keys: Sequence[Content], width: int, tall: bool) -> Content:
    mark = step_mark(step, snapshot)
    rows = (
        marked(GLYPHS[mark], f"${mark}", step_title(step), width, "bold")
        if mark
        else [paragraph(step_title(step), width, style="bold")]
    )
    why = step_why(step, snapshot)
    rows += [paragraph(f"{why[:1].upper()}{why[1:]}", width, style="$muted")] if why else []
    if keys:
        rows += [Content("")] if tall else []
        row = line("  ", *(part for item in keys for part in (item, "      "))).rstrip()
        rows += [row] if row.cell_length <= width else [line("  ", item) for item in keys]
    return lines(*rows)


def workflow(stages: Sequence[WorkflowStage], width: int, height: int, tall: bool) -> Content:
    """Return one row per stage, joined by a line if there is room. A click opens the stage's room."""
    rows: list[Content] = []
    tall = tall and not 0 < height < 2 * len(stages) - 1
    for index, stage in enumerate(stages):
        glyph, token = STATE_STYLES[stage.state]
        waiting = stage.state == "waiting"
        name = cell(stage.name, 11, "$muted" if waiting else "bold")
        detail = cell(stage.detail, width - 18 - len(stage.result), "$faint" if waiting else "$muted")
        row = line("  ", (glyph, f"bold {token}"), "  ", name, detail, "  ", stage.result).truncate(max(width, 0))
        rows.append(clickable(row, f"app.room('{stage.room}')"))
        if tall and index < len(stages) - 1:
            rows.append(line("  ", ("│", "$line")))
    return lines(*rows)


def run_row(runs: Sequence[RunView], now: float, index: int, width: int) -> Content:
    """Return a row of the list of runs: its status, its name, its result, and its age."""
    view = runs[index]
    sign = STATUS_LABELS[view.status]
    return line(
        (sign.glyph, f"bold ${sign.style}"),
        " ",
        cell(view.name, width - 20),
        cell(brief_result(view), 11, "$muted", right=True),
        cell(age(now - view.updated), 7, "$faint", right=True),
    ).truncate(max(width, 0))


def changes(snapshot: Snapshot, views: Sequence[RunView], limit: int, width: int) -> Content:
    """Return a row for each of the first ``limit`` runs of any kind that have ended, and the number of the others."""
    rows = []
    for view in views[:limit]:
        sign = STATUS_LABELS[view.status]
        noun = "" if view.run.kind == "train" else f"{RUN_KINDS[view.run.kind].noun} of "
        verdict = next((one.outcome for one in snapshot.verdicts if one.run.folder == view.run.folder and one.outcome), "")
        parts = (sign.glyph, f"bold ${sign.style}"), " ", f"{noun}{view.name}", (f", {word(verdict) or sign.text}", "$muted")
        rows.append(line("  ", *parts).truncate(max(width, 0), ellipsis=True))
    if len(views) > limit:
        rows.append(line("    ", (f"and {len(views) - limit:,} more", "$faint")))
    return lines(*rows)
