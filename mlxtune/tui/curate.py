"""What the Data room asks before it decides on many rows, mends a finding or imports a file, and what it then asks of the core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.core.text import one_line, plural
from mlxtune.data.decisions import tags
from mlxtune.data.filters import gist
from mlxtune.data.review import Action
from mlxtune.data.rows import Row
from mlxtune.tui.screens.ask import Ask
from mlxtune.tui.screens.choice import Choice, Choose
from mlxtune.tui.widgets.frame import Answer, Verb
from mlxtune.tui.work import Work
from mlxtune.tui.workbench import Workbench, told

if TYPE_CHECKING:
    from mlxtune.data.browse import Browse
    from mlxtune.tui.screens.room import Room

SHOWN = 4  # rows of a preview
_STATUS = {"accept": "accepted", "reject": "rejected", "skip": "skipped"}


def toggled(browse: Browse, at: int, tag: str) -> dict[str, list[str]]:
    """What the review is told to put ``tag`` on row ``at``, or to take it off where it has it; it says itself where there is no row."""
    row = browse.seen(at).now_or_error
    return {"remove": [tag]} if not isinstance(row, DataError) and tag in tags(row) else {"add": [tag]}


def turned_back(work: Work, which: str) -> Answer:
    """Undo or redo, and what came of it; the cursor goes to the row that it was about. Raises what the review raises."""
    step = work.undo() if which == "undo" else work.redo()
    if step is None:
        return Answer("·", "$muted", f"There is nothing to {which}.")
    rows = work.source.rows_of([step.changes[0][1].row]) if len(step.changes) == 1 else []
    if len(rows) == 1:
        work.at = rows[0]
    which_rows = f"Row {rows[0] + 1:,}" if len(rows) == 1 else plural(len(step.changes), "row")
    if which == "redo":
        return told(step, rows)
    return Answer("↶", "$muted", f"{which_rows}: {step.action} taken back.", undo=Verb("U", "redo", "redo", "let it hold again"))


def ask_for_all(room: Room, work: Work) -> None:
    """Ask what to decide about all rows that the filter shows, with what each decision would change."""
    browse = work.source
    rows = [int(at) for at in work.shown.rows if browse.usable(int(at))]
    which = "that the filter shows" if work.shown.filter.strip() else "of the source"
    choices = [Choice("", "Nothing", "leave them as they are")]
    for action, status in _STATUS.items():
        count = sum(browse.decision(at).status != status for at in rows)
        if count:
            choices.append(Choice(action, action.capitalize(), f"{plural(count, 'row')} would change"))
    choices += [Choice("tag", "Tag", "with a word that you write"), Choice("untag", "Untag", "take a tag off")]

    def chosen(action: str | None) -> None:
        if action in ("tag", "untag"):
            more = "add" if action == "tag" else "remove"
            title = f"{'Tag' if action == 'tag' else 'Untag'} {plural(len(rows), 'row')}"
            room.app.push_screen(Ask(title, "", word=action), lambda tag: _tag(room, work, rows, more, tag))
        elif action:
            decide_all(room, work, action, rows)  # type: ignore[arg-type]

    room.app.push_screen(Choose(f"All {plural(len(rows), 'row')} {which}", preview(browse, rows), choices), chosen)


def decide_all(room: Room, work: Work, action: Action, rows: Sequence[int], **more: Any) -> None:
    """Take one decision on ``rows`` in a thread."""

    def job() -> Answer:
        return told(work.decide(action, rows, **more), list(rows))

    room.desk.do(f"{plural(len(rows), 'row')}: {action}.", job)


def _tag(room: Room, work: Work, rows: Sequence[int], more: str, tag: str | None) -> None:
    if tag:
        decide_all(room, work, "tag", rows, **{more: [tag]})


def preview(browse: Browse, rows: Sequence[int]) -> str:
    """The first of ``rows``, a line each."""
    shown = []
    for at in rows[:SHOWN]:
        row = browse.seen(at).now_or_error
        shown.append(f"{at + 1:,}  {one_line(gist(row) if not isinstance(row, DataError) else row.message, 48)}")
    if len(rows) > SHOWN:
        shown.append(f"and {len(rows) - SHOWN:,} more")
    return "\n".join(shown)


def ask_to_fix(room: Room, work: Work, check: str) -> None:
    """Show what would mend a finding, and ask; the review then holds it, so that it can be undone, and the source is not written."""
    from mlxtune.data.checks.finding import CHECKS

    browse = work.source
    assert browse.standing is not None
    rows = list(browse.standing.rows[check])
    known = CHECKS[check]
    good = [at for at in rows if browse.usable(at)]
    choices = [Choice("", "Leave them", "nothing changes"), Choice("look", "Show them", "filter to these rows")]
    if good:
        name = "Leave out" if known.fix.how == "drop" else known.fix.does.capitalize()
        choices.append(Choice("review", f"{name}, {plural(len(good), 'row')}", "in the review; u takes it back"))
    if len(good) < len(rows):
        copy = mended_copy(work.where.path)
        choices.append(Choice("copy", f"Write {one_line(copy.name, 30)}", "every safe fix in a new file"))
    changed = [line for at in good[:SHOWN] if (line := _change(browse, at, check))]
    text = "\n".join(changed) if known.fix.how == "put" and changed else preview(browse, rows)

    def chosen(way: str | None) -> None:
        if way == "look":
            room.call_later(room.run_action, f"only('{check}')")
        elif way == "copy":
            room.desk.do("Writing a mended copy.", lambda: _copy(work))
        elif way == "review" and known.fix.how == "drop":
            decide_all(room, work, "reject", good, reason=f"data check: {check}")
        elif way == "review":
            room.desk.do(f"Mending {plural(len(good), 'row')}.", lambda: _mend(work, check, good))

    room.app.push_screen(Choose(f"{plural(len(rows), 'row')}: {known.title}", text, choices), chosen)


def _change(browse: Browse, at: int, check: str) -> str:
    """What a fix would put where, in one line."""
    spans = [span for one in browse.findings(at) if one.check == check for span in one.spans if span.put is not None]
    return f"{at + 1:,}  {one_line(spans[0].text, 34)} → {one_line(spans[0].put or 'nothing', 14)}" if spans else ""


def _mend(work: Work, check: str, rows: Sequence[int]) -> Answer:
    """Edit ``rows`` as the check's fix says, in one decision."""
    from mlxtune.data.checks.fixes import mended

    browse = work.source
    records: dict[str, Any] = {}
    able = []
    for at in rows:
        row: Row = browse.seen(at).now
        made = mended(row, [one for one in browse.findings(at) if one.check == check])
        if made is not None and made.hash != row.hash:
            able.append(at)
            records[browse.keyed(at)[0]] = made.content
    answer = told(work.decide("edit", able, records=records, reason=f"data check: {check}"), able)
    left = len(rows) - len(able)
    return replace(answer, mend=f"{plural(left, 'row')} must be mended by hand: e in Review.") if left else answer


def mended_copy(source: Path) -> Path:
    """Where ``data check --fix`` writes."""
    return source.with_name(f"{source.name}.fixed" if source.is_dir() else f"{source.stem}.fixed.jsonl")


def _copy(work: Work) -> Answer:
    """Write the rows with every safe fix as a new file."""
    from mlxtune.data.checks.fixes import fix

    browse = work.source
    assert browse.checked is not None
    made = fix(browse.records, browse.checked.findings, mended_copy(work.where.path))
    left = sum(not change.after for change in made.changes)
    text = f"{one_line(made.out.name, 40)} has {plural(made.rows, 'row')}, {left:,} left out."
    return Answer("✓", "$success", text, "Set data.source of a recipe to it.")


def ask_to_import(room: Room, bench: Workbench) -> None:
    """Ask for a file, write its rows as one of this workspace, and show them."""
    text = "A file or a folder, or a data set of the hub such as owner/name. Its rows are written to data/ in this workspace."

    def named(what: str | None) -> None:
        if what:
            bring(room, bench, what)

    room.app.push_screen(Ask("Import rows", text, word="import"), named)


def bring(room: Room, bench: Workbench, what: str, skip_bad: bool = False) -> None:
    """Import ``what``; where some rows cannot be used, ask whether to leave them out."""
    from mlxtune.data.take import BadRows, Taken, find, take

    workspace = room.desk.workspace

    def job() -> Taken:
        path = find(what)
        return take(path, free_name(workspace / "data", path), skip_bad=skip_bad)

    def done(made: Taken) -> None:
        bench.open_file(made.out)
        left = f", {plural(len(made.bad), 'bad row')} left out" if made.bad else ""
        name = one_line(made.out.name, 40)
        room.desk.reply(
            Answer(
                "✓",
                "$success",
                f"data/{name} has {plural(made.rows, 'row')}{left}.",
                "Set data.source of a recipe to it to train on it.",
            )
        )

    def failed(error: MlxtuneError) -> None:
        if not isinstance(error, BadRows):
            room.desk.reply(Answer("✗", "$error", one_line(error.message), one_line(error.mend)))
            return
        room.desk.reply(None)
        choices = [Choice("", "Import nothing", "mend the file first"), Choice("skip", "Leave them out", "import the others")]
        title = f"{plural(error.count, 'row')} cannot be used"
        message = "\n".join(one_line(row, 110) for row in error.message.splitlines()[1:])
        room.app.push_screen(Choose(title, message, choices), lambda way: bring(room, bench, what, True) if way else None)

    room.desk.reply(Answer("●", "$primary", f"Importing {one_line(what, 60)}."))
    room.fetch(job, done, failed)


def free_name(folder: Path, path: Path) -> Path:
    """A file in ``folder`` for the rows of ``path`` that is not there yet."""
    stem = path.stem if path.is_file() else path.name
    names = [f"{stem}.jsonl", *(f"{stem}-{number}.jsonl" for number in range(2, 1000))]
    return next(folder / name for name in names if not (folder / name).exists())
