"""The Data room's service: preview decisions on many rows, and fix findings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line, plural
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.fixes import apply_fixes
from mlxtune.data.review import Action
from mlxtune.data.rows import Preference, Row, last_prompt
from mlxtune.tui.notices import Notice
from mlxtune.tui.session_manager import decision_notice
from mlxtune.tui.source_session import SourceSession

_PREVIEW_ROWS = 4
_STATUS: Mapping[Action, str] = {"accept": "accepted", "reject": "rejected", "skip": "skipped"}
_PAIR_STATUS: Mapping[Action, str] = {"tie": "tied", "bad": "bad"}


def preview(browser: SourceBrowser, rows: Sequence[int], effect: str = "") -> str:
    """Return the first few of ``rows``, one per line. If some are held out, say what ``effect``, such as ``rejected``, does to them."""
    shown = []
    for index in rows[:_PREVIEW_ROWS]:
        row = browser.lazy_row(index).current_or_error
        shown.append(f"{index + 1:,}  {one_line(row.message if isinstance(row, DataError) else last_prompt(row), 48)}")
    if len(rows) > _PREVIEW_ROWS:
        shown.append(f"and {len(rows) - _PREVIEW_ROWS:,} more")
    if effect and (held_out := sum(map(browser.is_held_out, rows))):
        shown += ["", f"Held out: {held_out:,} of these rows.", f"If they are {effect}, the evaluation loses them, too."]
    return "\n".join(shown)


def pending_changes(browser: SourceBrowser, rows: Sequence[int]) -> dict[Action, int]:
    """Return the number of ``rows`` that each decision would change, omitting decisions that would change none."""
    are_pairs = rows and all(isinstance(browser.record(index), Preference) for index in rows[:_PREVIEW_ROWS])
    possible = {**_STATUS, **_PAIR_STATUS} if are_pairs else _STATUS
    counts = {
        action: sum(browser.decision(index).status != status for index in rows if action == "reject" or browser.is_row(index))
        for action, status in possible.items()
    }
    return {action: count for action, count in counts.items() if count}


def apply_fix(session: SourceSession, check: str, rows: Sequence[int]) -> Notice:
    """Apply the fix for ``check`` to ``rows`` as one decision. The source is not changed."""
    browser = session.source
    edits: dict[str, Row] = {}
    fixed_rows = []
    for index in rows:
        row = browser.lazy_row(index).current
        fixed = apply_fixes(row, [finding for finding in browser.findings(index) if finding.check == check])
        if fixed is not None and fixed.hash != row.hash:
            fixed_rows.append(index)
            edits[browser.keyed_row(index)[0]] = fixed
    step = session.decide("edit", fixed_rows, edits=edits, reason=f"data check: {check}")
    left = len(rows) - len(fixed_rows)
    hint = f"{plural(left, 'row')} must be edited by hand: press e in Review." if left else ""
    return replace(decision_notice(step, fixed_rows), hint=hint)
