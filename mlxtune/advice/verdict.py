"""Apply the rules to answers and evidence. Everything in the verdict comes from the rules.

Reasons for retrieval and reasons for training are counted separately. The first gate that holds blocks training, regardless of
the reasons for it, and its verdict says what to do first, unless retrieval is needed anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.advice.evidence import ARMS, AdviceEvidence
from mlxtune.advice.interview import InterviewAnswers
from mlxtune.advice.rules import AdviceRule, Fact, FactInfo, Facts, Rules, Verdict, rules
from mlxtune.core.text import plural

_METHODS = {"sft": "SFT", "dpo": "DPO", "sft then dpo": "SFT, then DPO"}
_ORIGINS = {"answer": "your answer", "workspace": "found in the workspace", "measured": "measured"}


@dataclass(frozen=True)
class Reason:
    """A rule that holds, with its text and the facts behind it.

    ``side`` is the rule's section: right, wrong, gate or caution. ``source`` is the literature.
    """

    rule: str
    side: str
    text: str
    because: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class TradeoffRow:
    """One of the nine questions. ``points`` is rag or fine-tune, or empty if the question does not apply."""

    key: str
    ask: str
    points: str
    rag: str
    tuned: str
    source: str


@dataclass(frozen=True)
class Advice:
    """The verdict, a sentence that explains it, and its reasons. ``method`` is empty if nothing should be trained."""

    verdict: Verdict
    method: str
    sentence: str
    reasons: tuple[Reason, ...]
    contradictions: tuple[str, ...]
    changes: tuple[str, ...]
    next: str
    table: tuple[TradeoffRow, ...]
    measured: tuple[str, ...]


def give_advice(answers: InterviewAnswers, evidence: AdviceEvidence, by: Rules | None = None) -> Advice:
    """Apply the rules to ``answers`` and ``evidence``."""
    by = by or rules()
    target, metric = answers.values["target"], answers.values["metric"]
    assert isinstance(target, int | float)
    facts: dict[str, Fact] = {**answers.values, **evidence.facts(metric, target)}
    values = {name: _shown(facts.get(name), info, unit=False) or "?" for name, info in by.facts.items()}
    values |= evidence.text_values(metric)

    def holding(section: Sequence[AdviceRule]) -> list[AdviceRule]:
        return [rule for rule in section if rule.holds(facts)]

    def text(template: str) -> str:
        return template.format_map(values)

    right, wrong, gates = holding(by.right), holding(by.wrong), holding(by.gates)[:1]
    gate = gates[0] if gates else None
    verdict = _verdict(right, wrong, gate)
    method = holding(by.methods)[0] if verdict in ("fine-tune", "both") else None
    gate_decides = gate is not None and verdict == gate.verdict
    reasons = [*gates, *wrong, *right] if gate_decides else [*wrong, *right, *gates]
    reasons = [*holding(by.cautions), *reasons]  # they may contradict what follows
    step = gate if gate and gate_decides and gate.next else next(rule for rule in holding(by.steps) if rule.verdict == verdict)
    return Advice(
        verdict,
        method.key if method else "",
        _sentence(verdict, text(gate.text) if gate else "", method.key if method else "", text(method.text) if method else ""),
        tuple(_reason(rule, text(rule.text), facts, by) for rule in reasons),
        tuple(text(rule.text) for rule in holding(by.contradictions)),
        tuple(dict.fromkeys(text(rule.changes) for rule in reasons if rule.changes)),
        text(step.next or step.text),
        tuple(
            TradeoffRow(
                row.rule.key, row.ask, row.rule.points if row.rule.holds(facts) else "", row.rag, row.tuned, row.rule.source
            )
            for row in by.tradeoffs
        ),
        tuple(_measured(evidence, metric)),
    )


def _verdict(right: Sequence[AdviceRule], wrong: Sequence[AdviceRule], gate: AdviceRule | None) -> Verdict:
    if any(rule.points == "rag" for rule in wrong):
        return "both" if right and not gate else "rag"
    if gate:
        return gate.verdict  # type: ignore[return-value]
    return "fine-tune" if right else "prompt first"


def _sentence(verdict: Verdict, gate: str, method: str, why: str) -> str:
    match verdict:
        case "fine-tune":
            return f"Fine-tune the model with {_METHODS[method]}. {why}"
        case "both":
            return f"Use retrieval for the facts, and fine-tune how they are presented, with {_METHODS[method]}. {why}"
        case "rag":
            later = f" Training can wait: {gate[:1].lower()}{gate[1:]}" if gate else ""
            return f"Use retrieval, not training: the model lacks knowledge.{later}"
    return gate or "Start with a prompt: none of your answers requires training or retrieval."


def _reason(rule: AdviceRule, text: str, facts: Facts, by: Rules) -> Reason:
    """Return the reason for a rule, with facts such as ``calls per month: 20,000 (your answer)``."""
    defaults = {question.key: question.default for question in by.questions if question.default is not None}

    def stated(name: str) -> str:
        info, value = by.facts[name], facts.get(name)
        if value is None:
            return f"{info.label}: {'not measured' if info.origin == 'measured' else 'unknown'}"
        origin = "the default" if value == defaults.get(name, "") else _ORIGINS[info.origin]
        return f"{info.label}: {_shown(value, info)} ({origin})"

    return Reason(rule.key, rule.section, text, tuple(map(stated, rule.because(facts))), rule.source)


def _shown(value: Fact, info: FactInfo, *, unit: bool = True) -> str:
    if value is None:
        return ""
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "nothing"
    text = f"{value:,.10g}" if isinstance(value, int | float) else value
    if not unit or not info.unit:
        return text
    return f"{text}%" if info.unit == "%" else f"{text} {info.unit}"


def _measured(evidence: AdviceEvidence, metric: Fact) -> list[str]:
    """Return the rate, interval and evaluation of each evaluated arm."""
    arms = evidence.arms_by_metric(metric)
    return [
        f"{arm.arm}: {arm.percent:g}% of {plural(arm.total, 'row')} ({100 * arm.low:.0f}–{100 * arm.high:.0f}), from {arm.by}"
        for arm in (arms[name] for name in ARMS.values() if name in arms)
    ]
