"""The frame of every room: the header with its tabs, the answer line, and the footer with its verbs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.tui.draw import Part, bar, clickable, fold, gigabytes, key, line, lines, memory_style, spread
from mlxtune.tui.snapshot import Snapshot
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
    """One line above the footer: what came of the last thing that was asked for, and the keys of what can be done about it."""

    mark: str
    token: str
    text: str
    mend: str = ""
    keys: tuple[Verb, ...] = ()


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


def tabs(current: str, rooms: Sequence[str], width: int) -> Content:
    """The rooms, each with its letter underlined. A click goes there."""
    parts: list[Part] = []
    for name in rooms:
        here, at = name == current, name.index(LETTERS[name])
        word = "bold $foreground on $background" if here else "$muted"
        ground = " on $background" if here else ""
        gap = " " if width >= WIDE else ""
        tab = line(
            ("▎" if here else " ", f"$primary{ground}"),
            (gap, ground.strip()),
            (name[:at], word),
            (name[at], f"bold $primary{ground or ' underline'}"),
            (name[at + 1 :], word),
            (gap + " ", ground.strip()),
        )
        parts.append(clickable(tab, f"app.room('{name.lower()}')"))
    return line(*parts).truncate(max(width, 0))


def _who(snapshot: Snapshot | None, width: int, stopping: frozenset[str]) -> Content:
    who: list[Part] = [("  mlxtune", "bold $primary")]
    right: list[Part] = []
    if snapshot is not None:
        view = snapshot.live or max((*snapshot.runs[:1], *snapshot.evals[:1]), key=lambda view: view.updated, default=None)
        name = view.name if view else one_line(snapshot.workspace.name)
        who += [f"  {name}"] if name else []
        if view and view.state.base and width >= 60:
            who.append((f"   {view.state.base}", "$muted"))
        if snapshot.memory and width >= 40:
            right.append(_memory(snapshot.memory.used, snapshot.memory.total, width >= WIDE))
        if view:
            right.append(_state(snapshot, view.id in stopping, width))
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


def _state(snapshot: Snapshot, stopping: bool, width: int) -> Content:
    view = snapshot.live or max((*snapshot.runs[:1], *snapshot.evals[:1]), key=lambda view: view.updated)
    now = headline(view, snapshot.now, stopping)
    usual = now.sign.word in ("training", "finished")
    parts: list[Part] = [(f"{now.sign.mark} ", f"bold {now.sign.token}")]
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
    pinned = [("F1", "help", "app.help"), ("^p", "more", "app.command_palette")][0 if width >= WIDE else 1 :]
    shown = line("  ", *(part for verb in verbs for part in (key(verb.key, verb.word, verb.click, "$muted"), "   ")))
    right = line(*(part for at in pinned for part in (key(*at, "$muted"), "   "))).rstrip() if width >= 30 else Content("")
    return spread(width, shown, line(right, " "))


def _answer(answer: Answer, width: int) -> Content:
    body = f"{answer.text} {answer.mend}".strip()
    told = fold(body, width - 2, indent="    ", style="")
    said = line((f"  {answer.mark} ", f"bold {answer.token}"), told[4:])
    keys = line(*(part for verb in answer.keys for part in ("  ", key(verb.key, verb.word, verb.click, "$muted"))))
    fits = said.split("\n")[-1].cell_length + keys.cell_length <= width
    return line(said, keys if fits else "")
