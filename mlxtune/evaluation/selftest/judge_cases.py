"""Simulated judges with known behavior: one that approves a sentinel must be reported as unreliable; an honest one must not."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from mlxtune.data.rows import Message
from mlxtune.evaluation.judge.batch import SENTINELS, JudgeCall
from mlxtune.evaluation.judge.judge_report import SentinelFault, build_judge_report
from mlxtune.evaluation.judge.judge_session import JudgeSession
from mlxtune.evaluation.judge.rubric import Rubric, RubricQuestion
from mlxtune.evaluation.paired_answers import AnswerPair

_RUBRIC = Rubric(
    (RubricQuestion("thanks", "Does it thank?"), RubricQuestion("voice", "How warm is it?", ("1", "2", "3", "4", "5")))
)
_TARGETS = ("thanks", "voice", "a pair")
_ROWS = tuple(
    AnswerPair(
        f"row {number}",
        (Message("user", f"Where is parcel {number}?"),),
        f"Dear customer, {number}",
        f"{number}",
        f"plain {number}",
        f"Thank you, {number}",
    )
    for number in range(4)
)


def cases() -> Iterator[tuple[str, Callable[[], bool]]]:
    """Yield each case by name, with a function that returns whether its result is as expected."""
    yield "an honest judge is reliable", partial(_reported, _honest, ())
    for name in SENTINELS:
        for target in _TARGETS:
            yield (
                f"{name} passed on {target}",
                partial(_reported, partial(_fooled, name, target, True), (SentinelFault(name, (target,)),)),
            )
        yield (
            f"{name} passed without evidence",
            partial(_reported, partial(_fooled, name, "thanks", False), (SentinelFault(name, ("thanks",)),)),
        )
    yield "a judge with unreadable replies", partial(_reported, lambda call: "Yes, certainly.", (), unusable=True)


def _reported(judge: Callable[[JudgeCall], str], faults: tuple[SentinelFault, ...], *, unusable: bool = False) -> bool:
    session = JudgeSession(Path(), Path(), "base", "tuned", _ROWS, _RUBRIC, "simulated", "", 7, "")
    report = build_judge_report(session, {call.key: call.read(judge(call)) for call in session.calls}, {}, 0.0)
    return report.faults == faults and bool(report.unusable) == unusable


def _honest(call: JudgeCall) -> str:
    """Prefer answers that thank or greet the customer, and quote them as evidence."""
    good = [answer.startswith(("Thank you", "Dear")) for answer in (call.one, call.two)]
    if call.question:
        return _reply(call.one[:9] if good[0] else "", good[0])
    if good[0] == good[1]:
        return json.dumps({"evidence": "", "better": "tie"})
    return json.dumps({"evidence": (call.one if good[0] else call.two)[:9], "better": "1" if good[0] else "2"})


def _fooled(name: str, target: str, quotes: bool, call: JudgeCall) -> str:
    """Answer honestly, except for one sentinel on one question."""
    if call.subject != name or (call.question.name if call.question else "a pair") != target:
        return _honest(call)
    quote = SENTINELS[name][:9] if quotes else ""
    return _reply(quote, True) if call.question else json.dumps({"evidence": quote, "better": "2" if call.swapped else "1"})


def _reply(evidence: str, good: bool) -> str:
    return json.dumps({"evidence": evidence, "verdict": "yes" if good else "no", "score": 5 if good else 1})
