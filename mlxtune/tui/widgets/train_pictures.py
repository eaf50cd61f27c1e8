"""What the Train room says above and beside its chart: the figures of a run, how it ended, its samples."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from textual.content import Content

from mlxtune.core.text import duration, plural
from mlxtune.runs.state import RunState, Sample
from mlxtune.tui.draw import Part, bar, col, fold, gigabytes, key, line, lines, memory_style, spark, wrap
from mlxtune.tui.snapshot import RunView, Snapshot
from mlxtune.tui.status import can_resume, checkpoint, lost_step, time_left

ROOM_FOR_SAMPLE = 7  # rows of one answer beside the chart


def stats(view: RunView, now: float, width: int) -> Content:
    """Two rows: what each figure is, and the figure."""
    state, wide = view.state, width >= 98
    if not state.steps and state.reference[0] < state.reference[1]:
        scored, pairs = state.reference
        return lines(
            line(("  the reference model scores every pair once", "$faint")),
            line(
                "  ", bar(scored / pairs, max(width - 30, 8)), (f" {scored:,}", "bold"), (f" of {plural(pairs, 'pair')}", "$muted")
            ).truncate(max(width, 0)),
        )
    left = time_left(view, now)
    step = line((f"{state.step:,}", "bold"), (f" of {state.total:,}" if state.total else "", "$muted"))
    speed = line((f"{state.speed:,.0f}" if state.steps else "–", "bold"), (f"  {_speeds(state)}" if wide else "", "$faint"))
    ends = time.strftime("%H:%M", time.localtime(now + (left or 0)))
    rest = line((duration(left), "bold"), (f"   {ends}", "$muted")) if left is not None else Content("–")
    rate = state.steps[-1].rate if state.steps else None
    learning = line((_rate(rate), "bold"), (f" {_course(state)}" if wide else "", "$muted"))
    room = max(width - 94, 8)
    if wide:
        peak = f"memory, peak {gigabytes(state.peak)}" if state.peak else "memory"
        cells = [
            ("step", step, 16),
            ("tokens/s", speed, 18),
            (peak, _memory(state, room, True), room + 22),
            ("learning rate", learning, 20),
        ]
    else:
        cells = [("step", step, 14), ("tokens/s", speed, 10), ("memory", _memory(state, 8, False), 24), ("rate", learning, 10)]
    cells.append(("left", rest, 17))
    names = line("  ", *(col(name, size, "$faint") for name, _, size in cells))
    return lines(names.truncate(max(width, 0)), line("  ", *(col(value, size) for _, value, size in cells)).truncate(max(width, 0)))


def _speeds(state: RunState) -> str:
    recent = [step.speed for step in state.steps[-60:]]
    size = max(len(recent) // 6, 1)
    return (
        spark([sum(recent[at : at + size]) / len(recent[at : at + size]) for at in range(0, len(recent) - size + 1, size)][-6:])
        if recent
        else ""
    )


def _rate(rate: float | None) -> str:
    return f"{rate:.1e}".replace("e-0", "e-").replace("e+00", "") if rate is not None else "–"


def _course(state: RunState) -> str:
    if len(state.steps) < 2 or state.steps[-1].rate == state.steps[-2].rate:
        return ""
    return "falling" if state.steps[-1].rate < state.steps[-2].rate else "rising"


def _memory(state: RunState, room: int, wide: bool) -> Content:
    if not state.memory:
        return Content("–")
    style, sign = memory_style(state.memory / state.limit) if state.limit else ("$primary", "")
    of = f"{' of ' if wide else '/'}{state.limit / 2**30:.0f} GB" if state.limit else " GB"
    gauge = line(bar(state.memory / state.limit, room, style), " ") if state.limit else Content("")
    return line(gauge, (sign, f"bold {style}"), (gigabytes(state.memory), "bold"), (of, "$muted"))


def banner(view: RunView, snapshot: Snapshot, free: bool, width: int) -> Content | None:
    """How a run ended, what is safe and what to do, in place of its figures; ``None`` while all is well.

    ``free`` says that nothing else runs, so that this run could be resumed.
    """
    state, step, saved = view.state, f"{view.state.step:,}", checkpoint(view)
    resume = key("r", f"resume from {saved:,}", "screen.resume") if free and can_resume(view) and saved is not None else None
    match view.status:
        case "quiet":
            return _said(
                "!",
                "$warning",
                f"Nothing was heard for {duration(snapshot.now - view.updated)}.",
                "Its process is alive.",
                _safe(view),
                None,
                width,
            )
        case "crashed":
            return _said(
                "✗",
                "$error",
                f"The run ended at step {step} without saying why.",
                "Its process is gone.",
                _safe(view),
                resume,
                width,
            )
        case "failed":
            lost = lost_step(view)
            said = state.error or (f"The loss is not a number at step {lost:,}." if lost is not None else "The run failed.")
            return _said("✗", "$error", said, "", state.mend or _safe(view), resume, width)
        case "stopped":
            return _said("■", "$muted", f"Stopped at step {step} of {state.total:,}.", "", _safe(view), resume, width)
        case "finished":
            return _said("✓", "$success", *_finished(view), _proof(view, snapshot), None, width)
    return None


def _safe(view: RunView) -> str:
    """What would not be lost."""
    saved = checkpoint(view)
    if saved is None:
        return "No checkpoint was saved yet, so a new run starts from the beginning."
    again = view.state.step - saved
    if again <= 0:
        return f"Checkpoint {saved:,} is whole, so nothing is lost."
    return f"Checkpoint {saved:,} is whole, so {again:,} {'step' if again == 1 else 'steps'} would run again."


def _finished(view: RunView) -> tuple[str, str]:
    state = view.state
    took = f" in {duration(state.updated - state.started)}" if state.started else ""
    best, last = state.best, state.validations[-1] if state.validations else None
    if best is None or last is None:
        return f"{state.step:,} steps{took}.", ""
    where = "the best so far" if best.step == last.step else f"the best was {best.loss:.2f} at {best.step:,}"
    return f"{state.step:,} steps{took}.", f"Validation {last.loss:.2f}, {where}."


def _proof(view: RunView, snapshot: Snapshot) -> str:
    """What is known of whether it helped, or how to find out."""
    verdict = snapshot.verdict
    if verdict and verdict.word and verdict.run == view.id:
        return verdict.sentence
    return "Whether it helped is measured in Evaluate."


def _said(mark: str, token: str, fact: str, more: str, safe: str, verb: Content | None, width: int) -> Content:
    """Fact, consequence, key: on two rows where they fit, on as many as they need where they do not."""
    ink = "" if token in ("$muted", "$success") else token
    first = line((f"  {mark} ", f"bold {token}"), (fact, f"bold {ink}"), (f"  {more}" if more else "", "$muted"))
    if first.cell_length > width:
        body = fold(fact, width - 2, indent="    ", style=f"bold {ink}")
        first = line((f"  {mark} ", f"bold {token}"), body[4:])
        first = lines(first, fold(more, width, "    ")) if more else first
    second = line(f"    {safe}   ", verb or "")
    if second.cell_length > width:
        body = fold(safe, width, "    ", style="")
        second = lines(body, line("    ", verb)) if verb else body
    return lines(first, second)


def samples_picture(samples: Sequence[Sample], width: int, height: int) -> Content:
    """The newest answers, as many as fit."""
    rows = [line(*row) for row in sample_rows(newest(samples), width, ROOM_FOR_SAMPLE)]
    return lines(*(row.truncate(max(width, 0)) for row in (rows[:height] if height > 0 else rows)))


def all_samples(samples: Sequence[Sample], width: int) -> list[tuple[Part, ...]]:
    """Every sample, newest first, each step's under its number."""
    rows: list[tuple[Part, ...]] = []
    for step in sorted({sample.step for sample in samples}, reverse=True):
        rows += [(("  step ", "$muted"), (f"{step:,}", "bold")), ("",)]
        rows += [*sample_rows([sample for sample in samples if sample.step == step], width), ("",)]
    return rows[:-1]


def newest(samples: Sequence[Sample]) -> list[Sample]:
    """The samples of the last step that has any."""
    return [sample for sample in samples if sample.step == samples[-1].step]


def sample_rows(samples: Sequence[Sample], width: int, most: int = 10_000) -> list[tuple[Part, ...]]:
    """Question, answer and verdict of each sample, wrapped, at most ``most`` rows of an answer."""
    rows: list[tuple[Part, ...]] = []
    for sample in samples:
        asked = wrap(sample.prompt, width - 4)
        rows += [(("  ○ " if at == 0 else "    ", "$muted"), (row, "$muted")) for at, row in enumerate(asked[:most])]
        answer = _answer(sample.output, width - 4)
        cut = len(answer) > most
        rows += [("    ", row) for row in (answer[: most - 1] if cut else answer)]
        rows += [(("    …", "$muted"),)] if cut else []
        rows += [(*_sign(sample.verdict), sample.verdict)] if sample.verdict else []
        rows.append(("",))
    return rows[:-1]


def _sign(verdict: str) -> tuple[tuple[str, str], ...]:
    """The worker says that an answer holds, how it ended where there is no contract, or what it breaks."""
    if verdict.startswith("holds"):
        return (("  ✓ ", "bold $success"),)
    if verdict.startswith("ended"):
        return (("  · ", "$muted"),)
    return (("  ! ", "bold $warning"),) if verdict.startswith("cut") else (("  ✗ ", "bold $error"),)


def _answer(output: str, width: int) -> list[str]:
    """An answer on rows: a JSON object one member a row, anything else as it is."""
    try:
        value = json.loads(output)
    except ValueError:
        value = None
    if not isinstance(value, dict) or not value:
        return wrap(output, width)
    members = [f"{json.dumps(name, ensure_ascii=False)}: {json.dumps(item, ensure_ascii=False)}" for name, item in value.items()]
    rows = [row for at, member in enumerate(members) for row in wrap(member + ("," if at < len(members) - 1 else "}"), width - 1)]
    return ["{" + rows[0], *(" " + row for row in rows[1:])]
