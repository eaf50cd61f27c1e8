"""Draw the queue page: the queue's progress, and its commands."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content

from mlxtune.core.text import one_line, plural
from mlxtune.runs.queue import QueueEntry
from mlxtune.tui.render.text import Part, cell, fold, key, line, lines

_GLYPHS = {
    "waiting": ("○", "$faint"), "started": ("●", "bold $primary"), "done": ("✓", "bold $success"), "failed": ("✗", "bold $error"),
}  # fmt: skip
_INTERRUPTED = ("‖", "$warning")


def banner(entries: Sequence[QueueEntry], running: bool, can_add: bool, width: int) -> Content:
    """Return how many commands are done and waiting, and whether the queue runs."""
    if not entries:
        about = (
            "The queue runs training, searches, and evaluations one after another, for example overnight, and evaluates what was "
            "trained. It continues if you close the app."
        )
        add = line("  ", key("a", "add a command", "screen.add")) if can_add else fold("Add a recipe first.", width)
        return lines(fold("The queue is empty.", width, style="bold"), fold(about, width), Content(""), add)
    counts = {status: sum(entry.status == status for entry in entries) for status in _GLYPHS}
    state: list[Part] = (
        [("  ● ", "bold $primary"), ("running", "bold")] if running else [("  ■ ", "$muted"), ("not running", "bold")]
    )
    facts = f"   {counts['done']} of {len(entries)} done" + (f", {counts['failed']} failed" if counts["failed"] else "")
    rows = [line(*state, (facts, "$muted")).truncate(max(width, 0), ellipsis=True)]
    left = counts["waiting"] + counts["started"]
    if not running and left:
        verb = "continue with" if counts["started"] else "run"
        rows.append(line("    ", key("s", f"{verb} {plural(left, 'command')}", "screen.start")))
    return lines(*rows)


def row(entry: QueueEntry, running: bool, width: int) -> Content:
    """Return a command: its state, number, and text, and its run or the reason why it failed."""
    interrupted = entry.status == "started" and not running
    note = "interrupted" if interrupted else one_line(entry.message)
    parts: list[Part] = [
        _INTERRUPTED if interrupted else _GLYPHS[entry.status],
        " ",
        cell(str(entry.number), 3, "$muted", right=True),
    ]
    parts += ["  ", (one_line(entry.text), "bold" if entry.status == "started" else "")]
    parts += ["   ", (note, "$error" if entry.status == "failed" else "$muted")]
    return line(*parts).truncate(max(width, 0), ellipsis=True)
