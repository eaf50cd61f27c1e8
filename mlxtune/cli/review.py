"""``data review``: show and make decisions about a source's rows without the app."""

from __future__ import annotations

import json as jsons
import os
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from mlxtune.cli.data import Format, Map, SourceArgument, resolve_source, run_checks
from mlxtune.cli.options import Json, Yes, argument, option, with_option_groups
from mlxtune.cli.output import draw, info, progress_bar, show, show_json
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import read_errors
from mlxtune.core.text import one_line, plural
from mlxtune.data import filters
from mlxtune.data import review as reviews
from mlxtune.data.review import Action, Change, ReviewSession, ReviewState, ReviewStep
from mlxtune.data.rows import RowError, last_prompt, row_tags
from mlxtune.data.source_files import GENERATED
from mlxtune.evaluation.statistics.agreement import AnnotatorAgreement
from mlxtune.present.check import skip_text
from mlxtune.present.review import ReviewCounts, review_document
from mlxtune.present.words import WORDS
from mlxtune.recipe import DataSection, load

if TYPE_CHECKING:  # imports numpy
    from mlxtune.data.browser import SourceBrowser

_PREVIEW_ROWS = 5

Filter = Annotated[str, option("--filter", "Such as status:pending tag:x finding:x len>400 meta.lang:en answer:/regex/ -tag:x")]


@dataclass(frozen=True)
class StatusOptions:
    accept: Annotated[bool, option("--accept", "Accept the rows.")] = False
    reject: Annotated[bool, option("--reject", "Reject the rows.")] = False
    skip: Annotated[bool, option("--skip", "Decide later.")] = False
    swap: Annotated[bool, option("--swap", "Pairs: the rejected answer is better.")] = False
    tie: Annotated[bool, option("--tie", "Pairs: neither answer is better.")] = False
    bad: Annotated[bool, option("--both-bad", "Pairs: both answers are bad.")] = False


@dataclass(frozen=True)
class EditOptions:
    edit: Annotated[str, option("--edit", "New content (JSON); - reads stdin.", metavar="FILE")] = ""
    tag: Annotated[list[str] | None, option("--tag", "Add a tag.")] = None
    untag: Annotated[list[str] | None, option("--untag", "Remove a tag.")] = None
    note: Annotated[str | None, option("--note", "Set a note.")] = None
    undo: Annotated[bool, option("--undo", "Undo the newest decision.")] = False
    redo: Annotated[bool, option("--redo", "Redo the undone decision.")] = False
    reason: Annotated[str, option("--reason", "The reason.")] = ""

    @property
    def change(self) -> dict[str, Any]:
        """The fields of a :class:`~mlxtune.data.review.Change`."""
        return {
            **({"record": _read_json(self.edit)} if self.edit else {}),
            **({"add": self.tag or [], "remove": self.untag or []} if self.tag or self.untag else {}),
            **({"note": self.note} if self.note is not None else {}),
        }


@dataclass(frozen=True)
class SelectOptions:
    """Which rows to decide on or to list, and in whose name."""

    filter: Filter = ""
    all: Annotated[bool, option("--all", "All matching rows.")] = False
    yes: Yes = False
    who: Annotated[str, option("--as", "Decide as this annotator.", metavar="NAME", show_default=False)] = ""
    list_: Annotated[bool, option("--list", "List matching rows.")] = False


@with_option_groups
def review(
    source: SourceArgument,
    status: StatusOptions,
    edits: EditOptions,
    selecting: SelectOptions,
    rows: Annotated[list[str] | None, argument("By ID or line number (in a JSON array, position).", metavar="ROW")] = None,
    format: Format = "auto",
    map: Map = None,
    json: Json = False,
) -> None:
    """Show the review's status, or decide on rows. Decisions are stored in a journal next to the source."""
    flags: dict[str, object] = {
        **vars(status), "edit": edits.edit, "tag": edits.tag or edits.untag, "note": edits.note is not None,
    }  # fmt: skip
    actions = [action for action in get_args(Action) if flags.get(action)]
    if len(actions) + edits.undo + edits.redo > 1:
        raise InputError("Only one decision can be made at a time.")
    path, section = resolve_source(source, format, map)
    if edits.undo or edits.redo:
        with ReviewSession(path, who=selecting.who) as session:
            step = session.undo() if edits.undo else session.redo()
            _show_step(path, step, "undone" if edits.undo else "redone", session.state, json)
        return
    with open_browser(source, path, section, bool(filters.fields(selecting.filter) & filters.CHECKED)) as browser:
        browser.annotator = selecting.who
        if actions:
            _decide(browser, actions[0], rows or [], edits, selecting, json)
            return
        if rows or selecting.all:
            raise InputError("No decision was specified.", hint="Use --accept, --tag, another decision, or --list.")
        browser.apply_review(reviews.load(path))
        matching = matching_rows(browser, selecting.filter)
        _show_review(browser, matching, json, full=selecting.list_ or bool(selecting.filter))


def _decide(
    browser: SourceBrowser, action: Action, rows: Sequence[str], edits: EditOptions, selecting: SelectOptions, json: bool
) -> None:
    change = edits.change
    with ReviewSession(browser.path, who=selecting.who) as session:
        browser.apply_review(session.state)
        indices = matching_rows(browser, selecting.filter) if selecting.all else [_find(browser, name) for name in rows]
        chosen = [browser.keyed_row(index) for index in indices]
        if selecting.all:
            changes = reviews.plan_changes(action, chosen, session.state, Change(**change), session.who)
            _confirm(action, changes, browser, selecting.yes, json)
        if not chosen:
            raise InputError("No rows were specified.", hint="Specify rows by ID or line number, or use --all with --filter.")
        if edits.edit and len(chosen) > 1:
            raise InputError("--edit accepts only one row at a time.")
        try:
            step = session.decide(action, chosen, reason=edits.reason, **change)
        except RowError as error:
            if not edits.edit:
                raise
            name = "Standard input" if edits.edit == "-" else edits.edit
            raise InputError(f"{name} cannot replace the row: {error.reason}", hint=error.hint) from error
        _show_step(browser.path, step, WORDS.decisions[action], session.state, json)


@contextmanager
def open_browser(source: Path, path: Path, section: DataSection, with_checks: bool) -> Iterator[SourceBrowser]:
    """Open the source and read all rows. Also run the checks if ``with_checks``, without downloading the model for its tokenizer."""
    from mlxtune.data.browser import SourceBrowser  # imports numpy, which --help does not need
    from mlxtune.evaluation.check_process import contract_scorer

    with SourceBrowser(path, section.format, section.map) as browser:
        with progress_bar("reading"):
            for _ in browser.scan():
                pass
        if with_checks:
            browser.check_result = run_checks(source, path, section, fetch=False)
            if source.suffix == ".toml" and browser.uncounted:
                info(("○ ", "muted"), (f"tokens were not checked: {skip_text(browser.uncounted)}", "muted"))
            browser.scorer = contract_scorer(load(source) if source.suffix == ".toml" else None, {})  # for edited rows
        yield browser


def require_tokens(browser: SourceBrowser, fields: Collection[str]) -> None:
    """Raise ``InputError`` if ``fields`` of a filter include lengths in tokens, which are unknown."""
    if "tokens" in fields and browser.uncounted:
        hint = "Name a recipe whose model is on this machine (mlxtune models pull NAME), or filter by characters: len>400"
        raise InputError(f"The rows' lengths in tokens are unknown: {skip_text(browser.uncounted)}.", hint=hint)


def matching_rows(browser: SourceBrowser, filter: str) -> list[int]:
    """Return the rows that match. Raise ``InputError`` if the filter is invalid or needs lengths that are unknown."""
    require_tokens(browser, filters.fields(filter))
    return [index for _, batch in browser.matching(filters.parse(filter)) for index in batch if browser.is_row(index)]


def _find(browser: SourceBrowser, name: str) -> int:
    """Return the row that ``name`` identifies: the number of its line or array element (up to five digits), or a prefix of its original or edited ID.

    Numbers are those of the source's own rows. Generated rows are known by their ID.
    """
    own = [index for index in browser.rows if browser.records.part(index) != GENERATED] if name.isdigit() else []
    by_number = [index for index in own if browser.records.location(index).number == int(name)]
    prefix = name.lower()
    edited = {index for index, decision in browser.decisions.items() if decision.after.startswith(prefix)}
    by_id = sorted({index for index in browser.rows if browser.key(index).startswith(prefix)} | edited)
    matches = by_number if len(name) < 6 and name.isdigit() else by_id if len(name) > 3 else []
    matches = matches or by_number
    if len(matches) != 1:
        count = "Several rows match" if matches else "No row matches"
        raise InputError(f"{count} {one_line(name, 70)} in {browser.path.name}.", hint="Use --list to see IDs and numbers.")
    return matches[0]


def _read_json(file: str) -> Any:
    with read_errors(file, hint="It must contain the row's whole content, as shown by --list --json."):
        return jsons.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))


def _confirm(action: Action, changes: Sequence[Mapping[str, Any]], browser: SourceBrowser, yes: bool, json: bool) -> None:
    """Preview a decision on many rows and ask for confirmation. Raise ``GateError`` if the user declines."""
    rows = [browser.lazy_row(index).row for index in browser.rows_with_keys(change["row"] for change in changes)]
    info(f"{plural(len(rows), 'row')} would be {WORDS.decisions[action]}:")
    for row in rows[:_PREVIEW_ROWS]:
        info("  ", (f"{row.location.number:>6,}  {row.id}  ", "muted"), one_line(last_prompt(row), 80))
    if len(rows) > _PREVIEW_ROWS:
        info("  ", (f"and {len(rows) - _PREVIEW_ROWS:,} more", "muted"))
    if not rows or yes:
        return
    if json or not sys.stdin.isatty() or not typer.confirm(f"Decide on {plural(len(rows), 'row')}?", err=True):
        raise GateError("Nothing was decided.", hint="Use --yes to decide without confirmation.")


def _show_step(path: Path, step: ReviewStep | None, done: str, state: ReviewState, json: bool) -> None:
    count = len(step.changes) if step else 0
    if json:
        facts = {"seq": step.seq, "action": step.action, "reason": step.reason} if step else {}
        show_json({**facts, "rows": count, "undo": len(state.steps), "redo": len(state.undone_steps)})
    elif step is None:
        show("Nothing changed.")
    elif done in ("undone", "redone"):
        subject = f"check {step.checks[0]}" if step.checks else plural(count, "row")
        show(("✓ ", "bold success"), f"{done.capitalize()}: {subject} {WORDS.decisions[step.action]}.")
    else:
        show_decided(path, count, done)


def show_decided(path: Path, count: int, done: str) -> None:
    undo = f"mlxtune data review {shlex.quote(os.path.relpath(path))} --undo"
    show(("✓ ", "bold success"), f"{plural(count, 'row')} {done}.   ", ("Undo: ", "muted"), (undo, "primary"))


def _show_review(browser: SourceBrowser, matching: Sequence[int], json: bool, *, full: bool) -> None:
    """Show the counts and some rows: all ``matching`` ones if ``full``, otherwise the first undecided ones."""
    counts = ReviewCounts.of(browser)
    if json:
        facts: dict[str, Any] = {
            "rows": counts.rows, "unusable": browser.bad_count, **{str(status): count for status, count in counts.statuses.items()}, "edited": counts.edited,
            "undo": len(browser.state.steps), "redo": len(browser.state.undone_steps),
            "orphaned": [{"row": item.row, "status": item.status, "tags": item.tags, "note": item.note} for item in counts.orphans],
            "disputed": counts.disputed, "agreement": [_agreement_json(item) for item in counts.agreement],
        }  # fmt: skip
        show_json(facts | ({"listed": [_row_json(browser, index) for index in matching]} if full else {}))
        return
    rows = matching if full else [index for index in matching if browser.decision(index).is_undecided][:_PREVIEW_ROWS]
    draw(review_document(browser, counts, rows))


def _agreement_json(agreement: AnnotatorAgreement) -> dict[str, Any]:
    kappa = agreement.kappa
    return {
        "annotators": list(agreement.names), "rows": agreement.rows, "same": agreement.same,
        "kappa": kappa and kappa.value, "interval": kappa and [kappa.low, kappa.high],
    }  # fmt: skip


def _row_json(browser: SourceBrowser, index: int) -> dict[str, Any]:
    row, decision, key = browser.lazy_row(index), browser.decision(index), browser.key(index)
    return {
        "id": row.row.id, "row": key, "after": decision.after or row.row.hash, "file": row.row.location.file.name,
        "line": row.row.location.line, "element": row.row.location.element, "status": decision.status, "edited": decision.record is not None,
        "by": dict(decision.by), "tags": list(row_tags(row.current)), "note": decision.note, "content": row.current.content,
    }  # fmt: skip
