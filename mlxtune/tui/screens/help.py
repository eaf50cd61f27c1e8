"""F1: the keys that do something now, and what the signs mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlxtune.tui.draw import Part, col, wrap
from mlxtune.tui.widgets.frame import LETTERS, Verb

_ALWAYS = (
    ("^p", "everything that can be done now, to search"),
    ("esc", "close what lies over a room"),
    ("q", "leave; what runs goes on"),
)
_SIGNS = (
    ("●", "$primary", "running"),
    ("✓", "$success", "done"),
    ("■", "$muted", "stopped"),
    ("✗", "$error", "failed or crashed; on a chart, a loss that is not a number"),
    ("!", "$warning", "worth a look: quiet, cut, or close to a limit"),
    ("◐", "$primary", "partly known"),
    ("○", "$muted", "waiting"),
    ("◆", "$second", "validation"),
    ("▾", "$primary", "checkpoint saved"),
)


def help_rows(room: str, rooms: Sequence[str], verbs: Sequence[Verb]) -> Callable[[int], list[tuple[Part, ...]]]:
    """The rows of the help page for ``room``."""

    def rows(width: int) -> list[tuple[Part, ...]]:
        out: list[tuple[Part, ...]] = [((f"  {room}", "bold"),)]
        keys = [(verb.key, verb.help or verb.word) for verb in verbs if verb.key != "q"]
        for name, does in keys:
            out += _entry(name, "bold $primary", does, width)
        out += [("",), (("  Everywhere", "bold"),)]
        for name, does in [*((LETTERS[name], f"go to {name}") for name in rooms), *_ALWAYS]:
            out += _entry(name, "bold $primary", does, width)
        out += [("",), (("  Signs", "bold"),)]
        for mark, token, means in _SIGNS:
            out += _entry(mark, f"bold {token}", means, width)
        return out

    return rows


def _entry(name: str, style: str, text: str, width: int) -> list[tuple[Part, ...]]:
    first, *rest = wrap(text, width - 11)
    return [("  ", col(name, 8, style), (first, "$muted")), *((" " * 10, (more, "$muted")) for more in rest)]
