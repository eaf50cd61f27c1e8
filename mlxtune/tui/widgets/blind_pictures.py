"""What the Blind room shows: progress to the fixed number, what was asked, sealed answers, the questions, and at the end the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.text import one_line, plural, safe_text
from mlxtune.tui.draw import Part, axis, bar, col, fold, interval, key, line, lines, wrap
from mlxtune.tui.verdict import SIGNS
from mlxtune.tui.widgets.answer_text import answer_rows

if TYPE_CHECKING:
    from mlxtune.evaluation.ballot import Result, Tally
    from mlxtune.evaluation.blind import Session, Showing, Vote
    from mlxtune.evaluation.voted import Standing

_NAME = 44  # cells of a question
_ASK, _COUNT, _SHARE, _P = 44, 8, 12, 10  # cells of a result's columns: a question, votes for one side, their share, p


def progress(session: Session, now: Showing | None, width: int) -> Content:
    """How many pairs are done, and when the result opens."""
    at, of = (now.at, now.of) if now else (1, 1)
    left = (
        line(("  Pair ", "bold"), (f"{at + 1:,}", "bold"), (f" of {of:,}  ", "$muted"))
        if now
        else line(("  All votes are in  ", "bold"))
    )
    right = line((f"  result opens after pair {of:,}" if now else f"  {session.votes:,} votes", "$muted"))
    done = session.votes / max(1, session.due)
    if width < 70:
        right = Content("")
    return line(left, bar(done, width - left.cell_length - right.cell_length), right).truncate(max(width, 0))


def asked(now: Showing, width: int, most: int) -> Content:
    """What the customer said last, at most ``most`` rows of it."""
    text = next((message.content for message in reversed(now.prompt) if message.role == "user"), "")
    told = safe_text(text).strip().expandtabs(4) if most > 2 else one_line(text)
    rows = wrap(told or "(nothing)", width - 4)
    if len(rows) <= most:
        return lines(*(f"  {row}" for row in rows))
    last = line(("… ", "$muted"), key("p", "all of it", "screen.prompt", "$muted"))
    cut = col(rows[most - 1], width - 4 - last.cell_length - 1)
    return lines(*(f"  {row}" for row in rows[: most - 1]), line("  ", cut, " ", last))


def side(text: str, first: int, width: int, height: int) -> Content:
    """An answer from its row ``first`` on."""
    rows = side_rows(text, width)
    return lines(*rows[max(0, min(first, len(rows) - height)) :][: height or None])


def side_rows(text: str, width: int) -> list[Content]:
    """An answer as rows; nobody can tell from them whose it is."""
    return answer_rows(text, None, width) if text.strip() else [Content.styled("(empty)", "$faint")]


def questions(asks: Sequence[str], given: Sequence[Vote], width: int) -> Content:
    """The three questions of the craft, each with the vote that was given."""
    rows = []
    for at, ask in enumerate(asks):
        here = at == len(given)
        cells: list[Part] = []
        for vote, word in (("a", "A"), ("tie", "same"), ("b", "B")):
            picked = at < len(given) and given[at] == vote
            cells.append((f"{'●' if picked else '○'} {word:<8}", "bold $primary" if picked else "$muted"))
        room = min(_NAME, max(width - 36, 10))
        style = "bold" if here else "" if at < len(given) else "$muted"
        rows.append(
            line(("▌ " if here else "  ", "$primary"), (f"{at + 1}  ", "$faint"), col(ask, room, style), " ", *cells).truncate(
                max(width, 0)
            )
        )
    return lines(*rows)


def sealed(session: Session, width: int) -> Content:
    """All votes are in, and the seal is not broken yet."""
    return lines(
        fold("That was the last vote.", width, style="bold"),
        fold(f"{plural(session.n, 'pair')} were judged. Once the sides are revealed, no vote can be changed.", width),
        Content(""),
        line("  ", key("enter", "open the seal", "screen.enter"), "   ", key("u", "take the last vote back", "screen.undo")),
    )


def verdict(result: Result, width: int) -> Content:
    """The answer to the question that counts."""
    word = next(tally.word for tally in result.tallies if tally.question == "send")
    mark, token = SIGNS.get(word, ("·", "$warning"))
    told, start = one_line(result.verdict), f"{word[:1].upper()}{word[1:]}."
    said = fold(told, width - 2, indent="    ", style="")
    if told.startswith(start):
        said = said.stylize(f"bold {token}", 4, 4 + len(start))
    return line((f"  {mark} ", f"bold {token}"), said[4:])


def votes(result: Result, asks: dict[str, str], width: int) -> Content:
    """Each question's votes: how often the second arm won, with its interval on an axis from 0 to 100."""
    room = width - _ASK - 3 * _COUNT - _SHARE - _P - 6
    name = min(_ASK, max(width - 3 * _COUNT - _SHARE - _P - 4, 8))
    heads = [col(one_line(arm), _COUNT, "$muted", right=True) for arm in (result.second, result.first, "same")]
    won = col(f"  {one_line(result.second)} won, % of the decided", room + _SHARE + 4, "$muted") if room >= 12 else Content("")
    rows = [line("  ", col("", name), *heads, won)]
    for tally in result.tallies:
        rows.append(_vote(tally, asks[tally.question], name, room))
    if room >= 12:
        rows.append(line(" " * (4 + name + 3 * _COUNT), axis(room)))
    return lines(*(row.truncate(max(width, 0)) for row in rows))


def _vote(tally: Tally, ask: str, name: int, room: int) -> Content:
    told = ask if len(ask) <= name else ask.removeprefix("Which ").rstrip("?")
    counts = [
        col(f"{count:,}", _COUNT, style, right=True)
        for count, style in ((tally.wins, "bold $primary"), (tally.losses, ""), (tally.ties, "$muted"))
    ]
    decided = tally.wins + tally.losses > 0
    picture: list[Part] = []
    if room >= 12:
        picture = ["  ", interval(tally.low, tally.share, tally.high, room, "$primary") if decided else " " * room]
    share = (
        line((f"{100 * tally.share:.0f}", "bold"), (f"  {100 * tally.low:.0f}–{100 * tally.high:.0f}", "$muted"))
        if decided
        else Content("–")
    )
    p = "p < 0.001" if tally.adjusted < 0.001 else f"p = {tally.adjusted:.3f}"
    return line("  ", col(f"{told[:1].upper()}{told[1:]}", name), *counts, *picture, "  ", col(share, _SHARE), (p, "$muted"))


def reader(result: Result, width: int) -> Content:
    """How far the reader can be trusted, and what was hidden until now."""
    told: list[tuple[str, str]] = []
    if result.repeated:
        kappa = f", κ {result.consistency.value:.2f}".replace("-", "−") if result.consistency else ""
        told.append(("planted repeats", f"{result.agreed} of {plural(result.repeated, 'vote')} the same again{kappa}"))
    told.append(("shown as A", f"won {result.left} of {plural(result.decided, 'decided vote')}"))
    if result.uneven:
        told.append(("the longer answer", f"won {result.longer} of {result.uneven}"))
    first, second = one_line(result.first), one_line(result.second)
    told.append(("median length", f"{first} {result.lengths[0]:,.0f} characters, {second} {result.lengths[1]:,.0f}"))
    return lines(*(line("  ", col(name, 20, "$muted"), value).truncate(max(width, 0)) for name, value in told))


def choice(title: str, first: str, second: str, known: Standing | None, width: int) -> Content:
    """Which two arms will be compared, and how far that has come."""
    one, two = one_line(first), one_line(second)
    rows = [
        fold(f"{one} or {two}? Read both answers to the same rows, without knowing whose they are.", width, style="bold"),
        fold(
            f"From the evaluation {title}. Three questions for each pair; sides are drawn by lot and sealed until the last vote.",
            width,
        ),
        Content(""),
    ]
    if known is None:
        rows.append(
            line("  ", key("enter", "begin", "screen.enter"), ("   it asks how many pairs, fixed before the first vote", "$muted"))
        )
    elif known.opened:
        rows.append(
            line("  ", key("enter", "see the result", "screen.enter"), (f"   {plural(known.pairs, 'pair')} were judged", "$muted"))
        )
    else:
        rows.append(
            line(
                "  ", key("enter", "go on", "screen.enter"), (f"   {known.votes:,} of {plural(known.due, 'vote')} are in", "$muted")
            )
        )
        rows.append(line("         ", bar(known.votes / max(1, known.due), min(width - 12, 40))))
    return lines(*rows)


def nothing(name: str, alone: bool, width: int) -> Content:
    """The room before there are two arms to compare."""
    why = "The newest evaluation has one arm." if alone else "Nothing has been evaluated yet."
    return lines(
        fold(why, width, style="bold"),
        fold("Here you read two arms' answers side by side, without knowing whose they are, and say which you would send.", width),
        fold("The result opens after the last pair: a sign test with an interval, and how consistent you were yourself.", width),
        Content(""),
        line("  ", key("E", "evaluate an adapter first", "app.room('evaluate')"))
        if name
        else line("  ", key("H", "go home: a sample workspace is one key away", "app.room('home')")),
    )
