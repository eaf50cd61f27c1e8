"""What Review says beside a row: the contract's verdicts on it, and where it comes from."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlxtune.core.text import one_line
from mlxtune.data.rows import Row

if TYPE_CHECKING:
    from mlxtune.data.browse import Browse
    from mlxtune.evaluation.contract import Contract


@dataclass(frozen=True)
class Verdict:
    """One question of the contract to an answer: its metric, what it asks, whether that holds, and why not."""

    metric: str
    label: str
    holds: bool
    why: str


def verdicts(contract: Contract, row: Row) -> tuple[Verdict, ...]:
    """What ``contract`` says of the answer that it is about; nothing where the row has none."""
    from mlxtune.data.checks.contract import answered
    from mlxtune.evaluation.contract import LABELS
    from mlxtune.evaluation.scorers import Answer

    part, text = answered(row)
    scores = contract.score(Answer(text, reference=text)) if part else {}
    asked = [metric.name for metric in contract.metrics if metric.asked and metric.name in scores]
    return tuple(Verdict(name, LABELS.get(name, name), scores[name].holds, one_line(scores[name].why)) for name in asked)


def with_disclaimers(contract: Contract, row: Row) -> Row | None:
    """``row`` with the disclaimers that its answer lacks; ``None`` where adding them would not mend it."""
    from mlxtune.data.checks.contract import answered
    from mlxtune.data.checks.look import rewritten
    from mlxtune.evaluation.amend import with_disclaimers as amended

    part, text = answered(row)
    mended = amended(text, contract.disclaimers) if part else None
    return None if mended is None else rewritten(row, lambda name, said: mended if name == part else said)


def origin(browse: Browse, at: int, row: Row | None) -> list[tuple[str, str]]:
    """Where row ``at`` stands, what it is like and near to, and who decided what about it when."""
    held = browse.decision(at)
    found = [("source", one_line(str(browse.place(at)), 80))]
    if browse.checked and (share := browse.checked.share(at)):
        found.append(("split", share))
    if twins := [one for one in browse.findings(at) if len(one.rows) > 1]:
        found.append(("twin", ", ".join(dict.fromkeys(f"row {one.rows[1] + 1:,}" for one in twins[:3]))))
    if row is not None:
        meta = [(name, value) for name, value in row.meta.items() if name not in ("tags", "tag")]
        found += [(one_line(str(name), 8), one_line(str(value), 60)) for name, value in meta[:3]]
    found.append(("edited", "yes" if held.record is not None else "never"))
    if held.note:
        found.append(("note", one_line(held.note, 200)))
    step = browse.decided_by(at)
    if step is not None:
        why = f", {one_line(step.reason, 40)}" if step.reason else ""
        found.append((step.action, f"by {one_line(step.who, 20)}, {when(step.t)}{why}"))
    return found


def when(seconds: float) -> str:
    """A moment, as people say it: the time today, else the day and the time."""
    then = time.localtime(seconds)
    today = time.strftime("%Y-%m-%d", then) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M" if today else "%d %b %Y, %H:%M", then)
