"""Advice as a document: the verdict, what was measured, the reasons, and what would change it."""

from collections.abc import Iterator

from mlxtune.advice.evidence import ARMS, AdviceEvidence
from mlxtune.advice.rules import AdviceRule, Fact, FactInfo, rules
from mlxtune.advice.verdict import Advice
from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.blocks import Block, Cell, Column, Document, Heading, IntervalBar, Mark, Style, Table, Text, text
from mlxtune.present.labels import percent
from mlxtune.present.next_step import next_step_document
from mlxtune.present.words import WORDS

_MARKS: dict[str, Mark] = {
    "fine-tune": "success", "both": "success", "rag": "primary", "prompt_first": "primary", "not_yet": "warning",
}  # fmt: skip
_SIDES: dict[str, Mark] = {"right": "success", "wrong": "primary", "gate": "warning", "caution": "warning"}
_METHODS = {"sft": "SFT", "dpo": "DPO", "sft_then_dpo": "SFT, then DPO"}
_ORIGINS = {"answer": "your answer", "workspace": "found in the workspace", "measured": "measured"}
_POINTS: dict[str, tuple[str, Style]] = {"rag": ("retrieve", "primary"), "fine-tune": ("fine-tune", "success"), "": ("·", "faint")}


def advice_document(advice: Advice, evidence: AdviceEvidence) -> Document:
    changes = dict.fromkeys(rule_text(rule, advice, evidence, rule.changes) for rule in advice.reasons if rule.changes)
    return (
        Heading("Advice", evidence.recipe or "based on the answers alone"),
        verdict_block(advice, evidence),
        *measured_blocks(evidence, advice.facts["metric"]),
        Heading("Why"),
        *(block for rule in advice.reasons for block in _reason(rule, advice, evidence)),
        *_listing("Contradictions", [text(rule_text(rule, advice, evidence), mark="error") for rule in advice.contradictions]),
        tradeoff_table(advice),
        *_listing("What would change this", [text(one, mark="muted") for one in changes]),
        *(text(f"{id} was ignored: the contract has changed since then", "muted", "muted") for id in evidence.ignored),
        *([text(f"No held-out rows: {evidence.split_error}", "muted", "muted")] if evidence.split_error else []),
        *next_step_document(advice.next),
    )


def verdict_block(advice: Advice, evidence: AdviceEvidence) -> Text:
    method = f"with {_METHODS[advice.method.key]}. {rule_text(advice.method, advice, evidence)}" if advice.method else ""
    gate = rule_text(advice.gate, advice, evidence) if advice.gate else ""
    sentence = {
        "fine-tune": f"Fine-tune {method}",
        "both": f"Use retrieval for the facts, and fine-tune {method}",
        "rag": "Use retrieval, not training: the model lacks knowledge.",
    }.get(advice.verdict, gate or "Start with a prompt: none of your answers requires training or retrieval.")
    return text(sentence, "bold", _MARKS[advice.verdict])


def measured_blocks(evidence: AdviceEvidence, metric: Fact) -> tuple[Block, ...]:
    arms = evidence.arms_by_metric(metric)
    rows = []
    for arm in (arm for arm in ARMS.values() if arm in arms):
        rate, id = arms[arm]
        name = Cell(arm, "primary" if arm == ARMS["tuned"] else "")
        limits = Cell(f"{100 * rate.low:.0f} to {100 * rate.high:.0f}", "muted")
        bar = Cell(bar=IntervalBar(rate.low, rate.share, rate.high))
        rows.append((name, Cell(percent(rate.share), "bold"), limits, bar, Cell(f"{rate.total:,}", "muted"), Cell(id, "muted")))
    columns = (Column(), Column("rate", right=True), Column("95% interval"), Column(), Column("rows", right=True), Column("evaluation", priority=1))  # fmt: skip
    return (Table("Measured", "", columns, tuple(rows)),) if rows else ()


def tradeoff_table(advice: Advice | None) -> Table:
    points = advice.points if advice else {}
    rows = tuple((Cell(row.ask), Cell(*_POINTS[points.get(row.key, "")])) for row in rules().tradeoffs)
    return Table("RAG or fine-tuning", "a dot: does not apply", (Column(), Column()), rows)


def tradeoffs_document(advice: Advice | None) -> Document:
    blocks: list[Block] = []
    for row in rules().tradeoffs:
        points, style = _POINTS[advice.points[row.key] if advice else ""]
        blocks += [Heading(row.ask), Text((("points to ", "muted"), (points, style)))] if points != "·" else [Heading(row.ask)]
        blocks += [text(f"RAG {row.rag}"), text(f"A tuned model {row.tuned}"), text(row.source, "faint")]
    return tuple(blocks)


def rule_text(rule: AdviceRule, advice: Advice, evidence: AdviceEvidence, template: str = "") -> str:
    """Return a rule's text, or another ``template`` of it, with the facts in it."""
    metric = advice.facts["metric"]
    best = evidence.best(metric)
    values = {name: _shown(advice.facts.get(name), info, unit=False) or "?" for name, info in rules().facts.items()}
    values |= {
        "best_arm": best or "", "best_name": WORDS.advice_arms.get(best or "", ""), "recipe": evidence.recipe or "RECIPE",
        "measured_rate": metric_label(str(metric) if str(metric) in evidence.arms else CONTRACT),
    }  # fmt: skip
    return (template or rule.text).format_map(values)


def because(rule: AdviceRule, advice: Advice) -> str:
    """Return the facts that made a rule hold, with their origins: ``calls per month: 20,000 (your answer)``."""
    defaults = {question.key: question.default for question in rules().questions if question.default is not None}

    def stated(name: str) -> str:
        info, value = rules().facts[name], advice.facts.get(name)
        if value is None:
            return f"{info.label}: {'not measured' if info.origin == 'measured' else 'unknown'}"
        origin = "the default" if value == defaults.get(name, "") else _ORIGINS[info.origin]
        return f"{info.label}: {_shown(value, info)} ({origin})"

    return "; ".join(map(stated, rule.because(advice.facts)))


def brief_reasons(advice: Advice) -> Document:
    rows = [("error", rule) for rule in advice.contradictions] + [(_SIDES[rule.section], rule) for rule in advice.reasons]
    return tuple(
        Text(((rule.key.replace("-", " "), "bold"), (f": {because(rule, advice)}", "muted")), mark)  # type: ignore[arg-type]
        for mark, rule in rows
    )


def _reason(rule: AdviceRule, advice: Advice, evidence: AdviceEvidence) -> Iterator[Text]:
    if rule is not advice.gate or not advice.gate_decides:  # then it is the verdict
        yield text(rule_text(rule, advice, evidence), mark=_SIDES[rule.section])
    yield text(f"  {because(rule, advice)}", "muted")
    if rule.source:
        yield text(f"  {rule.source}", "faint")


def _listing(title: str, texts: list[Text]) -> Document:
    return (Heading(title), *texts) if texts else ()


def _shown(value: Fact, info: FactInfo, *, unit: bool = True) -> str:
    if value is None:
        return ""
    if isinstance(value, frozenset):
        return ", ".join(sorted(value)) or "nothing"
    number = f"{value:,.10g}" if isinstance(value, int | float) else one_line(value)
    if not unit or not info.unit:
        return number
    return f"{number}%" if info.unit == "%" else f"{number} {info.unit}"
