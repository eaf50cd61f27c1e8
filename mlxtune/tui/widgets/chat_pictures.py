"""What the Chat room shows: questions and answers by role, one answer or two side by side, and how they were made."""

from __future__ import annotations

from itertools import zip_longest

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line, safe_text
from mlxtune.tui.draw import Part, col, fold, key, line, lines, wrap
from mlxtune.tui.names import base_name
from mlxtune.tui.snapshot import RunView
from mlxtune.tui.talks import Exchange, Offer, Side, Talk

Rows = list[tuple[Part, ...]]

_LEAST = 60  # cells from which two answers stand side by side


def invite(offer: Offer | None, base: str, error: MlxtuneError | None, live: RunView | None, width: int) -> Content:
    """The room before anything is loaded: what it takes, the key for what is offered, and one for the base alone."""
    if offer is None:
        return Content("")
    rows: list[Content] = []
    if error:
        rows.append(line(("  ✗ ", "bold $error"), fold(one_line(error.message), width - 2, "    ", "bold $error")[4:]))
        rows += [fold(one_line(error.mend), width, "    ")] if error.mend else []
        rows.append(Content(""))
    rows += [
        fold("Nobody is here to talk to yet.", width, style="bold"),
        fold(
            "The model is loaded in a process of its own, and its memory is free again when you leave. Adapters can be swapped in the middle.",
            width,
        ),
    ]
    if live:
        rows.append(fold(f"{live.name} has the accelerator: talking beside it slows both.", width, style="$warning"))
    ways = [line("  ", key("enter", f"load {offer.name or base}", "screen.begin"))]
    if offer.name:
        rows.append(fold(f"{offer.name} is {offer.about}.", width))
        ways.append(line("  ", key("o", f"load {base} alone", "screen.base")))
    return lines(*rows, Content(""), *(way.truncate(max(width, 0)) for way in ways))


def note(talk: Talk, both: bool) -> Content:
    """The end of the heading's rule: the base, how it computes, the system prompt."""
    if talk.state == "loading":
        return line(("● ", "bold $primary"), "loading")
    if talk.state == "failed":
        return line(("✗ ", "bold $error"), one_line(talk.error.message, 60) if talk.error else "it ended")
    if talk.state == "away" or talk.ready is None:
        return line(("■ ", "$muted"), "ended")
    parts = [f"on {base_name(talk.ready.base)}" if talk.adapter else one_line(talk.ready.path, 40)]
    parts += ["beside the base"] if both and talk.adapter else []
    parts += ["with a system prompt"] if talk.system else []
    return line(", ".join(parts))


def said(talk: Talk, width: int) -> Rows:
    """The whole conversation."""
    rows: Rows = []
    if talk.system:
        rows += [*_turn("◇", "system", talk.system, width, "$muted"), ("",)]
    for exchange in talk.exchanges:
        rows += [*_turn("○", "user", one_line(exchange.question, 4000), width, ""), ("",)]
        rows += _beside(exchange, width) if len(exchange.sides) > 1 and width >= _LEAST else _under(exchange, width)
        rows.append(("",))
    if not talk.exchanges:
        rows.append((("  Ask something.", "$muted"),))
    return rows


def _under(exchange: Exchange, width: int) -> Rows:
    rows: Rows = []
    for side in exchange.sides:
        rows += [*_turn("●", _who(side), side.text, width, "", "$primary" if side.adapter else "$muted"), *_end(side, width)]
    return rows


def _beside(exchange: Exchange, width: int) -> Rows:
    """Two answers in two columns, each under its name."""
    half = (width - 4) // 2
    first, second = (
        [line((f"{'●'} {_who(side)}", "bold $primary" if side.adapter else "bold $muted")), *(Content(f"  {row}") for row in _rows(side.text, half - 4)), *(line(*row)[2:] for row in _end(side, half))]
        for side in exchange.sides
    )  # fmt: skip
    return [("  ", col(one or "", half), "  ", col(two or "", half)) for one, two in zip_longest(first, second)]


def _turn(mark: str, who: str, text: str, width: int, style: str, token: str = "$muted") -> Rows:
    body: Rows = [("    ", (row, style)) for row in _rows(text, width - 6)] if text else []
    return [((f"  {mark} ", f"bold {token}"), (who, token)), *body]


def _rows(text: str, width: int) -> list[str]:
    """What somebody wrote, safe to show, on rows of at most ``width`` cells."""
    return wrap(safe_text(text).expandtabs(4), width)


def _who(side: Side) -> str:
    return one_line(side.adapter) or "base"


def _end(side: Side, width: int) -> Rows:
    """How the answer ended, and what it took."""
    if side.error:
        return [(("    ✗ " if not at else "      ", "bold $error"), row) for at, row in enumerate(wrap(side.error, width - 6))]
    if side.done is None:
        return [(("    ▏", "$primary"),)]
    done = side.done
    cut = {"length": ", cut off", "cancelled": ", stopped"}.get(done.ended, "")
    speed = f", {done.speed:,.0f} tokens/s" if done.speed else ""
    known = f"{done.prompt_tokens:,} read, {done.cached:,} of them known" if done.cached else f"{done.prompt_tokens:,} read"
    return [((f"    {known}, {done.tokens:,} written{speed}{cut}", "$faint"),)]
