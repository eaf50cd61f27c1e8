"""Is the right disclaimer there, and no wrong one? Strictly by its words, and apart from that nearly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import HOLDS, Answer, Score
from mlxtune.evaluation.scorers.json_find import at_pointer, find, strings
from mlxtune.evaluation.scorers.phrases import TooSlow, ends_inside, places
from mlxtune.evaluation.scorers.said import doubt
from mlxtune.evaluation.scorers.words import answered, spoken
from mlxtune.recipe import Disclaimer


def right_disclaimer(answer: Answer, rules: Sequence[Disclaimer], fuzzy: bool = False) -> Score:
    """Whether every disclaimer that the reference's fields call for is in the output, where it belongs, and none of the others.

    Only what the output says counts: not a negated one, a quotation, a part, or a thought. ``fuzzy`` lets fuzzy phrases
    match nearly; else they match by their words. Without a reference, only rules without ``when`` and ``unless`` are judged.
    """
    reference = find(answer.reference) if answer.reference is not None else None
    try:
        for rule in rules:
            if (rule.when or rule.unless) and not reference:
                continue
            needed = not reference or _called_for(rule, reference[0])
            score = _needed(answer, rule, fuzzy) if needed else _unneeded(answer, rule, fuzzy)
            if not score.holds:
                return score
    except TooSlow as pattern:
        return Score(False, "pattern too slow", f"{one_line(str(pattern), 60)} did not end in time")
    return HOLDS


def _called_for(rule: Disclaimer, reference: Any) -> bool:
    def agree(fields: dict[str, Any]) -> bool:
        return isinstance(reference, dict) and all(name in reference and reference[name] == fields[name] for name in fields)

    return (not rule.when or agree(rule.when)) and not (rule.unless and agree(rule.unless))


def _needed(answer: Answer, rule: Disclaimer, fuzzy: bool) -> Score:
    said, why = _heard(_texts(answer, rule.at), answer, rule, fuzzy)
    if said:
        return HOLDS
    if rule.at != "anywhere" and not why and _heard(spoken(answered(answer.output)), answer, rule, fuzzy)[0]:
        return Score(False, "wrong place", f"“{rule.name}” is not in {rule.at}")
    if not why:
        texts = spoken(answered(answer.output))
        if texts and any(ends_inside(texts[-1], phrase) for phrase in rule.phrases if phrase.match != "regex"):
            why = "cut off"
        elif _heard([answer.output], answer, rule, fuzzy)[0]:
            why = "only thought"
    return Score(False, why or "missing", f"“{rule.name}” is {why or 'missing'}")


def _unneeded(answer: Answer, rule: Disclaimer, fuzzy: bool) -> Score:
    said, _ = _heard(spoken(answered(answer.output)), answer, rule, fuzzy)
    return Score(False, "out of place", f"“{rule.name}” does not belong here") if said else HOLDS


def _heard(texts: list[str], answer: Answer, rule: Disclaimer, fuzzy: bool) -> tuple[bool, str]:
    """Whether one of the rule's phrases is said in ``texts``, and if not, why the places where one stands do not count."""
    why = ""
    for text in texts:
        for phrase in rule.phrases:
            for before, found, after in places(text, phrase, fuzzy):
                reason = doubt(before, found, after, answer.prompt)
                if not reason:
                    return True, ""
                why = why or reason
    return False, why


def _texts(answer: Answer, at: str) -> list[str]:
    """The texts of the output in which a disclaimer may stand."""
    output = answered(answer.output)
    if at.startswith("/"):
        found = find(output)
        return strings(at_pointer(found[0], at)) if found else []
    texts = spoken(output)
    return texts if at == "anywhere" else [_last_paragraph(texts[-1])] if texts else []


def _last_paragraph(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()).rsplit("\n\n", 1)[-1]
