"""The panels of the Home room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.advice.next_step import NextStep
from mlxtune.core.text import one_line
from mlxtune.present.labels import GLYPHS, word
from mlxtune.present.next_step import step_mark, step_title, step_why
from mlxtune.present.run import STATUS_LABELS
from mlxtune.present.workflow import StageState, WorkflowStage
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.text import age, cell, clickable, fold, line, lines, marked
from mlxtune.tui.status import brief_result, verdict_style
from mlxtune.workspace.index import RunView, Snapshot

if TYPE_CHECKING:
    from mlxtune.evaluation.history import Evaluation
    from mlxtune.evaluation.report import Rate


STATE_STYLES: dict[StageState, tuple[str, str]] = {
    "waiting": ("○", "$faint"), "partly": ("◐", "$primary"), "running": ("●", "$primary"), "done": ("✓", "$success"),
    "undecided": ("·", "$warning"), "warning": ("!", "$warning"), "failed": ("✗", "$error"),
}  # fmt: skip


def next_step(step: NextStep, snapshot: Snapshot, keys: Sequence[Content], width: int, tall: bool) -> Content:
    """Return the next step, the reason for it, and its keys."""
    mark = step_mark(step, snapshot)
    rows = (
        marked(GLYPHS[mark], f"${mark}", step_title(step), width, "bold") if mark else [fold(step_title(step), width, style="bold")]
    )
    why = step_why(step, snapshot)
    rows += [fold(f"{why[:1].upper()}{why[1:]}", width, style="$muted")] if why else []
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
    rows = [_ended(view, snapshot).truncate(max(width, 0), ellipsis=True) for view in views[:limit]]
    if len(views) > limit:
        rows.append(line("    ", (f"and {len(views) - limit:,} more", "$faint")))
    return lines(*rows)


def _ended(view: RunView, snapshot: Snapshot) -> Content:
    sign = STATUS_LABELS[view.status]
    noun = "" if view.run.kind == "train" else f"{RUN_KINDS[view.run.kind].noun} of "
    verdict = next((one.outcome for one in snapshot.verdicts if one.run.folder == view.run.folder and one.outcome), "")
    return line("  ", (sign.glyph, f"bold ${sign.style}"), " ", f"{noun}{view.name}", (f", {word(verdict) or sign.text}", "$muted"))


def best_title(snapshot: Snapshot) -> str:
    """Return the title of the section that shows the best adapter."""
    best = snapshot.best
    return "Last evaluated" if best is None else "Best so far" if best.caveat else "Best adapter"


def best_adapter(verdict: Evaluation, newest: Evaluation | None, names: Mapping[str, str], width: int) -> Content:
    """Return an adapter's rates next to its rival's, and the newest verdict if it is about another one. Empty without adapters.

    ``names`` has the names of renamed adapters.
    """
    if not verdict.changes:
        return Content("")  # Textual asks a hidden panel for its height, too
    name = one_line(names.get(verdict.run_id, verdict.name), 60)
    rows = [line("  ", cell(name, width - 2, "bold")), Content("")]
    for metric in key_metrics(verdict.changes):
        rows += [*_metric(metric, verdict, width), Content("")]
    outcome = word(verdict.outcome).capitalize()
    if verdict.caveat:
        from mlxtune.evaluation.render.wording import caveat_text  # loaded with the report

        body = fold(f"{outcome}, but not recommended: {caveat_text(verdict.caveat)}.", width - 2, "    ", "$warning")
        rows.append(line(("  ! ", "bold $warning"), body[4:]))
    else:
        than = "on" if verdict.outcome == "cannot_tell" else f"than {one_line(verdict.rival.name)} on"
        glyph, token = verdict_style(verdict.outcome)
        label = (f"  {glyph} {outcome}", f"bold {token}")
        rows.append(line(label, (f" {than} {verdict.rows:,} rows", "$muted")))
    if newest and newest.outcome and newest.run_id != verdict.run_id:
        caveat = ", but not recommended" if newest.caveat else ""
        glyph, token = verdict_style(newest.outcome, newest.caveat)
        text = f"newest: {one_line(newest.name)}, {word(newest.outcome)}{caveat}"
        rows.append(cell(line((f"  {glyph} ", f"bold {token}"), (text, "$muted")), width))
    return lines(*rows)


def key_metrics(changes: Sequence[tuple[Rate, Rate]]) -> list[tuple[Rate, Rate]]:
    """Return the metric of the contract that changed most, if any did, and the whole contract."""
    *parts, contract = changes
    changed = [(before, after) for before, after in parts if after.share != before.share]
    return [*sorted(changed, key=lambda change: -abs(change[1].share - change[0].share))[:1], contract]


def _metric(change: tuple[Rate, Rate], verdict: Evaluation, width: int) -> list[Content]:
    from mlxtune.evaluation.scorers.registry import metric_label  # the report was read, so this is loaded

    before, after = change
    rival, arm = one_line(verdict.rival.name), one_line(verdict.subject.name)
    names = max(len(rival), len(arm)) + 2
    space = width - names - 11

    def row(arm: str, share: float, bar_style: str, style: str) -> Content:
        figure = cell(f"{share * 100:.1f}%", 9, style, right=True)
        return line("  ", cell(arm, names), bar(share, space, bar_style), figure)

    return [
        line("  ", cell(metric_label(after.metric), width - 2, "$muted")),
        row(rival, before.share, "$muted", "$muted"),
        row(arm, after.share, "$primary", "bold"),
    ]
