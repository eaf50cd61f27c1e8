"""The panels of the Train room."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.text import duration, one_line, plural, speed
from mlxtune.present.run import LogLine, log_line, sample_verdict, status_blocks, work_text
from mlxtune.present.words import WORDS
from mlxtune.runs.events import Event
from mlxtune.runs.state import RunState, SampleAnswer, Work
from mlxtune.tui.render.bars import bar, memory, spark
from mlxtune.tui.render.output_text import output_rows
from mlxtune.tui.render.text import Part, cell, gigabytes, key, line, lines, marked, paragraph, shorten, wrap
from mlxtune.workspace.index import RunView, Snapshot

if TYPE_CHECKING:
    from mlxtune.planning.plan import Plan

_SAMPLE_ROWS = 7  # maximum rows per answer next to the chart
_LOG_INDENT = 15  # cells before the text: gutter, clock time, glyph


# Figures


def figures(view: RunView, now: float, width: int, stopping: bool = False, plan: Plan | None = None) -> Content:
    """Return two rows: the names of the figures, and the figures; before the first step, those of its ``plan``."""
    state, wide = view.state, width >= 98
    if view.alive and state.work:
        return _work(state, state.work, width)
    if view.alive and not (state.steps or (state.total and state.validations)):
        what = f"the {plural(state.validation_rows, 'validation row')}" if state.validation_rows else "the first step"
        doing = f"computing the loss of {what}" if state.total else "preparing the model and the rows"
        takes = f", about {duration(plan.cost.seconds)}" if plan and plan.cost.seconds else ""
        planned = f"   {plural(plan.steps, 'step')} at a rate of {plan.learning_rate:g}{takes}" if plan and not stopping else ""
        elapsed = duration(now - (state.started or view.created))
        return lines(
            line(("  stopping" if stopping else "  before the first step", "$faint"), planned),
            cell(f"  {doing}, {elapsed} so far", width),
        )
    left = view.time_left(now)
    step = line((f"{state.step:,}", "bold"), (f" of {state.total:,}" if state.total else "", "$muted"))
    trend = spark([step.speed for step in state.steps[-60:]])
    pace = line((speed(state.speed) if state.steps else "–", "bold"), (f"  {trend}" if wide else "", "$faint"))
    end = time.strftime("%H:%M", time.localtime(now + (left or 0)))
    remaining = line((duration(left), "bold"), (f"   {end}", "$muted")) if left is not None else Content("–")
    if view.alive and 0 < state.total <= state.step:
        remaining = Content.styled("finishing", "$muted")  # sample answers and the adapter follow the last step
    if view.alive and stopping:
        remaining = Content.styled("stopping", "$muted")
    learning_rate = f"{state.steps[-1].rate:.1e}".replace("e-0", "e-").replace("e+00", "") if state.steps else "–"
    rate = line((learning_rate, "bold"), (f" {_rate_trend(state)}" if wide else "", "$muted"))
    space = max(width - 94, 8)
    peak = f"memory, peak {gigabytes(state.peak)}" if state.peak else "memory"
    titles = ("tokens/s, 10 steps", peak, "learning rate") if wide else ("tokens/s", "memory", "rate")
    sizes = (16, 20, space + 22, 20, 17) if wide else (14, 10, 24, 10, 17)
    shown = (step, pace, _memory(state, space if wide else 8, wide), rate, remaining)
    names = line("  ", *map(partial(cell, style="$faint"), ("step", *titles, "left"), sizes))
    values = line("  ", *map(cell, shown, sizes))
    return lines(names, values)


def _work(state: RunState, work: tuple[Work, int, int], width: int) -> Content:
    (phase, items), (_, done, total), left = work_text(work), work, state.work_remaining_seconds
    time = f", {duration(left)} left" if left is not None and left >= 1 else ""
    gauge = bar(done / total, max(width - 42, 8))
    progress = line("  ", gauge, (f" {done:,}", "bold"), (f" of {items}{time}", "$muted"))
    return lines(line((f"  {phase}", "$faint")), progress)


def _rate_trend(state: RunState) -> str:
    if len(state.steps) < 2 or state.steps[-1].rate == state.steps[-2].rate:
        return ""
    return "falling" if state.steps[-1].rate < state.steps[-2].rate else "rising"


def _memory(state: RunState, space: int, wide: bool) -> Content:
    if state.memory and state.limit:
        return memory(state.memory, state.limit, space, wide=wide)
    return line((gigabytes(state.memory), "bold"), (" GB", "$muted")) if state.memory else Content("–")


# The banner


def banner(view: RunView, snapshot: Snapshot, free: bool, width: int) -> Content | None:
    """Return how a run ended, what was saved and how to proceed, in place of its figures. Return ``None`` while it runs normally.

    A run can be resumed only if nothing else is running (``free``).
    """
    verdict = snapshot.verdict_on(view.id) if view.status == "finished" else None
    if view.status == "finished":
        action = None if verdict else key("E", "evaluate", "app.room('evaluate')")
    else:
        saved = view.checkpoint
        can = free and view.can_resume and saved is not None
        action = key("r", f"resume from {saved:,}", "screen.resume") if can else None
    blocks = status_blocks(view.status, view.state, snapshot.now)
    if not blocks:
        return None
    label = WORDS.statuses[view.status]
    rows = marked(label.glyph, f"${label.style}", blocks[0].plain, width, "bold")
    rows += [paragraph(block.plain, width, "    ", style="") for block in blocks[1:]]
    if verdict:
        from mlxtune.present.verdict import verdict_text  # loaded with the report

        rows.append(paragraph(one_line(verdict_text(verdict.report.verdict)), width, "    ", style=""))
    if action:
        fits = len(blocks) > 1 and rows[-1].cell_length + action.cell_length + 5 <= width
        rows[-1:] = [line(rows[-1], "   ", action)] if fits else [rows[-1], line("    ", action)]
    return lines(*rows)


# Samples


def samples(samples: Sequence[SampleAnswer], width: int, height: int) -> Content:
    newest = [sample for sample in samples if sample.step == samples[-1].step]
    return lines(*_sample_rows(newest, width, _SAMPLE_ROWS)[: height if height > 0 else None])


def all_samples(samples: Sequence[SampleAnswer], width: int) -> list[Content]:
    rows: list[Content] = []
    for step in sorted({sample.step for sample in samples}, reverse=True):
        rows += [line(("  step ", "$muted"), (f"{step:,}", "bold")), Content("")]
        rows += [*_sample_rows([sample for sample in samples if sample.step == step], width), Content("")]
    return rows[:-1]


def _sample_rows(samples: Sequence[SampleAnswer], width: int, max_rows: int | None = None) -> list[Content]:
    """Return each sample's prompt, answer and verdict, wrapped to at most ``max_rows`` rows each."""
    rows: list[Content] = []
    for sample in samples:
        prompt, answer = [*map(Content, wrap(sample.prompt, width - 4))], output_rows(sample.output, None, width - 4)
        prompt, answer = (shorten(one, max_rows or len(one), width - 4) for one in (prompt, answer))
        rows += [line("    " if index else "  ○ ", row).stylize("$muted") for index, row in enumerate(prompt)]
        rows += [line("    ", row) for row in answer]
        verdict = sample_verdict(sample)
        rows.append(line((f"  {verdict.glyph} ", f"bold ${verdict.style}"), verdict.text))
        rows.append(Content(""))
    return rows[:-1]


# The log


def log(events: Sequence[Event], last: Sequence[LogLine], width: int, height: int) -> Content:
    """Return the last lines that fit, each truncated to ``width``, with only the last of several consecutive steps."""
    newest, after_step = [*last[::-1]], False
    for event in reversed(events):
        if len(newest) >= max(height, 1):
            break
        is_step = event["type"] == "step"
        if not (is_step and after_step) and (entry := log_line(event)):
            newest.append(entry)
            after_step = is_step
    return lines(*(line(*_log_lead(entry), cell(entry.text, width - _LOG_INDENT).rstrip()) for entry in newest[::-1]))


def log_rows(entries: Sequence[LogLine], width: int) -> list[Content]:
    rows: list[Content] = []
    for entry in entries:
        first, *rest = wrap(entry.text, width - _LOG_INDENT)
        rows.append(line(*_log_lead(entry), first))
        rows += [Content(" " * _LOG_INDENT + more) for more in rest]
    return rows


def _log_lead(entry: LogLine) -> tuple[Part, ...]:
    clock = time.strftime("%H:%M:%S", time.localtime(entry.t))
    return (f"  {clock}  ", "$faint"), (entry.glyph, f"bold ${entry.style}"), "  "
