"""``blind``: vote on two arms' answers without knowing which is which, and export the votes as preference pairs."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from mlxtune.cli.options import EvaluationName, FirstArm, Json, SecondArm, option
from mlxtune.cli.output import err, info, show_result
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.blind.blind_session import BlindSession, PresentedPair, Vote, export_votes
from mlxtune.evaluation.blind.votes import HEADLINE_QUESTION, QUESTIONS
from mlxtune.evaluation.evidence import load_pairs
from mlxtune.evaluation.statistics.significance import detectable_preference
from mlxtune.present.comparison import blind_document
from mlxtune.present.terminal import print_heading
from mlxtune.runs import registry

KEYS = "a  b  t tie   u undo   q stop"
_VOTES: dict[str, Vote] = {"a": "a", "b": "b", "t": "tie", "d": "b", "s": "tie"}  # the app shows a, s, and d


def blind(
    which: EvaluationName = "last",
    first: FirstArm = "base",
    second: SecondArm = "tuned",
    n: Annotated[int | None, option("--n", "Number of pairs, fixed before the first vote. Default: 40.", min=1)] = None,
    seed: Annotated[int | None, option("--seed", "Random seed of the rows and sides.")] = None,
    target: Annotated[Path | None, option("--export", "Write the votes as preference pairs.")] = None,
    question: Annotated[
        Literal["format", "voice", "send"], option("--question", "The question whose votes are exported.")
    ] = HEADLINE_QUESTION,  # type: ignore[assignment]
    json: Json = False,
) -> None:
    """Vote on anonymous answers shown side by side. Keys: a, b, t (tie), u (undo), q (stop). Votes can be piped in.

    Which arm wrote each answer, and the answers' lengths, are shown after the last vote. A stopped session resumes where it left off.
    """
    run = registry.find_run(Path.cwd(), which, "eval")
    with BlindSession(run.folder, first, second, load_pairs(run.folder, first, second), n or 0, seed) as session:
        if not session.opened:
            _ask(session)
        result = session.reveal()
        show_result({"folder": str(session.folder), **to_json(result)}, blind_document(result), json=json)
        if target:
            info(("✓ ", "bold success"), f"{plural(export_votes(session, target, question), 'preference pair')} in {target}.")
            info(("  ! ", "bold warning"), "These are held-out rows: do not evaluate a model that was trained on them.")


def _ask(session: BlindSession) -> None:
    """Collect votes until the rater reveals the sides. Exit with 3 if the rater stops before that."""
    least = detectable_preference(session.n)
    power = f"80% power to detect a preference of {100 * least:.0f}%" if least else "too few pairs to detect a preference"
    repeats = session.votes_needed // len(QUESTIONS) - session.n
    info(("  ", ""), f"{plural(session.n, 'pair')}: {power}.", (f"   {plural(repeats, 'pair')} will be shown twice.", "muted"))
    shown, keys = -1, _keys()
    while True:
        now = session.current
        if now is not None and now.index != shown:
            shown = now.index
            _draw(now)
        if now is None:
            info("")
            info(("  ", ""), "That was the last vote.   ", ("o reveal   u undo   q stop", "muted"))
        else:
            info(("  ? ", "bold primary"), (QUESTIONS[now.question], "bold"), "   ", (KEYS, "muted"))
        key = next(keys, "o" if now is None else "q")  # the defaults apply at the end of piped input
        if key == "u":
            if not session.undo():
                info(("  ! ", "warning"), "There is no vote to undo.")
        elif key == "q":
            again = f"mlxtune blind {session.evaluation.name} {session.first} {session.second}"
            info(("■ ", "muted"), f"{session.votes} of {session.votes_needed} votes have been cast.   ", (again, "primary"))
            raise typer.Exit(3)
        elif now is None and key == "o":
            return
        elif now is not None and key in _VOTES:
            session.vote(_VOTES[key])
        else:
            info(("  ! ", "warning"), f"{one_line(key, 8)} is not a valid key here.")


def _draw(now: PresentedPair) -> None:
    err.clear()
    info("")
    print_heading(err, f"Pair {now.index + 1} of {now.total}")
    for message in now.prompt:
        glyph = {"user": "○", "assistant": "●", "tool": "▷"}.get(message.role, "◇")
        is_user = message.role == "user"
        info((f"{glyph} {message.role}  ", "muted"), message.content if is_user else (one_line(message.content, 300), "muted"))
    for name, answer in (("A", now.a), ("B", now.b)):
        info("")
        info(("▌ ", "primary"), (name, "bold primary"))
        info(answer if answer.strip() else ("(empty)", "faint"))
    info("")


def _keys() -> Iterator[str]:
    """Yield single keys from a terminal, or every non-whitespace character from a pipe."""
    if not sys.stdin.isatty():
        yield from (char for line in sys.stdin for char in line if not char.isspace())
        return
    while True:
        try:
            yield typer.getchar().lower()  # drops pending input, so a bouncing key does not cast a vote; an arrow key matches no key
        except EOFError:
            return
