"""``data review``: see what was decided about the rows of a source, and decide, without the app."""

from __future__ import annotations

import json as jsons
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.cli.curate import Format, Map, Where, asked
from mlxtune.cli.data import examine
from mlxtune.cli.screen import Cell, bar, columns, heading, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import DataError, GateError, InputError
from mlxtune.core.text import one_line, plural
from mlxtune.data import filters
from mlxtune.data import review as reviews
from mlxtune.data.decisions import STATUSES, Keyed, State, Step, keyed, tags
from mlxtune.data.filters import Subject, gist
from mlxtune.data.review import Action, Review
from mlxtune.data.rows import Place
from mlxtune.data.source import files
from mlxtune.recipe import DataSection

MARKS: dict[str, Cell] = {
    "pending": ("·", "faint"),
    "accepted": ("✓", "bold success"),
    "rejected": ("✗", "bold error"),
    "skipped": ("○", "muted"),
    "tied": ("=", "muted"),
    "bad": ("✗", "bold error"),
}
DONE: dict[str, str] = {
    "accept": "accepted", "reject": "rejected", "skip": "skipped", "tie": "tied", "bad": "called bad on both sides", "swap": "swapped",
    "edit": "edited", "tag": "tagged", "note": "noted",
}  # fmt: skip
SHOWN = 5

Rows = Annotated[list[str] | None, typer.Argument(metavar="ROW", help="Rows to decide on, by id or line.", show_default=False)]


@dataclass(frozen=True)
class Read:
    """A source as a review sees it: its rows as the file has them, and how many cannot be used."""

    path: Path
    rows: tuple[Keyed, ...]
    bad: int


def review(
    where: Where,
    rows: Rows = None,
    accept: Annotated[bool, typer.Option("--accept", help="These rows are right.")] = False,
    reject: Annotated[bool, typer.Option("--reject", help="They never train.")] = False,
    skip: Annotated[bool, typer.Option("--skip", help="Later.")] = False,
    swap: Annotated[bool, typer.Option("--swap", help="Pairs: the rejected answer is the better one.")] = False,
    tie: Annotated[bool, typer.Option("--tie", help="Pairs: neither answer is better.")] = False,
    bad: Annotated[bool, typer.Option("--both-bad", help="Pairs: both answers are bad.")] = False,
    edit: Annotated[
        str, typer.Option("--edit", metavar="FILE", help="The row's new content, JSON; - reads it.", show_default=False)
    ] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Add a tag.", show_default=False)] = None,
    untag: Annotated[list[str] | None, typer.Option("--untag", help="Take a tag off.", show_default=False)] = None,
    note: Annotated[str | None, typer.Option("--note", help="A note on the row.", show_default=False)] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the journal.", show_default=False)] = "",
    filter: Annotated[
        str,
        typer.Option(
            "--filter", help="status:pending tag:billing finding:near-duplicate len>400 /regex/ text -tag:x", show_default=False
        ),
    ] = "",
    all: Annotated[bool, typer.Option("--all", help="Decide on all rows that the filter shows.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take the newest decision back.")] = False,
    redo: Annotated[bool, typer.Option("--redo", help="Let it hold again.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the rows that the filter shows.")] = False,
    format: Format = "auto",
    map: Map = "",
    json: Json = False,
) -> None:
    """Say what is decided and what is not, or decide: one decision at a time, kept in a journal beside the source."""
    flags: list[tuple[Action, bool]] = [
        ("accept", accept), ("reject", reject), ("skip", skip), ("swap", swap), ("tie", tie), ("bad", bad), ("edit", bool(edit)),
        ("tag", bool(tag or untag)), ("note", note is not None),
    ]  # fmt: skip
    actions = [action for action, given in flags if given]
    if len(actions) + undo + redo > 1:
        raise InputError("One decision at a time.", mend="Call it once for each.")
    path, data = asked(where, format, map)
    if undo or redo:
        with Review(path) as window:
            step = window.undo() if undo else window.redo()
            _answer(path, step, "undone" if undo else "done again", window.state, json)
        return
    read = _read(path, data.format, data.map)
    if not actions:
        if rows or all:
            raise InputError("It is not said what to decide.", mend="--accept, --reject, --skip, --tag, … or --list")
        state = reviews.load(path)
        _report(read, state, _shown(read, state, filter, _findings(where, path, data, filter)), json, full=list_ or bool(filter))
        return
    more: dict[str, Any] = {}
    if edit:
        more["record"] = _record(edit)
    if tag or untag:
        more |= {"add": tag or [], "remove": untag or []}
    if note is not None:
        more["note"] = note
    findings = _findings(where, path, data, filter) if all else {}
    with Review(path) as window:
        if all:
            chosen = [(subject.key, subject.row) for subject in _shown(read, window.state, filter, findings)]
            _preview(actions[0], reviews.changes(actions[0], chosen, window.state, **more), read, yes, json)
        else:
            chosen = [_find(read, window.state, word) for word in rows or ()]
        if not chosen:
            raise InputError("No row is named.", mend="Name rows by id or line, or take --all that --filter shows.")
        if edit and len(chosen) > 1:
            raise InputError("One row is edited at a time.")
        step = window.decide(actions[0], chosen, reason=reason, **more)
        _answer(path, step, DONE[actions[0]], window.state, json)


def _read(path: Path, format: str, mapping: Mapping[str, str]) -> Read:
    from mlxtune.data.store import open_store  # it loads numpy, which --help need not wait for

    rows: list[Keyed] = []
    read = 0
    with bar("reading"):
        for file in files(path).values():
            with open_store(file, format, mapping) as store:
                rows += keyed(record for record in store if not isinstance(record, DataError))
                read += len(store)
    return Read(path, tuple(rows), read - len(rows))


def _findings(where: Path, path: Path, data: DataSection, filter: str) -> Mapping[Place, frozenset[str]]:
    """What checks find about each row of the file, where the filter asks for it; of a row and its twin, about the one to mend."""
    found: defaultdict[Place, set[str]] = defaultdict(set)
    if "finding:" in filter:
        report = examine(where, path, data)
        for finding in report.findings:
            for at in finding.rows[:1]:
                found[report.places[at][0]].add(finding.check)
    return {place: frozenset(names) for place, names in found.items()}


def _shown(read: Read, state: State, filter: str, findings: Mapping[Place, frozenset[str]]) -> list[Subject]:
    """The rows that ``filter`` lets through."""
    holds = filters.parse(filter)
    subjects = (Subject.of((key, row), state, findings.get(row.place, frozenset())) for key, row in read.rows)
    return [subject for subject in subjects if holds(subject)]


def _find(read: Read, state: State, word: str) -> Keyed:
    """The row that ``word`` names: by the beginning of its id, as it was or as it is now, or by its line. Up to five digits are a line."""
    by_line = [(key, row) for key, row in read.rows if word.isdigit() and row.place.line == int(word)]
    by_id = [(key, row) for key, row in read.rows if any(hash.startswith(word.lower()) for hash in (key, state.of(key).after))]
    found = by_line if len(word) < 6 and word.isdigit() else by_id if len(word) > 3 else []
    found = found or by_line
    if len(found) != 1:
        several = "several rows go" if found else "no row goes"
        raise InputError(f"In {read.path.name} {several} by {one_line(word, 70)}.", mend="--list shows ids and lines.")
    return found[0]


def _record(file: str) -> Any:
    try:
        return jsons.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read as JSON: {error}.", mend="It holds the row's whole new content, as --list --json shows it."
        ) from error


def _preview(action: Action, changes: Sequence[Mapping[str, Any]], read: Read, yes: bool, json: bool) -> None:
    """Say what a decision on many rows would do, and ask. Raises ``GateError`` when it is not to be."""
    wanted = {change["row"] for change in changes}
    rows = [row for key, row in read.rows if key in wanted]
    say(f"{plural(len(rows), 'row')} would be {DONE[action]}:")
    for row in rows[:SHOWN]:
        say("  ", (f"{row.place.line:>6,}  {row.id}  ", "muted"), one_line(gist(row), 80))
    if len(rows) > SHOWN:
        say("  ", (f"and {len(rows) - SHOWN:,} more", "muted"))
    if not rows or yes:
        return
    if json or not sys.stdin.isatty() or not typer.confirm(f"Decide on {plural(len(rows), 'row')}?", err=True):
        raise GateError("Nothing was decided.", mend="--yes decides without asking.")


def _answer(path: Path, step: Step | None, done: str, state: State, json: bool) -> None:
    """Say what came of a decision."""
    count = len(step.changes) if step else 0
    if json:
        facts = {"seq": step.seq, "action": step.action, "reason": step.reason} if step else {}
        show_json({**facts, "rows": count, "undo": len(state.done), "redo": len(state.undone)})
    elif step is None:
        show("Nothing changed.")
    elif done in ("undone", "done again"):
        show(("✓ ", "bold success"), f"{step.action} of {plural(count, 'row')} {done}.")
    else:
        show(
            ("✓ ", "bold success"),
            f"{plural(count, 'row')} {done}.   ",
            (f"mlxtune data review {os.path.relpath(path)} --undo", "primary"),
            (" takes it back", "muted"),
        )


def _report(read: Read, state: State, shown: Sequence[Subject], json: bool, *, full: bool) -> None:
    """Where the review stands; and the rows: all that are shown when ``full``, else the first that are undecided."""
    held = [state.of(key) for key, _ in read.rows]
    counts = Counter(decision.status for decision in held)
    edited = sum(decision.record is not None for decision in held)
    orphans = state.orphans(key for key, _ in read.rows)
    undecided = counts["pending"] + counts["skipped"]
    if json:
        facts: dict[str, Any] = {
            "rows": len(read.rows), "unusable": read.bad, **{status: counts[status] for status in STATUSES}, "edited": edited,
            "undo": len(state.done), "redo": len(state.undone),
            "orphaned": [{"row": item.row, "status": item.status, "tags": item.tags, "note": item.note} for item in orphans],
        }  # fmt: skip
        show_json(facts | ({"listed": [_facts(subject) for subject in shown]} if full else {}))
        return
    decided = len(read.rows) - undecided
    heading(out, read.path.name, f"{decided:,} of {len(read.rows):,} decided")
    told = [f"{counts[status]:,} {status}" for status in STATUSES if counts[status]] + ([f"{edited:,} edited"] if edited else [])
    show("  ", (", ".join(told), "muted"))
    if read.bad:
        say("  ", (f"{plural(read.bad, 'row')} cannot be used; mlxtune data check {os.path.relpath(read.path)} says why.", "muted"))
    if orphans:
        named = ", ".join(f"{item.row[:12]} {item.status}" for item in orphans[:SHOWN])
        more = " …" if len(orphans) > SHOWN else ""
        say(
            ("  ! ", "bold warning"),
            f"{plural(len(orphans), 'decision')} lost {'its' if len(orphans) == 1 else 'their'} row: {named}{more}",
        )
    rows = list(shown) if full else [item for item in shown if item.decision.status in ("pending", "skipped")][:SHOWN]
    if rows:
        columns([_line(subject) for subject in rows], right=(1,))


def _line(subject: Subject) -> list[Cell]:
    mark = (
        ("~", "primary")
        if subject.decision.record is not None and subject.decision.status == "pending"
        else MARKS[subject.decision.status]
    )
    text = one_line(gist(subject.now), 80)
    return [
        mark,
        f"{subject.row.place.line:,}",
        (subject.row.id, "muted"),
        (subject.decision.status, "muted"),
        (" ".join(tags(subject.now)), "second"),
        text,
    ]


def _facts(subject: Subject) -> dict[str, Any]:
    held = subject.decision
    return {
        "id": subject.row.id, "row": held.row, "after": held.after, "file": subject.row.place.file.name, "line": subject.row.place.line,
        "status": held.status, "edited": held.record is not None, "tags": list(tags(subject.now)), "note": held.note,
        "content": subject.now.content,
    }  # fmt: skip
