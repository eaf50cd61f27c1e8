"""Apply the rules to answers and evidence. Everything in the verdict comes from the rules.

Reasons for retrieval and reasons for training are counted separately. The first gate that holds blocks training, regardless of
the reasons for it, and its verdict says what to do first, unless retrieval is needed anyway.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.advice.evidence import AdviceEvidence
from mlxtune.advice.interview import Answers, answers_json
from mlxtune.advice.next_step import NextStep, StepCode
from mlxtune.advice.rules import AdviceRule, Fact, Verdict, rules
from mlxtune.evaluation.arms import TUNED


@dataclass(frozen=True)
class Advice:
    """The verdict, and the rules that hold."""

    verdict: Verdict
    method: AdviceRule | None  # if something should be trained
    gate: AdviceRule | None  # which blocks training
    reasons: tuple[AdviceRule, ...]
    contradictions: tuple[AdviceRule, ...]
    points: Mapping[str, str]  # rag, fine-tune, or empty, by the key of the tradeoff
    next: NextStep
    facts: Mapping[str, Fact]  # that the rules compared

    @property
    def gate_decides(self) -> bool:
        return self.gate is not None and self.gate.verdict == self.verdict

    def as_json(self) -> dict[str, Any]:
        because = [answers_json({name: self.facts.get(name) for name in rule.because(self.facts)}) for rule in self.reasons]
        reasons = [{"rule": one.key, "side": one.section, "because": why} for one, why in zip(self.reasons, because, strict=True)]
        return {
            "verdict": self.verdict, "method": self.method.key if self.method else "", "reasons": reasons, "next": self.next.code,
            "contradictions": [rule.key for rule in self.contradictions], "points": dict(self.points),
        }  # fmt: skip


def give_advice(answers: Answers, evidence: AdviceEvidence) -> Advice:
    by = rules()
    target, metric = answers["target"], answers["metric"]
    assert isinstance(target, int | float)
    facts: dict[str, Fact] = {**answers, **evidence.facts(metric, target)}

    def holding(section: Sequence[AdviceRule]) -> tuple[AdviceRule, ...]:
        return tuple(rule for rule in section if rule.holds(facts))

    right, wrong, gates = holding(by.right), holding(by.wrong), holding(by.gates)[:1]
    gate = gates[0] if gates else None
    verdict = _verdict(right, wrong, gate)
    gate_decides = gate is not None and verdict == gate.verdict
    ordered = (*gates, *wrong, *right) if gate_decides else (*wrong, *right, *gates)
    step = gate.next if gate and gate_decides and gate.next else _next(verdict, facts)
    rates, best = evidence.arms_by_metric(metric), evidence.best(metric)
    measured = rates.get(TUNED) or (rates[best] if best else None)
    run = measured[1] if step == StepCode.READ_ROWS and measured else ""  # the evaluation of the adapter or else of the best arm
    name = "FILE" if step == StepCode.WRITE_RECIPE else str(metric)
    return Advice(
        verdict=verdict,
        method=holding(by.methods)[0] if verdict in ("fine-tune", "both") else None,
        gate=gate,
        reasons=(*holding(by.cautions), *ordered),  # cautions may contradict what follows
        contradictions=holding(by.contradictions),
        points={row.key: row.points if row.holds(facts) else "" for row in by.tradeoffs},
        next=NextStep(step, run, Path(evidence.recipe) if evidence.recipe else None, name),
        facts=facts,
    )


def _verdict(right: Sequence[AdviceRule], wrong: Sequence[AdviceRule], gate: AdviceRule | None) -> Verdict:
    if any(rule.points == "rag" for rule in wrong):
        return "both" if right and not gate else "rag"
    if gate:
        return gate.verdict  # type: ignore[return-value]
    return "fine-tune" if right else "prompt_first"


def _next(verdict: Verdict, facts: Mapping[str, Fact]) -> StepCode:
    match verdict:
        case "rag":
            return StepCode.SET_UP_RETRIEVAL
        case "both":
            return StepCode.RETRIEVE_THEN_TRAIN
        case "fine-tune" if facts["rows"] is None:
            return StepCode.WRITE_RECIPE
        case "fine-tune":
            return StepCode.READ_ROWS if facts["tuned"] is not None else StepCode.TRAIN
        case "prompt_first":
            return StepCode.WRITE_PROMPT
    return StepCode.MEASURE
