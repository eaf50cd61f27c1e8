"""The frame of every room: the header with the tabs, the notice line, and the footer.

Textual's Header and Tabs have no memory bar and no underlined keys, and its Footer cuts off an action that does not fit.
"""

from collections.abc import Sequence

from textual.content import Content

from mlxtune.core.text import ago, duration, one_line
from mlxtune.present.labels import power_problems, word
from mlxtune.present.words import WORDS
from mlxtune.runs.events import HELD_OUT_ROW, TIMED
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui.actions import ShownAction
from mlxtune.tui.notices import NOTICE_MARKS, Notice
from mlxtune.tui.paths import base_name
from mlxtune.tui.render.bars import memory
from mlxtune.tui.render.text import Part, clickable, justify, key, line, lines, paragraph
from mlxtune.tui.rooms import ROOMS, RoomEntry
from mlxtune.tui.widgets.panel import Panel
from mlxtune.workspace.index import RunView, Snapshot

WIDE = 100  # minimum columns to show words
ROOMY = 140  # minimum columns to show the run's name, too
MAX_ACTIONS = 6  # maximum number of actions in the footer
_RUNNING = {"train": "training", "eval": "evaluating", "search": "searching", "generate": "generating", "export": "exporting"}
_PARTS = {HELD_OUT_ROW: "", "prompt": ", similar rows", "reference": ", likelihoods", TIMED: ", timing"}


class NoticeLine(Panel):
    """The notice above the footer, if there is one."""

    def set(self, notice: Notice | None, undo: ShownAction | None = None) -> None:
        self.display = notice is not None
        if notice is not None:
            self.update(lambda width, _height: _notice(notice, undo, width))


def tabs(current: str, width: int) -> Content:
    """Return the tab strip, with each room's key underlined and the room ``current`` highlighted. A click opens a room.

    If the names do not fit, the other rooms show only their keys, and the first ones are left out if they would hide the current one.
    """
    current = ROOMS[current].inside or current
    entries = [entry for entry in ROOMS.values() if not entry.inside]
    names = sum(len(entry.name) + 2 for entry in entries)
    if is_narrow := names > width:
        first, index = 0, [entry.mode for entry in entries].index(current)
        while first < index and 3 * (index - first) + len(current) + 2 > width:
            first += 1
        entries = entries[first:]
    gap = " " if width >= WIDE and names + 2 * len(entries) <= width else ""
    shown = (_tab(entry, entry.mode == current, gap, is_narrow) for entry in entries)
    return line(*shown).truncate(max(width, 0))


def _tab(entry: RoomEntry, here: bool, gap: str, is_narrow: bool) -> Content:
    """Draw a tab with ``gap`` on both sides. In a narrow strip, a room that is not shown has only its key."""
    index, background = entry.mode.index(entry.key.lower()), "on $background" if here else ""
    style, key_style = f"{'bold $foreground' if here else '$muted'} {background}", f"bold $primary {background or 'underline'}"
    before, letter, after = entry.name[:index], entry.name[index], entry.name[index + 1 :]
    if is_narrow and not here:
        before, letter, after = "", entry.key, ""
    bar = ("▎" if here else " ", f"$primary {background}")
    name = ((before, style), (letter, key_style), (after, style))
    return clickable(line(bar, (gap, background), *name, (f"{gap} ", background)), f"app.room('{entry.mode}')")


def header(snapshot: Snapshot, mode: str, stopping: frozenset[str], width: int) -> Content:
    """Return the header: the workspace, its model, power problems, memory in use, and the current or newest run, above the tabs."""
    left: list[Part] = [("  mlxtune", "bold $primary")]
    right: list[Part] = []
    kinds = (snapshot.runs, snapshot.evals, snapshot.searches, snapshot.generations, snapshot.exports)
    newest = max((views[0] for views in kinds if views), key=lambda view: view.updated, default=None)
    view = snapshot.live or newest
    name = one_line(snapshot.workspace.resolve().name, 40)
    left += [f"  {name}"] if name else []
    recipe = next((item.recipe for item in snapshot.recipes if item.recipe), None)
    base = base_name(view.state.base if view and view.state.base else recipe.model.base if recipe else "")
    if base and width >= 60:
        left.append((f"   {base}", "$muted"))
    if problems := power_problems(snapshot.power)[: 3 if width >= ROOMY else 1 if width >= 60 else 0]:
        right += [("! ", "bold $warning"), (", ".join(problems), "$warning"), "   "]
    if snapshot.memory and width >= 40:
        wide = width >= WIDE
        label = ("memory ", "$muted") if wide else ""
        used = memory(snapshot.memory.used, snapshot.memory.total, 10 if wide else 0, wide=wide)
        right += [label, used, "    " if wide and view else "   " if view else " "]
    if view:
        right.append(_run_status(view, snapshot.now, view.id in stopping, width))
    return lines(justify(width, line(*left), line("  ", *right)), tabs(mode, width))


def _run_status(view: RunView, now: float, stopping: bool, width: int) -> Content:
    """Draw the status of a run of any kind: its glyph, a word, its progress, and its time left or its age."""
    sign, label, (step, total) = WORDS.statuses[view.status], _label(view, now, stopping), _progress(view)
    if not view.alive:
        time = ago(now - view.updated)
    elif stopping or view.status != "running" or view.run.kind in ("eval", "export"):
        time = ""  # an estimate would be about one of several kinds of work
    else:
        time = "" if (left := view.time_left(now)) is None else f"{duration(left)} left"
    parts: list[Part] = [(f"{sign.glyph} ", f"bold ${sign.style}")]
    if width >= ROOMY:
        parts.append(f"{view.name}  ")
    if width >= WIDE or label not in ("training", "finished") or not step:
        parts.append((f"{label} ", "$muted"))
    parts += [(step, "bold"), (f"/{total} " if total else " ", "$muted")] if step else []
    if time and width >= 60:
        parts.append((f" {time} ", "$muted"))
    return line(*parts)


def _label(view: RunView, now: float, stopping: bool) -> str:
    label, kind = WORDS.statuses[view.status].text, view.run.kind
    if view.status == "quiet":
        return f"quiet for {duration(now - view.updated)}"
    if stopping and view.alive:
        return "stopping"
    if view.status == "running":
        return _RUNNING.get(kind, label)
    return f"{RUN_KINDS[kind].noun} {label}" if kind != "train" and not view.alive else label


def _progress(view: RunView) -> tuple[str, str]:
    """Return how far a run is, and the total, if it is known."""
    state, kind = view.state, view.run.kind
    if kind in ("eval", "generate", "export"):
        if not view.alive or (one := state.answering) is None:
            return "", ""
        part = _PARTS.get(one.kind, f", {word(one.kind)}")
        return f"{'' if kind == 'generate' else f'{one.arm}{part} '}{one.done:,}", f"{one.total:,}"
    total = f"{state.total:,}" if state.total else ""
    if kind == "search":
        return f"trial {state.trial}" if state.trial and view.alive else "", total
    return f"{state.step:,}" if state.total or state.step else "", total


def footer(actions: Sequence[ShownAction], width: int) -> Content:
    """Return the footer: as many actions as fit, at most six, and the two keys that always work. The others are in the palette."""
    more = key("^p", "more", "app.command_palette", "$muted")
    pinned = line(key("F1", "help", "app.help", "$muted"), "   ", more) if width >= WIDE else more
    right = pinned if width >= 30 else Content("")
    left = Content("  ")
    for index, action in enumerate(actions[:MAX_ACTIONS]):
        item = line("   " if index else "", key(action.key, action.label, action.click, "$muted"))
        if index and left.cell_length + item.cell_length + right.cell_length + 3 > width:
            break
        left = line(left, item)
    return justify(width, left, line(right, " "))


def _notice(notice: Notice, undo: ShownAction | None, width: int) -> Content:
    body = paragraph(f"{notice.text} {notice.hint}".strip(), width - 2, indent="    ", style="")
    glyph, token = NOTICE_MARKS[notice.kind]
    content = line((f"  {glyph} ", f"bold {token}"), body[4:])
    if undo is None:
        return content
    shown = key(undo.key, undo.label, undo.click, "$muted")
    last = content.plain.rpartition("\n")[2]
    fits = Content(last).cell_length + shown.cell_length + 3 <= width
    return line(content, "  ", shown) if fits else lines(content, line("    ", shown))
