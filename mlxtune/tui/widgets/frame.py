"""The frame of every room: the header with the tabs, the notice line, and the footer.

Textual's Header and Tabs have no memory bar and no underlined keys, and its Footer cuts off an action that does not fit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from mlxtune.core.text import one_line
from mlxtune.present.labels import power_problems
from mlxtune.tui.actions import ShownAction
from mlxtune.tui.notices import Notice
from mlxtune.tui.paths import base_name
from mlxtune.tui.render.bars import bar, memory_style
from mlxtune.tui.render.text import Part, clickable, gigabytes, justify, key, line, lines, paragraph
from mlxtune.tui.rooms import ROOMS, RoomEntry
from mlxtune.tui.status import headline
from mlxtune.tui.widgets.panel import Panel
from mlxtune.workspace.index import RunView, Snapshot

WIDE = 100  # minimum columns to show words
ROOMY = 140  # minimum columns to show the run's name, too
MAX_ACTIONS = 6  # maximum number of actions in the footer


class RoomHeader(Panel):
    """The two rows at the top: the workspace, power, memory and the run, above the tabs."""

    def set(self, snapshot: Snapshot | None, mode: str, stopping: frozenset[str]) -> None:
        self.update(lambda width, _height: lines(_header(snapshot, width, stopping), tabs(mode, width)))


class RoomFooter(Panel):
    """The row at the bottom: the available actions, and the two keys that always work."""

    def set(self, actions: Sequence[ShownAction]) -> None:
        self.update(lambda width, _height: _footer(actions, width))


class NoticeLine(Panel):
    """The notice above the footer, if there is one."""

    def set(self, notice: Notice | None, undo: ShownAction | None = None) -> None:
        self.display = notice is not None
        if notice is not None:
            self.update(lambda width, _height: _notice(notice, undo, width))


@dataclass(frozen=True)
class _Tab:
    """A tab with ``gap`` empty cells on both sides. A ``short`` one shows only its key."""

    entry: RoomEntry
    gap: int = 0
    short: bool = False


def tabs(current: str, width: int) -> Content:
    """Return the tab strip, with each room's key underlined and the room ``current`` highlighted. A click opens a room.

    If the names do not fit, the other rooms show only their keys.
    """
    current = ROOMS[current].inside or current
    return line(*(_draw_tab(tab, tab.entry.mode == current) for tab in _visible_tabs(current, width))).truncate(max(width, 0))


def tab_places(current: str, width: int) -> dict[str, int]:
    """Return the column of the key of each visible tab, by mode."""
    current = ROOMS[current].inside or current
    places: dict[str, int] = {}
    left = 0
    for tab in _visible_tabs(current, width):
        column = left + 1 + tab.gap + (0 if tab.short else tab.entry.key_index)
        if column < width:
            places[tab.entry.mode] = column
        left += _draw_tab(tab, tab.entry.mode == current).cell_length
    return places


def _visible_tabs(current: str, width: int) -> list[_Tab]:
    """Return the tabs that fit, which always include the current one."""
    entries = tuple(entry for entry in ROOMS.values() if not entry.inside)
    names = sum(len(entry.name) + 2 for entry in entries)
    if names <= width:
        gap = 1 if width >= WIDE and names + 2 * len(entries) <= width else 0
        return [_Tab(entry, gap) for entry in entries]
    first, index = 0, [entry.mode for entry in entries].index(current)
    while first < index and 3 * (index - first) + len(current) + 2 > width:
        first += 1
    return [_Tab(entry, short=entry.mode != current) for entry in entries[first:]]


def _draw_tab(tab: _Tab, here: bool) -> Content:
    entry, index = tab.entry, tab.entry.key_index
    background = " on $background" if here else ""
    style = "bold $foreground on $background" if here else "$muted"
    gap = (" " * tab.gap, background.strip())
    tail = (" " * tab.gap + " ", background.strip())
    bar_and_gap = line(("▎" if here else " ", f"$primary{background}"), gap)
    key_style = f"bold $primary{background or ' underline'}"
    if tab.short:
        content = line(bar_and_gap, (entry.key, key_style), tail)
    else:
        before, letter, after = entry.name[:index], entry.name[index], entry.name[index + 1 :]
        content = line(bar_and_gap, (before, style), (letter, key_style), (after, style), tail)
    return clickable(content, f"app.room('{entry.mode}')")


def _header(snapshot: Snapshot | None, width: int, stopping: frozenset[str]) -> Content:
    """Return the header: the workspace, its model, power problems, memory in use, and the current or most recent run."""
    left: list[Part] = [("  mlxtune", "bold $primary")]
    right: list[Part] = []
    if snapshot is not None:
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
            used = _memory(snapshot.memory.used, snapshot.memory.total, width >= WIDE)
            right.append(used if view else line(used.rstrip(), " "))
        if view:
            right.append(_run_status(view, snapshot.now, view.id in stopping, width))
    return justify(width, line(*left), line("  ", *right))


def _memory(used: int, total: int, wide: bool) -> Content:
    style, glyph = memory_style(used / total)
    warning, figure = (glyph, f"bold {style}"), (gigabytes(used), "bold")
    if not wide:
        return line(warning, figure, (f"/{total / 2**30:.0f} GB   ", "$muted"))
    gauge = bar(used / total, 10, style)
    return line(("memory ", "$muted"), gauge, " ", warning, figure, (f" of {total / 2**30:.0f} GB    ", "$muted"))


def _run_status(view: RunView, time: float, stopping: bool, width: int) -> Content:
    now = headline(view, time, stopping)
    usual = now.label in ("training", "finished")
    parts: list[Part] = [(f"{now.glyph} ", f"bold {now.style}")]
    if width >= ROOMY:
        parts.append(f"{view.name}  ")
    if width >= WIDE or not usual or not now.step:
        parts.append((f"{now.label} ", "$muted"))
    if now.step:
        parts.append((now.step, "bold"))
    if now.total:
        parts.append((f"/{now.total}", "$muted"))
    if now.time and width >= 60:
        parts.append((f"  {now.time} " if now.step else f" {now.time} ", "$muted"))
    return line(*parts)


def _footer(actions: Sequence[ShownAction], width: int) -> Content:
    """Return the footer: as many actions as fit, at most six. The others are in the palette."""
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
    content = line((f"  {notice.mark[0]} ", f"bold {notice.mark[1]}"), body[4:])
    if undo is None:
        return content
    shown = key(undo.key, undo.label, undo.click, "$muted")
    last = content.plain.rpartition("\n")[2]
    fits = Content(last).cell_length + shown.cell_length + 3 <= width
    return line(content, "  ", shown) if fits else lines(content, line("    ", shown))
