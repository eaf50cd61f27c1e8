"""``data apply``: change many rows at once with a pipeline of transforms."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlxtune.cli.data import Format, Map, SourceArgument, resolve_source
from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import info, print_columns, progress_bar, show, show_json
from mlxtune.cli.review import Filter, matching_rows, open_browser, require_tokens, show_decided
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, plural
from mlxtune.data import filters
from mlxtune.data import review as reviews
from mlxtune.data.review import ReviewSession
from mlxtune.data.rows import last_prompt
from mlxtune.present.data_files import outcome_text
from mlxtune.present.words import WORDS

if TYPE_CHECKING:  # imports numpy
    from mlxtune.data.browser import SourceBrowser
    from mlxtune.data.transforms.preview import Outcome

_PREVIEW_ROWS = 5


def apply(
    source: SourceArgument,
    line: Annotated[str, argument('The pipeline, such as "trim | cap category 200", or @FILE.', metavar="LINE")] = "",
    filter: Filter = "",
    yes: Annotated[bool, option("--yes", "Record the change. Without it, the command shows a preview and asks.")] = False,
    new_file: Annotated[Path | None, option("--out", "Write all rows to this new .jsonl file instead.")] = None,
    verbs: Annotated[bool, option("--verbs", "List the verbs.")] = False,
    applied: Annotated[bool, option("--applied", "Print what was applied, as a pipeline file.")] = False,
    format: Format = "auto",
    map: Map = None,
    json: Json = False,
) -> None:
    """Change many rows at once: replace text, set the system turn, cut turns, sample, tag, and more.

    The change is one decision in the review of the source, which is not modified.
    """
    from mlxtune.data.transforms.pipeline import (
        VERBS,
        parse,  # imports numpy, which --help does not need
    )
    from mlxtune.data.transforms.preview import Outcome, active_rows, write_outcome

    if verbs:
        listed = [{"verb": name, "usage": verb.usage, "about": verb.about} for name, verb in VERBS.items()]
        show_json(listed) if json else print_columns([[(verb["usage"], "bold"), (verb["about"], "muted")] for verb in listed])
        return
    path, section = resolve_source(source, format, map)
    if applied:
        lines = [decision.reason for decision in reviews.load(path).steps if decision.action == "apply"]
        if json:
            show_json(lines)
        else:
            for line in lines:
                show(line)
        return
    if not line:
        raise InputError("No pipeline was specified.", hint=f"mlxtune data apply {shlex.quote(str(source))} --verbs")
    pipeline = parse(line, Path.cwd())
    copy = shlex.quote(os.path.relpath(path.with_name(f"{path.stem}.applied.jsonl")))
    hint = f"mlxtune data apply {shlex.quote(str(source))} {shlex.quote(line)} --out {copy}"
    with_checks = bool((pipeline.fields | filters.fields(filter)) & filters.CHECKED)
    with open_browser(source, path, section, with_checks) as browser, ReviewSession(path) as session:
        browser.apply_review(session.state)
        require_tokens(browser, pipeline.fields)
        indices = active_rows(browser, matching_rows(browser, filter))
        outcome = Outcome(len(indices))
        with progress_bar("applying"):
            for edit in pipeline.edits(indices, browser.lazy_row):
                outcome.add(edit)
        if not new_file:
            _record(outcome, pipeline.text, browser, session, hint, yes=yes, json=json)
            return
        count = write_outcome(browser, outcome.shown, new_file)
        if json:
            show_json({**_document(outcome), "out": str(new_file), "written": count})
        else:
            show(("✓ ", "bold success"), f"Wrote {plural(count, 'row')} to {new_file}. {outcome_text(outcome)}")


def _record(
    outcome: Outcome, text: str, browser: SourceBrowser, session: ReviewSession, hint: str, *, yes: bool, json: bool
) -> None:
    from mlxtune.data.transforms.preview import recorded_edits

    edits = recorded_edits(outcome.shown, browser.key, hint)
    if not json:
        _show_preview(outcome)
    can_ask = not yes and not json and bool(edits) and sys.stdin.isatty()
    seq = None
    if edits and (yes or (can_ask and typer.confirm(f"Change {plural(outcome.changed, 'row')}?", err=True))):
        chosen = [browser.keyed_row(edit.index) for edit in outcome.shown]
        step = session.decide("apply", chosen, reason=text, edits=edits)
        seq = step.seq if step else None
        if not json:
            show_decided(browser.path, outcome.changed, WORDS.decisions["apply"])
    elif edits and not json:
        show("Nothing was changed.   ", ("Record the change with ", "muted"), ("--yes", "primary"))
    if json:
        show_json({**_document(outcome), "seq": seq})


def _document(outcome: Outcome) -> dict[str, Any]:
    names = ("rows", "edited", "left_out", "added", "failed", "error")
    return {name: getattr(outcome, name) for name in names}


def _show_preview(outcome: Outcome) -> None:
    from mlxtune.data.transforms.preview import changed_texts

    show(outcome_text(outcome))
    for edit in outcome.shown[:_PREVIEW_ROWS]:
        assert edit.before
        number = f"{edit.before.location.number:>6,}  "
        if not edit.after:
            info("  ", (number, "muted"), ("left out  ", "warning"), one_line(last_prompt(edit.before), 80))
        for change in changed_texts(edit)[:2]:
            info("  ", (number, "muted"), (f"{change.part}: ", "muted"), one_line(change.before, 60) or "(empty)")
            info("  ", (" " * len(number), "muted"), ("→ ", "primary"), one_line(change.after, 100) or "(empty)")
    if outcome.changed > _PREVIEW_ROWS:
        info("  ", (f"and {outcome.changed - _PREVIEW_ROWS:,} more", "muted"))
