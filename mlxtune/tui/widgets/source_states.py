"""What the Data and Review rooms say of a source as a whole: where one is in it, that it is opened, broken, empty or none at all."""

from __future__ import annotations

from pathlib import Path

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.tui.draw import fold, key, line, lines
from mlxtune.tui.names import seen_from
from mlxtune.tui.widgets.data_pictures import key_line
from mlxtune.tui.work import Work


def count_note(work: Work, cursor: int) -> str:
    """Where the cursor is, how many rows are shown, and how many are undecided."""
    browse, shown = work.source, work.shown
    undecided = len(browse) - browse.bad - browse.settled
    parts = [f"{min(cursor + 1, len(shown.rows)):,} of {len(shown.rows):,}"]
    if shown.looked is not None and shown.looked < len(browse):
        parts.append(f"{shown.looked / len(browse):.0%} looked at")
    elif len(shown.rows) != len(browse):
        parts.append(f"{len(browse):,} in all")
    parts.append(f"{undecided:,} undecided" if browse.known == len(browse) else f"{browse.known / len(browse):.0%} read")
    return ", ".join(parts)


def not_divided(why: str) -> str:
    """Why there is no split, without the list of rows that are to blame."""
    return f"Not divided: {why.removeprefix('the rows cannot be divided: ').partition(':')[0].rstrip('.')}."


def trouble_line(work: Work, width: int) -> Content:
    """What is wrong with the filter, that it shows nothing, or why the rows were not checked."""
    if work.shown.trouble:
        return line(("  ✗ ", "bold $error"), fold(work.shown.trouble, width - 2, "    ", "")[4:])
    if len(work.shown.rows) and work.checking.error is not None:
        return sorry_picture(work.checking.error, width)
    if work.shown.looked is not None:
        return line(("  ○ looking", "$muted"))
    return line(("  No row is like that.  ", "$muted"), key("esc", "leave", "screen.leave"))


def sorry_picture(error: MlxtuneError, width: int) -> Content:
    """What went wrong, what is safe, what to do."""
    said = fold(one_line(error.message), width - 2, "    ", "bold $error")
    rows = [line(("  ✗ ", "bold $error"), said[4:])]
    if error.mend:
        rows.append(fold(one_line(error.mend), width, "    "))
    return lines(*rows)


def broken(work: Work, workspace: Path, width: int) -> Content:
    """The room while the source is opened, and where it cannot be read or is empty."""
    if work.error is not None:
        told = MlxtuneError(seen_from(workspace, one_line(work.error.message)), mend=work.error.mend)
        rows = [sorry_picture(told, width), fold("Decisions that were taken on its rows are kept beside it.", width, "    ")]
    elif work.browse is None:
        return fold(f"reading {work.where.name}", width)
    else:
        rows = [
            fold(f"{work.where.name} has no rows.", width, style="bold"),
            fold("It needs one JSON object per line. The room fills as soon as it has some.", width),
        ]
    return lines(*rows, "", line("  ", key("i", "import rows", "screen.bring"), "   ", key("c", "another recipe", "screen.recipe")))


def invite(error: str, recipes: bool, width: int) -> Content:
    """The room before there is a source: what would be here, one key."""
    if error:
        rows = [line(("  ✗ ", "bold $error"), fold(error, width - 2, "    ", "")[4:])]
    else:
        rows = [fold("No rows are chosen yet.", width, style="bold")]
    rows.append(fold("Here the rows of a recipe are listed, checked and decided upon. The file itself is never written.", width))
    keys = [("i", "import rows", "screen.bring")]
    keys += [("c", "choose a recipe", "screen.recipe")] if recipes else [("H", "the sample workspace", "app.room('home')")]
    return lines(*rows, "", key_line(*keys))
