"""From answers and evidence to a verdict: pure, and nothing in it that the rules do not say.

What points to retrieval and what points to training is counted apart. A gate keeps training back, whatever points to it: the first
one that holds says what comes first instead, unless retrieval is called for anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.advice.answers import Answers
from mlxtune.advice.conditions import Fact, Facts
from mlxtune.advice.evidence import NAMES, Evidence
from mlxtune.advice.rules import Known, Rule, Rules, Verdict, rules
from mlxtune.core.text import plural


@dataclass(frozen=True)
class Reason:
    """Why: a rule that holds, what it says, and the answers and numbers that it rests on.

    ``side`` is the rule's section: right, wrong, gate or caution. ``source`` is where the field says so.
    """

    rule: str
    side: str
    text: str
    because: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Asked:
    """One of the nine questions: ``points`` to rag or fine-tune where it applies here, and is empty where it does not."""

    key: str
    ask: str
    points: str
    rag: str
    tuned: str
    source: str


@dataclass(frozen=True)
class Advice:
    """The verdict in a word and a sentence, and all that it rests on. ``method`` is empty where nothing should be trained."""

    verdict: Verdict
    method: str
    sentence: str
    reasons: tuple[Reason, ...]
    contradictions: tuple[str, ...]
    changes: tuple[str, ...]
    next: str
    table: tuple[Asked, ...]
    measured: tuple[str, ...]


def verdict(answers: Answers, evidence: Evidence, by: Rules | None = None) -> Advice:
    """What the rules make of ``answers`` and ``evidence``."""
    by = by or rules()
    facts = _facts(answers, evidence)
    texts = _texts(facts, by) | evidence.named(facts["metric"])
    right = [rule for rule in by.right if rule.holds(facts)]
    wrong = [rule for rule in by.wrong if rule.holds(facts)]
    gate = next((rule for rule in by.gates if rule.holds(facts)), None)
    cautions = [rule for rule in by.cautions if rule.holds(facts)]
    word = _word(right, wrong, gate)
    method = next(rule for rule in by.methods if rule.holds(facts)) if word in ("fine-tune", "both") else None
    held = [gate] if gate else []
    told = [*held, *wrong, *right, *cautions] if gate and word == gate.verdict else [*wrong, *right, *held, *cautions]
    step = gate if gate and word == gate.verdict and gate.next else next(
        rule for rule in by.steps if rule.verdict == word and rule.holds(facts)
    )  # fmt: skip
    return Advice(
        word,
        method.key if method else "",
        _sentence(word, gate, method, texts),
        tuple(_reason(rule, facts, texts, by) for rule in told),
        tuple(rule.text.format_map(texts) for rule in by.contradictions if rule.holds(facts)),
        tuple(dict.fromkeys(rule.changes.format_map(texts) for rule in told if rule.changes)),
        (step.next or step.text).format_map(texts),
        tuple(
            Asked(row.rule.key, row.ask, row.rule.points if row.rule.holds(facts) else "", row.rag, row.tuned, row.rule.source)
            for row in by.rows
        ),
        tuple(_measured(evidence, facts["metric"])),
    )


def _facts(answers: Answers, evidence: Evidence) -> dict[str, Fact]:
    target = answers.values["target"]
    assert isinstance(target, int | float)
    return {**answers.values, **evidence.facts(answers.values["metric"], target)}


def _word(right: Sequence[Rule], wrong: Sequence[Rule], gate: Rule | None) -> Verdict:
    retrieve = any(rule.points == "rag" for rule in wrong)
    if retrieve:
        return "both" if right and not gate else "rag"
    if gate:
        return gate.verdict  # type: ignore[return-value]
    return "fine-tune" if right else "prompt first"


def _sentence(word: Verdict, gate: Rule | None, method: Rule | None, texts: dict[str, str]) -> str:
    why = method.text.format_map(texts) if method else ""
    match word:
        case "fine-tune":
            return f"Fine-tune it, with {_called(method)}. {why}"
        case "both":
            return f"Retrieve the facts, and fine-tune for how they are put, with {_called(method)}. {why}"
        case "rag":
            later = f" Training waits: {_lower(gate.text.format_map(texts))}" if gate else ""
            return f"Retrieve, do not train: what is missing is what it knows.{later}"
    return gate.text.format_map(texts) if gate else "Begin with a prompt: nothing that you say needs training or retrieval."


def _called(method: Rule | None) -> str:
    return {"sft": "SFT", "dpo": "DPO", "sft then dpo": "SFT, then DPO"}[method.key] if method else ""


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _reason(rule: Rule, facts: Facts, texts: dict[str, str], by: Rules) -> Reason:
    because = tuple(_tie(name, facts, by.facts[name]) for name in rule.because(facts))
    return Reason(rule.key, rule.section, rule.text.format_map(texts), because, rule.source)


def _tie(name: str, facts: Facts, known: Known) -> str:
    """A fact in the words of whoever it is from: ``you said calls a month: 20,000``."""
    who = {"answer": "you said", "workspace": "found", "measured": "measured"}[known.origin]
    return f"{who} {known.label}: {_shown(facts.get(name), known) or 'nothing'}"


def _shown(value: Fact, known: Known) -> str:
    if value is None:
        return ""
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "nothing"
    text = f"{value:,.10g}" if isinstance(value, int | float) else value
    return f"{text} {known.unit}".strip()


def _texts(facts: Facts, by: Rules) -> dict[str, str]:
    """Facts as they stand in sentences, without their units."""
    return {name: _shown(facts.get(name), Known(known.origin, known.label)) or "?" for name, known in by.facts.items()}


def _measured(evidence: Evidence, metric: Fact) -> list[str]:
    """Each arm that was measured: its rate, the interval, and by which evaluation."""
    found = evidence.on(metric)
    return [
        f"{one.arm}: {one.percent:g} % of {plural(one.total, 'row')} ({100 * one.low:.0f} to {100 * one.high:.0f}), by {one.by}"
        for arm in NAMES.values()
        if (one := found.get(arm))
    ]
