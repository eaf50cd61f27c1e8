"""``blind``: read two arms' answers without knowing whose they are, and export the votes as preference pairs."""

from __future__ import annotations

import os
import sys
import termios
import tty
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlxtune.cli.screen import Cell, columns, err, heading, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.text import one_line, plural
from mlxtune.data.rows import Message
from mlxtune.evaluation.answered import pairs
from mlxtune.evaluation.ballot import HEADLINE, QUESTIONS, Result
from mlxtune.evaluation.blind import Session, Showing, Vote
from mlxtune.evaluation.power import detectable_preference
from mlxtune.evaluation.voted import export
from mlxtune.runs import registry

KEYS = "a  b  t tie   u take back   q stop"
_VOTES: dict[str, Vote] = {"a": "a", "b": "b", "t": "tie"}


def blind(
    which: Annotated[str, typer.Argument(help="An evaluation: its folder, id, or last.", metavar="EVALUATION")] = "last",
    first: Annotated[str, typer.Argument(help="One arm.")] = "base",
    second: Annotated[str, typer.Argument(help="The other; the verdict is about it.")] = "tuned",
    n: Annotated[int | None, typer.Option("--n", min=1, help="Pairs to judge, fixed before the first vote. Default: 40.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Draws rows and sides; drawn by lot when left out.")] = None,
    target: Annotated[Path | None, typer.Option("--export", help="Write the votes as preference pairs (JSON lines).")] = None,
    question: Annotated[Literal["format", "voice", "send"], typer.Option("--question", help="Whose votes to export.")] = HEADLINE,  # type: ignore[assignment]
    json: Json = False,
) -> None:
    """Judge answers side by side, unnamed. Keys a, b, t (tie), u (take back), q (stop); the votes may be piped in.

    Sides and lengths are revealed after the last vote. A session that was stopped goes on where it was.
    """
    run = registry.find(Path.cwd(), which, "eval")
    with Session(run.folder, first, second, pairs(run.folder, first, second), n or 0, seed) as session:
        if not session.opened:
            _ask(session)
        result = session.reveal()
        if json:
            show_json({"folder": str(session.folder), **asdict(result)})
        else:
            table(result)
        if target:
            _export(session, target, question)


def _ask(session: Session) -> None:
    """Take votes until the last one is in and the reader lets the seal be opened; exit 3 when stopped before."""
    least = detectable_preference(session.n)
    shows = f"shows a preference of {100 * least:.0f} % or more" if least else "too few to show a preference"
    repeats = session.due // len(QUESTIONS) - session.n
    say(("  ", ""), f"{plural(session.n, 'pair')}, fixed: {shows}.", (f"   {plural(repeats, 'pair')} will come twice.", "muted"))
    shown, keys = -1, _keys()
    while True:
        now = session.now()
        if now is not None and now.at != shown:
            shown = now.at
            _draw(now)
        if now is None:
            say("")
            say(("  ", ""), "That was the last vote.   ", ("o opens the seal   u takes it back   q stop", "muted"))
        else:
            say(("  ? ", "bold primary"), (QUESTIONS[now.question], "bold"), "   ", (KEYS, "muted"))
        key = next(keys, "o" if now is None else "q")  # what was piped in is at its end
        if key == "u":
            if not session.undo():
                say(("  ! ", "warning"), "There is no vote to take back.")
        elif key == "q":
            say(("■ ", "muted"), f"{session.votes} of {session.due} votes are in.   ", _again(session))
            raise typer.Exit(3)
        elif now is None and key == "o":
            return
        elif now is not None and key in _VOTES:
            session.vote(_VOTES[key])
        else:
            say(("  ! ", "warning"), f"{one_line(key, 8)} is no key here.")


def _again(session: Session) -> Cell:
    return (f"mlxtune blind {session.evaluation.name} {session.first} {session.second}", "primary")


def _draw(now: Showing) -> None:
    """One pair a screen."""
    err.clear()
    say("")
    heading(err, f"Pair {now.at + 1} of {now.of}")
    for message in now.prompt:
        _message(message)
    for name, answer in (("A", now.a), ("B", now.b)):
        say("")
        say(("▌ ", "primary"), (name, "bold primary"))
        say(answer if answer.strip() else ("(empty)", "faint"))
    say("")


def _message(message: Message) -> None:
    glyph = {"user": "○", "assistant": "●", "tool": "▷"}.get(message.role, "◇")
    text = message.content if message.role == "user" else one_line(message.content, 300)
    say((f"{glyph} {message.role}  ", "muted"), text if message.role == "user" else (text, "muted"))


def _keys() -> Iterator[str]:
    """Single keys from a terminal, or every sign but white space from a pipe."""
    if not sys.stdin.isatty():
        yield from (sign for line in sys.stdin for sign in line if not sign.isspace())
        return
    handle = sys.stdin.fileno()
    before = termios.tcgetattr(handle)
    while True:
        try:
            tty.setcbreak(handle)  # drops what was typed ahead: a key that bounced is no vote
            typed = os.read(handle, 32).decode("utf-8", "replace")  # an arrow is several bytes, and no key here
        finally:
            termios.tcsetattr(handle, termios.TCSADRAIN, before)
        if typed in ("", "\x04"):
            return
        yield typed.lower()


def table(result: Result) -> None:
    """What the session found: the verdict, the votes of each question, and how far the reader can be trusted."""
    headline = next(tally for tally in result.tallies if tally.question == HEADLINE)
    mark: Cell = {"better": ("✓ ", "bold success"), "worse": ("✗ ", "bold error")}.get(headline.word, ("· ", "muted"))
    heading(out, "Verdict", f"{plural(result.pairs, 'pair')}, read blind")
    show("  ", mark, (result.verdict, "bold"))
    show("")
    heading(out, "Votes", "sign test, Wilson interval of the decided votes; side questions after Holm")
    head: list[Cell] = [(name, "faint") for name in ("", result.second, result.first, "ties", "share", "p", "")]
    body: list[list[Cell]] = []
    for tally in result.tallies:
        share = f"{100 * tally.share:.0f} % ({100 * tally.low:.0f} to {100 * tally.high:.0f})" if tally.wins + tally.losses else "–"
        p = "<0.001" if tally.adjusted < 0.001 else f"{tally.adjusted:.3f}"
        won: Cell = (str(tally.wins), "bold primary")
        body.append([QUESTIONS[tally.question], won, str(tally.losses), str(tally.ties), share, p, (tally.word, "bold")])
    columns([head, *body], right=(1, 2, 3, 4, 5))
    show("")
    heading(out, "The reader")
    facts = []
    if result.repeated:
        kappa = f", κ {result.consistency.value:.2f}" if result.consistency else ""
        facts.append(("planted repeats", f"{result.agreed} of {result.repeated} votes the same again{kappa}"))
    facts.append(("shown first", f"won {result.left} of {result.decided} decided votes"))
    if result.uneven:
        facts.append(("the longer answer", f"won {result.longer} of {result.uneven}"))
    facts.append(("median length", f"{result.first} {result.lengths[0]:,.0f} characters, {result.second} {result.lengths[1]:,.0f}"))
    columns([[(name, "muted"), fact] for name, fact in facts])


def _export(session: Session, path: Path, question: str) -> None:
    count = export(session, path, question)
    say(("✓ ", "bold success"), f"{plural(count, 'preference pair')} in {path}.")
    say(("  ! ", "bold warning"), "They are held-out rows: what trains on them cannot be tested on them. The ledger keeps note.")
