"""Does the trap close? Judges whose mind is known, against the sentinels: who passes one must come out broken, who passes none must not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mlxtune.data.rows import Message
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.judge.batch import Call
from mlxtune.evaluation.judge.report import build
from mlxtune.evaluation.judge.rubric import Question, Rubric
from mlxtune.evaluation.judge.sentinels import SENTINELS
from mlxtune.evaluation.judge.session import Session

_RUBRIC = Rubric((Question("thanks", "Does it thank?"), Question("voice", "How warm is it?", ("1", "2", "3", "4", "5"))))
_PLACES = ("thanks", "voice", "a pair")
_ROWS = tuple(
    Pair(
        f"row {at}",
        (Message("user", f"Where is parcel {at}?"),),
        f"Dear customer, {at}",
        f"{at}",
        f"plain {at}",
        f"Thank you, {at}",
    )
    for at in range(4)
)


def cases() -> Iterator[tuple[str, Callable[[], bool]]]:
    """Each case by its name, and whether it came out right."""
    yield "a judge who passes none holds", partial(_found, _honest, "")
    for name in SENTINELS:
        for place in _PLACES:
            yield f"{name} passed on {place}", partial(_found, partial(_fooled, name, place, True), f"“{name}” on {place}")
        yield f"{name} passed without evidence", partial(_found, partial(_fooled, name, "thanks", False), f"“{name}” on thanks")
    yield "a judge who says nothing that can be read", partial(_found, lambda call: "Yes, certainly.", "cannot be used")


def _found(mind: Callable[[Call], str], words: str) -> bool:
    """Whether a judge of this ``mind`` is called broken with these ``words`` alone, or, for none, is not."""
    session = Session(Path(), Path(), "base", "tuned", _ROWS, _RUBRIC, "a known mind", "", 7, "")
    report = build(session, {call.key: call.read(mind(call)) for call in session.calls}, {}, 0.0)
    return len(report.broken) == bool(words) and all(words in sentence for sentence in report.broken)


def _honest(call: Call) -> str:
    """Likes an answer that thanks or greets, and quotes it."""
    good = [answer.startswith(("Thank you", "Dear")) for answer in (call.one, call.two)]
    if call.question:
        return _reply(call.one[:9] if good[0] else "", good[0])
    if good[0] == good[1]:
        return json.dumps({"evidence": "", "better": "tie"})
    return json.dumps({"evidence": (call.one if good[0] else call.two)[:9], "better": "1" if good[0] else "2"})


def _fooled(name: str, place: str, quotes: bool, call: Call) -> str:
    """As the honest one, but for one sentinel in one place."""
    if call.subject != name or (call.question.name if call.question else "a pair") != place:
        return _honest(call)
    quote = SENTINELS[name][:9] if quotes else ""
    return _reply(quote, True) if call.question else json.dumps({"evidence": quote, "better": "2" if call.swapped else "1"})


def _reply(evidence: str, good: bool) -> str:
    return json.dumps({"evidence": evidence, "verdict": "yes" if good else "no", "score": 5 if good else 1})
