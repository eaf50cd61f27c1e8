"""Draw the Blind room: progress, the prompt, two anonymous answers, the questions, and the result."""

from collections.abc import Sequence

from textual.content import Content

from mlxtune.core.text import one_line, plural, safe_text
from mlxtune.evaluation.blind.blind_session import BlindSession, PresentedPair, Vote
from mlxtune.evaluation.blind.votes import QUESTIONS
from mlxtune.tui.render.bars import bar
from mlxtune.tui.render.output_text import output_rows
from mlxtune.tui.render.text import RECIPE_KEY, cell, invitation, key, line, lines, paragraph, wrap
from mlxtune.tui.rooms.blind.service import ArmPair

QUESTION = 44  # cells of a question


def empty_state(has_recipes: bool, one_arm: bool, width: int) -> Content:
    """Draw the room before there are two arms to compare."""
    evaluate = key("E", "evaluate an adapter first", "app.room('evaluate')")
    title = "The newest evaluation has only one arm." if one_arm else "No evaluations yet."
    return invitation(width, title, evaluate if has_recipes else RECIPE_KEY)


def session_state(arms: ArmPair, width: int) -> Content:
    """Draw which two arms will be compared, and the session's progress."""
    first, second, status = one_line(arms.first), one_line(arms.second), arms.status
    rows = [
        paragraph(f"{first} or {second}? You vote without knowing which is which.", width, style="bold"),
        paragraph(f"evaluation {one_line(arms.folder.name)}, {len(QUESTIONS)} questions per pair", width),
        Content(""),
    ]
    if status is None:
        word, note = "begin", "asks for the number of pairs"
    elif status.opened:
        word, note = "see the result", f"{plural(status.pairs, 'pair')} judged"
    else:
        word, note = "continue", f"{status.votes:,} of {plural(status.votes_needed, 'vote')} cast"
    rows.append(line("  ", key("enter", word, "screen.enter"), (f"   {note}", "$muted")))
    if status and not status.opened:
        rows.append(line("         ", bar(status.votes / max(1, status.votes_needed), min(width - 12, 40))))
    return lines(*rows)


def progress(session: BlindSession, pair: PresentedPair, width: int) -> Content:
    """Draw the pair's number and a progress bar."""
    left = line((f"  Pair {pair.index + 1:,}", "bold"), (f" of {pair.total:,}  ", "$muted"))
    right = line((f"  result after pair {pair.total:,}", "$muted")) if width >= 70 else Content("")
    filled = bar(session.votes / max(1, session.votes_needed), width - left.cell_length - right.cell_length)
    return line(left, filled, right).truncate(max(width, 0))


def prompt(pair: PresentedPair, width: int, max_rows: int) -> Content:
    """Draw the last user turn in at most ``max_rows`` rows."""
    text = next((message.content for message in reversed(pair.prompt) if message.role == "user"), "")
    shown = safe_text(text).strip().expandtabs(4) if max_rows > 2 else one_line(text)
    rows = wrap(shown or "(empty)", width - 4)
    if len(rows) <= max_rows:
        return lines(*(f"  {row}" for row in rows))
    more = line("… ", key("p", "more", "screen.prompt", "$muted")).stylize_before("$muted")
    last = cell(rows[max_rows - 1], width - 4 - more.cell_length - 1)
    return lines(*(f"  {row}" for row in rows[: max_rows - 1]), line("  ", last, " ", more))


def answer(text: str, first: int, width: int, height: int) -> Content:
    """Draw an answer, starting at its row ``first``."""
    rows = answer_lines(text, width)
    start = max(0, min(first, len(rows) - height))
    return lines(*rows[start:][: height or None])


def answer_lines(text: str, width: int) -> list[Content]:
    """Return an answer's rows, which do not depend on the arm."""
    return output_rows(text, None, width) if text.strip() else [Content.styled("(empty)", "$faint")]


def questions(given: Sequence[Vote], width: int) -> Content:
    """Draw the three questions with the votes cast so far."""
    rows = []
    for index, question in enumerate(QUESTIONS.values()):
        current, vote = index == len(given), given[index] if index < len(given) else None
        cells = [
            (f"{'●' if vote == value else '○'} {word:<8}", "bold $primary" if vote == value else "$muted")
            for value, word in (("a", "A"), ("tie", "same"), ("b", "B"))
        ]
        style = "bold" if current else "" if vote else "$muted"
        text = cell(question, min(QUESTION, max(width - 36, 10)), style)
        cursor = ("▌ " if current else "  ", "$primary")
        rows.append(line(cursor, (f"{index + 1}  ", "$faint"), text, " ", *cells).truncate(max(width, 0)))
    return lines(*rows)


def last_vote(session: BlindSession, width: int) -> Content:
    """Draw the state after the last vote, before the arms are revealed."""
    reveal, undo = key("enter", "reveal the arms", "screen.enter"), key("u", "undo the last vote", "screen.undo")
    about = f"{plural(session.n, 'pair')} judged; revealing the arms fixes the votes"
    return invitation(width, "That was the last vote.", reveal, undo, about=about)
