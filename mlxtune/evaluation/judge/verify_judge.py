"""Recompute the reports of an evaluation's judge sessions from their replies and the user's blind votes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json
from mlxtune.evaluation.blind.blind_session import revealed_choices
from mlxtune.evaluation.json_differences import differences
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.judge import judge_report, judge_session
from mlxtune.evaluation.paired_answers import load_pairs


def verify_judges(evaluation: Path) -> Iterator[str]:
    """Yield each difference between a judge's report and one rebuilt from its session, with its location."""
    for file in sorted(evaluation.glob(f"judge/*/{judge_report.FILE}")):
        try:
            yield from _differences(evaluation, file)
        except InputError as error:
            yield f"judge/{file.parent.name}: {error.message}"


def _differences(evaluation: Path, file: Path) -> Iterator[str]:
    session = judge_session.load_session(evaluation, file.parent)
    if session is None:
        return
    location, stored = f"judge/{file.parent.name}/{file.name}", read_json(file)
    grades = judge_session.load_grades(session)
    if missing := {call.key for call in session.calls} - set(grades):
        yield f"{location}: calls.jsonl lacks {len(missing)} of its questions."
        return
    arms = session.first, session.second
    rater = revealed_choices(evaluation, *arms, load_pairs(evaluation, *arms)) if stored.get("calibrated") else {}
    report = judge_report.build_judge_report(session, grades, rater, judge_session.dollars_spent(session))
    changed = {2: {"verdict"}, judge_report.VERSION: set[str]()}  # by version
    skipped = {"v"} | changed.get(stored.get("v"), {"calibrated", "verdict"})
    yield from differences(
        location, *({key: value for key, value in record.items() if key not in skipped} for record in (stored, to_json(report)))
    )
