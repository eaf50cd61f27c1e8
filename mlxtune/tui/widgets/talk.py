"""A row to be read: its parts one under the other, or two answers side by side. The cursor stands on a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlxtune.core.text import safe_text
from mlxtune.planning.masks import Turn
from mlxtune.tui.draw import col, line, lines, spread
from mlxtune.tui.part_view import SIDES, PartView, Words, difference
from mlxtune.tui.widgets.pane import Pane

MOST = 20_000  # characters of one part that are shown
WASH = ("$trained-alt", "$trained")

Rows = tuple[list[Content], list[int]]  # the rows, and the one that each part begins on


class Talk(Pane):
    """Shows ``rows(width, cursor)``. Up and down go from part to part, page keys through a long one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "the part before", id="talk.up"),
        Binding("down,j", "move(1)", "the next part", id="talk.down"),
        Binding("pageup,ctrl+u", "scroll(-1)", "a page up", id="talk.page-up"),
        Binding("pagedown,ctrl+d", "scroll(1)", "a page down", id="talk.page-down"),
    ]

    @dataclass
    class Moved(Message):
        """The cursor stands on another part."""

        index: int

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cursor = 0
        self._first = 0
        self._count = 0
        self._build: Callable[[int, int], Rows] = lambda width, cursor: ([], [])

    def set(self, count: int, build: Callable[[int, int], Rows], cursor: int | None = None) -> None:
        """Show ``count`` parts as ``build(width, cursor)`` draws them; with ``cursor``, it is another row, from its beginning."""
        self._count, self._build = count, build
        self.cursor = max(0, min(self.cursor if cursor is None else cursor, count - 1))
        if cursor is not None:
            self._first = 0
            self._follow()
        self.show(self._draw)

    def _draw(self, width: int, height: int) -> Content:
        rows, _ = self._build(width, self.cursor if self.has_focus else -1)
        if height <= 0 or len(rows) <= height:
            self._first = 0
            return lines(*rows)
        self._first = max(0, min(self._first, len(rows) - height))
        shown = rows[self._first : self._first + height]
        if below := len(rows) - self._first - height:
            shown[-1] = line((f"    … {below + 1:,} more rows", "$faint"))
        return lines(*shown)

    def _follow(self) -> None:
        """Bring the part under the cursor into view, whole where it fits."""
        height = self.size.height
        rows, starts = self._build(self.size.width, self.cursor)
        if height <= 0 or not starts:
            return
        start = starts[self.cursor]
        end = next((other for other in starts if other > start), len(rows))
        self._first = max(0, min(max(self._first, end - height + (1 if end < len(rows) else 0)), start))

    def action_move(self, by: int) -> None:
        cursor = max(0, min(self.cursor + by, self._count - 1))
        if cursor != self.cursor:
            self.cursor = cursor
            self._follow()
            self.show(self._draw)
            self.post_message(self.Moved(cursor))
        else:
            self.action_scroll(by)

    def action_scroll(self, by: int) -> None:
        self._first = max(self._first + by * max(self.size.height - 2, 1), 0)
        self.show(self._draw)

    def on_resize(self) -> None:
        self._follow()

    def on_focus(self) -> None:
        self.show(self._draw)

    def on_blur(self) -> None:
        self.show(self._draw)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self._first += 3
        self.show(self._draw)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self._first = max(self._first - 3, 0)
        self.show(self._draw)


def conversation(parts: Sequence[PartView], turns: Sequence[Turn] | None, window: int, width: int, cursor: int, air: bool) -> Rows:
    """The parts one under the other; ``turns`` are their tokens, where they are known; ``air`` is an empty row between two."""
    rows: list[Content] = []
    starts = []
    for at, part in enumerate(parts):
        turn = turns[at] if turns and at < len(turns) else None
        starts.append(len(rows))
        rows.append(head(part, turn, width, at == cursor))
        rows += body(part, turn, window, width)
        rows += [Content("")] if air and at < len(parts) - 1 else []
    return rows, starts


def written(parts: Sequence[PartView], turns: Sequence[Turn] | None, part: PartView, window: int, width: int, air: bool) -> Rows:
    """What is said before ``part``, and its name: what is written stands under it. Of a pair, the other answer stands before it."""
    at = next((index for index, one in enumerate(parts) if one.name == part.name), 0)
    before = [index for index, one in enumerate(parts) if index < at or (part.name in SIDES and one.name in SIDES and index != at)]
    shown = [parts[index] for index in before]
    known = [turns[index] for index in before] if turns and len(turns) == len(parts) else None
    rows, _ = conversation(shown, known, window, width, -1, air)
    rows += [Content("")] if air and rows else []
    return [*rows, head(part, None, width, True)], [len(rows)]


def pair(parts: Sequence[PartView], turns: Sequence[Turn] | None, width: int, cursor: int, air: bool, flipped: bool) -> Rows:
    """The prompt, and under it both answers side by side, with what only one of them says underlined."""
    *prompt, chosen, rejected = parts
    rows, starts = conversation(prompt, turns, 0, width, cursor, air)
    rows += [Content("")] if air else []
    half = (width - 2) // 2
    left, right = difference(chosen.text[:MOST], rejected.text[:MOST])
    sides = []
    for at, (part, words) in enumerate(((chosen, left), (rejected, right)), len(prompt)):
        turn = turns[at] if turns and at < len(turns) else None
        key = "d" if (part is rejected) != flipped else "a"
        sides.append([_side(part, turn, half, at == cursor, key), *_told(words, half)])
    starts += [len(rows)] * 2
    one, two = sides[::-1] if flipped else sides
    blank = Content(" " * half)
    for at in range(max(len(one), len(two))):
        mine, other = (side[at] if at < len(side) else blank for side in (one, two))
        rows.append(line(col(mine, half), "  ", other).truncate(max(width, 0)))
    return rows, starts


def head(part: PartView, turn: Turn | None, width: int, here: bool) -> Content:
    """Who says it, and whether it trains."""
    who = line(("▌ " if here else "  ", "$primary"), (f"{part.mark} ", part.token), (part.role, f"bold {part.token}"))
    return spread(width, who, line((trained(part, turn), "$primary" if part.trains else "$faint")))


def trained(part: PartView, turn: Turn | None) -> str:
    """``trained, 62``, with the tokens that train where they are known."""
    if not part.trains:
        return f"not trained, {turn.tokens:,}" if turn else "not trained"
    return f"trained, {turn.trained:,}" if turn else "trained"


def body(part: PartView, turn: Turn | None, window: int, width: int) -> list[Content]:
    """What is said; what trains has a bar before it and is washed token by token."""
    text, cut = part.text[:MOST], len(part.text) > MOST
    rows: list[Content] = []
    if not part.trains:
        rows += [line("    ", row) for row in _wrapped(Content(safe_text(text).expandtabs(4)), width - 5)]
    else:
        lost = turn.lost if turn and turn.lost is not None else len(text)
        kept, beyond = text[:lost], text[lost:]
        pieces = turn.pieces(kept) if turn and turn.cuts else [kept]
        said = line(
            *((safe_text(piece).expandtabs(4), f"$foreground on {WASH[at % 2]}") for at, piece in enumerate(pieces) if piece)
        )
        if turn and turn.stop and not beyond:
            said = line(said, (safe_text(turn.stop), f"$primary on {WASH[len(pieces) % 2]}"))
        rows += [line(("  ┃ ", "$primary"), row) for row in _wrapped(said, width - 5)]
        if beyond:
            rows.append(
                line(("  ! ", "bold $warning"), (f"the window of {window:,} tokens ends here: the rest does not train", "$warning"))
            )
            rows += [line("    ", row) for row in _wrapped(line((safe_text(beyond).expandtabs(4), "$faint")), width - 5)]
    rows += [line(("    calls ", "$muted"), row) for call in part.calls for row in _wrapped(Content(call), width - 11)]
    if cut:
        rows.append(line((f"    … {len(part.text) - MOST:,} more characters", "$faint")))
    return rows


def _side(part: PartView, turn: Turn | None, width: int, here: bool, key: str) -> Content:
    """An answer's name, the key that chooses it, its tokens."""
    who = line(
        ("▌ " if here else "  ", "$primary"),
        (f"{part.mark} ", "$primary"),
        (part.role, "bold $primary"),
        "  ",
        (key, "bold $primary"),
    )
    return spread(width, line(who, (" better", "$muted")), line((trained(part, turn), "$faint")))


def _told(words: Words, width: int) -> list[Content]:
    """An answer with what only it says underlined."""
    said = line(*((safe_text(text).expandtabs(4), "underline $foreground on $trained-alt" if only else "") for text, only in words))
    return [line(("  ┃ ", "$primary"), row) for row in _wrapped(said, width - 5)]


def _wrapped(said: Content, width: int) -> list[Content]:
    """On rows of at most ``width`` cells; an empty text has one."""
    return said.wrap(max(width, 1)) or [Content("")]
