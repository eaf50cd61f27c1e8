"""The Review room's service: a row's parts, contract result and origin."""

import json
import time
from dataclasses import dataclass

from mlxtune.core.text import one_line
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.check_input import rewrite_texts, scored_answer, text_parts
from mlxtune.data.generate.lineage import KEY, lineage_of
from mlxtune.data.rows import Conversation, Preference, Row
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.disclaimer import add_missing_disclaimers

SIDES = ("chosen", "rejected")
_MAX_SOURCE = 24  # characters of a file's name and the row's place in it, which fit on one line


@dataclass(frozen=True)
class RowPart:
    """One turn, or one answer in a pair. ``name`` is the core's name for it; ``text`` is not yet safe to display."""

    name: str
    role: str
    text: str
    trains: bool
    calls: tuple[str, ...] = ()


def parts_of(row: Row) -> tuple[RowPart, ...]:
    """Return the parts of ``row``; the two answers of a pair come last."""
    turns = row.messages if isinstance(row, Conversation) else ()
    result = []
    for index, part in enumerate(text_parts(row)):
        calls = _tool_calls(turns[index].extra.get("tool_calls")) if turns else ()
        trains = part.trains or part.name in ("completion", *SIDES)
        result.append(RowPart(part.name, part.name if part.name in SIDES else part.role, part.text, trains, calls))
    return tuple(result)


def _tool_calls(value: object) -> tuple[str, ...]:
    functions = [call.get("function", {}) for call in value] if isinstance(value, list) else []
    return tuple(
        one_line(f"{function.get('name', '')}({json.dumps(function.get('arguments', {}), ensure_ascii=False)})", 2000)
        for function in functions
    )


def is_pair(row: Row | None) -> bool:
    return isinstance(row, Preference)


def check_contract(contract: Contract, row: Row) -> dict[str, Score]:
    """Score the row's answer on the required metrics of ``contract``. Empty if the row has no answer it applies to."""
    part, text = scored_answer(row)
    scores = contract.score(ModelAnswer(text, reference=text)) if part else {}
    return {metric.name: scores[metric.name] for metric in contract.metrics if metric.required and metric.name in scores}


def add_disclaimers(contract: Contract, row: Row) -> Row | None:
    """Return ``row`` with its missing disclaimers added, or ``None`` if its answer lacks none."""
    part, text = scored_answer(row)
    fixed = add_missing_disclaimers(text, contract.section.disclaimers) if part else None
    return None if fixed is None else rewrite_texts(row, lambda name, current: fixed if name == part else current)


def origin(browser: SourceBrowser, index: int, row: Row | None) -> list[tuple[str, str]]:
    """Return a row's source, similar rows and decisions as pairs of a label and a text."""
    decision = browser.decision(index)
    location = browser.location(index)
    facts = [("source", f"{one_line(location.file.name, _MAX_SOURCE - len(location.place))}, {location.place}")]
    if split := browser.split(index):
        facts.append(("split", split))
    if similar := [finding.rows[1] for finding in browser.findings(index) if len(finding.rows) > 1]:
        facts.append(("similar", ", ".join(dict.fromkeys(f"row {other + 1:,}" for other in similar[:3]))))
    if row is not None:
        facts += _lineage_facts(row)
        meta = [(name, value) for name, value in row.meta.items() if name not in ("tags", "tag", KEY)]
        facts += [(one_line(str(name), 8), one_line(str(value), 60)) for name, value in meta[:3]]
    facts.append(("edited", "yes" if decision.record is not None else "no"))
    if decision.note:
        facts.append(("note", one_line(decision.note, 200)))
    if decision.is_disputed:
        facts.append(("disputed", ", ".join(f"{one_line(name, 20)} {status}" for name, status in decision.by)))
    if (step := browser.last_step(index)) and (not browser.annotator or step.who == browser.annotator):
        reason = f", {one_line(step.reason, 200)}" if step.reason else ""
        facts.append((step.action, f"by {one_line(step.who, 20)}, {format_time(step.t)}{reason}"))
    return facts


def _lineage_facts(row: Row) -> list[tuple[str, str]]:
    """Return the teacher that wrote a generated row, its examples or document, and its scores."""
    lineage = lineage_of(row)
    if lineage is None:
        return []
    facts = [("written", f"by {one_line(lineage.teacher, 60)}{f' at {one_line(lineage.host, 40)}' if lineage.host else ''}")]
    if lineage.source:
        facts.append(("quotes", f"{one_line(lineage.source.file, 40)}: “{one_line(lineage.source.quote, 160)}”"))
    if lineage.flaw:
        facts.append(("flaw", one_line(lineage.flaw, 40)))
    if lineage.scores:
        facts.append(("scores", ", ".join(f"{one_line(name, 20)} {value:.2f}" for name, value in lineage.scores.items())))
    return facts


def format_time(seconds: float) -> str:
    """Format a timestamp as a time of day, with the date unless it is today."""
    moment = time.localtime(seconds)
    today = time.strftime("%Y-%m-%d", moment) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M" if today else "%b %d, %Y, %H:%M", moment)
