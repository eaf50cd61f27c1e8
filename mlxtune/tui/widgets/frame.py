"""The frame of every room: the header with its tabs, the answer line, and the footer with its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.tui.draw import Part, bar, clickable, fold, gigabytes, key, line, lines, memory_style, spread, wrap
from mlxtune.tui.names import base_name
from mlxtune.tui.snapshot import RunView, Snapshot
from mlxtune.tui.status import headline
from mlxtune.tui.widgets.draw import Draw

# The rooms in the order of the journey, each with the capital that goes there. The app shows those it has.
LETTERS = {
    "Home": "H",
    "Data": "D",
    "Review": "R",
    "Plan": "P",
    "Train": "T",
    "Evaluate": "E",
    "Blind": "B",
    "Adapters": "A",
    "Chat": "C",
    "adVice": "V",
}
WIDE = 100  # columns from which there is room for words
ROOMY = 140  # columns from which there is room for all of them
MOST = 6  # verbs in the footer


@dataclass(frozen=True)
class Verb:
    """A key of a room: what it is called, and the action it runs on the screen."""

    key: str
    word: str
    action: str
    help: str = ""

    @property
    def click(self) -> str:
        """The action as a click names it, from outside the screen."""
        return self.action if "." in self.action else f"screen.{self.action}"


@dataclass(frozen=True)
class Answer:
    """What came of the last thing that was asked for, and the verb that takes it back, if one does."""

    mark: str
    token: str
    text: str
    mend: str = ""
    undo: Verb | None = None

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do or to undo: a toast says it."""
        return self.mark == "✓" and not self.mend and self.undo is None


def sorry(error: MlxtuneError) -> Answer:
    """What went wrong, and how to mend it."""
    return Answer("✗", "$error", one_line(error.message), one_line(error.mend))


class Top(Draw):
    """Two rows: who, memory and the run at work; and the tabs."""

    def set(self, snapshot: Snapshot | None, room: str, rooms: Sequence[str], stopping: frozenset[str]) -> None:
        self.show(lambda width, _height: lines(_who(snapshot, width, stopping), tabs(room, rooms, width)))


class Foot(Draw):
    """One row: the verbs that are possible now, and the two keys that always are."""

    def set(self, verbs: Sequence[Verb]) -> None:
        self.show(lambda width, _height: _foot(verbs, width))


class AnswerLine(Draw):
    """Shown above the footer while there is something to answer."""

    def set(self, answer: Answer | None) -> None:
        self.display = answer is not None
        if answer is not None:
            self.show(lambda width, _height: _answer(answer, width))


class Toast(Draw):
    """What is done, over the room's last rows at the right, until the desk takes it away."""

    def set(self, answer: Answer | None) -> None:
        self.display = answer is not None
        if answer is None:
            return
        space = self.screen.size
        rows = wrap(answer.text, min(60, space.width - 8))
        mark = (f"  {answer.mark} ", f"bold {answer.token}")
        shown = lines(*(line(mark if not at else "    ", row, "  ") for at, row in enumerate(rows)))
        width = max(row.cell_length for row in shown.split("\n", allow_blank=True))
        self.styles.width, self.styles.height = width, len(rows)
        self.styles.offset = (max(space.width - width - 2, 0), max(space.height - len(rows) - 2, 0))
        self.show(lambda _width, _height: shown)


def tabs(current: str, rooms: Sequence[str], width: int) -> Content:
    """The rooms, each with its letter underlined. A click goes there. Where there is no room for names, there is for letters."""
    strip = _strip(current, rooms, width)
    shown = (clickable(_tab(name, current, gap, short), f"app.room('{name.lower()}')") for name, gap, short in strip)
    return line(*shown).truncate(max(width, 0))


def tab_places(current: str, rooms: Sequence[str], width: int) -> dict[str, int]:
    """The column of each visible tab's letter."""
    places: dict[str, int] = {}
    at = 0
    for name, gap, short in _strip(current, rooms, width):
        letter = at + 1 + gap + (0 if short else name.index(LETTERS[name]))
        if letter < width:
            places[name] = letter
        at += _tab(name, current, gap, short).cell_length
    return places


def _strip(current: str, rooms: Sequence[str], width: int) -> list[tuple[str, int, bool]]:
    """The tabs to show: name, cells of air on both sides, and whether only its letter is shown. The current one is among them."""
    names = sum(map(len, rooms)) + 2 * len(rooms)
    if names <= width:
        gap = 1 if width >= WIDE and names + 2 * len(rooms) <= width else 0
        return [(name, gap, False) for name in rooms]
    first, at = 0, rooms.index(current)
    while first < at and 3 * (at - first) + len(current) + 2 > width:
        first += 1
    return [(name, 0, name != current) for name in rooms[first:]]


def _tab(name: str, current: str, gap: int, short: bool) -> Content:
    here, at = name == current, name.index(LETTERS[name])
    word = "bold $foreground on $background" if here else "$muted"
    ground = " on $background" if here else ""
    return line(
        ("▎" if here else " ", f"$primary{ground}"),
        (" " * gap, ground.strip()),
        ("" if short else name[:at], word),
        (name[at], f"bold $primary{ground or ' underline'}"),
        ("" if short else name[at + 1 :], word),
        (" " * gap + " ", ground.strip()),
    )


def _who(snapshot: Snapshot | None, width: int, stopping: frozenset[str]) -> Content:
    """The workspace, its model, memory in use, and the run that is at work or was last."""
    who: list[Part] = [("  mlxtune", "bold $primary")]
    right: list[Part] = []
    if snapshot is not None:
        view = snapshot.live or max((*snapshot.runs[:1], *snapshot.evals[:1]), key=lambda view: view.updated, default=None)
        name = one_line(snapshot.workspace.resolve().name, 40)
        who += [f"  {name}"] if name else []
        recipe = next((item.recipe for item in snapshot.recipes if item.recipe), None)
        base = base_name(view.state.base if view and view.state.base else recipe.model.base if recipe else "")
        if base and width >= 60:
            who.append((f"   {base}", "$muted"))
        if snapshot.memory and width >= 40:
            used = _memory(snapshot.memory.used, snapshot.memory.total, width >= WIDE)
            right.append(used if view else line(used.rstrip(), " "))
        if view:
            right.append(_state(view, snapshot.now, view.id in stopping, width))
    return spread(width, line(*who), line("  ", *right))


def _memory(used: int, total: int, wide: bool) -> Content:
    style, sign = memory_style(used / total)
    mark = (sign, f"bold {style}")
    if not wide:
        return line(mark, (gigabytes(used), "bold"), (f"/{total / 2**30:.0f} GB   ", "$muted"))
    return line(
        ("memory ", "$muted"),
        bar(used / total, 10, style),
        " ",
        mark,
        (gigabytes(used), "bold"),
        (f" of {total / 2**30:.0f} GB    ", "$muted"),
    )


def _state(view: RunView, time: float, stopping: bool, width: int) -> Content:
    now = headline(view, time, stopping)
    usual = now.sign.word in ("training", "finished")
    parts: list[Part] = [(f"{now.sign.mark} ", f"bold {now.sign.token}")]
    if width >= ROOMY:
        parts.append(f"{view.name}  ")
    if width >= WIDE or not usual or not now.step:
        parts.append((f"{now.sign.word} ", "$muted"))
    if now.step:
        parts.append((now.step, "bold"))
    if now.total:
        parts.append((f"/{now.total}", "$muted"))
    if now.tail and width >= 60:
        parts.append((f"  {now.tail} " if now.step else f" {now.tail} ", "$muted"))
    return line(*parts)


def _foot(verbs: Sequence[Verb], width: int) -> Content:
    """As many verbs as there is room for, six at most: the others are in the palette."""
    pinned = [("F1", "help", "app.help"), ("^p", "more", "app.command_palette")][0 if width >= WIDE else 1 :]
    right = line(*(part for at in pinned for part in (key(*at, "$muted"), "   "))).rstrip() if width >= 30 else Content("")
    shown = Content("  ")
    for at, verb in enumerate(verbs[:MOST]):
        more = line("   " if at else "", key(verb.key, verb.word, verb.click, "$muted"))
        if at and shown.cell_length + more.cell_length + right.cell_length + 3 > width:
            break
        shown = line(shown, more)
    return spread(width, shown, line(right, " "))


def _answer(answer: Answer, width: int) -> Content:
    body = f"{answer.text} {answer.mend}".strip()
    told = line((f"  {answer.mark} ", f"bold {answer.token}"), fold(body, width - 2, indent="    ", style="")[4:])
    if answer.undo is None:
        return told
    undo = key(answer.undo.key, answer.undo.word, answer.undo.click, "$muted")
    last = told.plain.rpartition("\n")[2]
    fits = Content(last).cell_length + undo.cell_length + 3 <= width
    return line(told, "  ", undo) if fits else lines(told, line("    ", undo))
