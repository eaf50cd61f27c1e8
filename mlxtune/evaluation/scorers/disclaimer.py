"""Correct disclaimer: the output has every disclaimer that the reference requires, and no others. Matching can be fuzzy."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import one_line
from mlxtune.data.rows import json_strings
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, field_value, find_json, parse_json, resolve_pointer
from mlxtune.evaluation.scorers.negation import discount_reason
from mlxtune.evaluation.scorers.output_text import strip_thinking, visible_texts
from mlxtune.evaluation.scorers.phrase_match import PatternTimeout, find_phrase, truncated_inside
from mlxtune.recipe import Disclaimer

if TYPE_CHECKING:
    from mlxtune.evaluation.contract import Contract


def score_disclaimers(answer: ModelAnswer, rules: Sequence[Disclaimer], fuzzy: bool = False) -> Score:
    """Score whether the output contains every disclaimer that the reference's fields require, in its place, and no others.

    Disclaimers that are negated, quoted, incomplete or only in the reasoning do not count. With ``fuzzy``, fuzzy phrases match
    approximately; otherwise, by their words. Without a reference, only rules without ``when`` and ``unless`` are checked; with one
    that is not JSON, they fail.
    """
    reference = find_json(answer.reference) if answer.reference is not None else None
    try:
        for rule in rules:
            if (rule.when or rule.unless) and not reference:
                if answer.reference is None:
                    continue
                why = f"the reference is not JSON, so it is unknown whether “{rule.name}” is required"
                return Score(False, "no_reference", why)
            if not reference or _called_for(rule, reference[0]):
                if not (score := _required(answer, rule, fuzzy)).passed:
                    return score
            elif _stated(visible_texts(strip_thinking(answer.output)), answer, rule, fuzzy)[0]:
                return Score(False, "out_of_place", f"“{rule.name}” does not belong here")
    except PatternTimeout as pattern:
        return Score(False, "pattern_too_slow", f"the pattern {one_line(str(pattern), 60)} timed out")
    return PASS


def required_by(reference: str, rules: Sequence[Disclaimer]) -> tuple[str, ...]:
    """Return the names of the conditional disclaimers among ``rules`` that ``reference`` requires."""
    found = find_json(reference)
    return tuple(rule.name for rule in rules if found and (rule.when or rule.unless) and _called_for(rule, found[0]))


def _called_for(rule: Disclaimer, reference: Any) -> bool:
    when, unless = (
        all(field_value(reference, name) == value for name, value in fields.items()) for fields in (rule.when, rule.unless)
    )
    return when and not (rule.unless and unless)


def _required(answer: ModelAnswer, rule: Disclaimer, fuzzy: bool) -> Score:
    present, why = _stated(_texts(answer, rule.at), answer, rule, fuzzy)
    if present:
        return PASS
    if not why:
        texts = visible_texts(strip_thinking(answer.output))
        if rule.at != "anywhere" and _stated(texts, answer, rule, fuzzy)[0]:
            return Score(False, "wrong_place", f"“{rule.name}” is not in {rule.at}")
        if texts and any(truncated_inside(texts[-1], phrase) for phrase in rule.phrases if phrase.match != "regex"):
            why = "cut_off"
        elif _stated([answer.output], answer, rule, fuzzy)[0]:
            why = "only_thought"
    return Score(False, why or "missing", f"“{rule.name}” is {in_words(why or 'missing')}")


def _stated(texts: list[str], answer: ModelAnswer, rule: Disclaimer, fuzzy: bool) -> tuple[bool, str]:
    """Return whether ``texts`` state one of the rule's phrases, and if not, why its occurrences are discounted."""
    why = ""
    for text in texts:
        for phrase in rule.phrases:
            for before, match, after in find_phrase(text, phrase, fuzzy):
                reason = discount_reason(before, match, after, answer.prompt)
                if not reason:
                    return True, ""
                why = why or reason
    return False, why


def _texts(answer: ModelAnswer, at: str) -> list[str]:
    """Return the texts of the output in which a disclaimer counts, given the rule's ``at``."""
    output = strip_thinking(answer.output)
    if at.startswith("/"):
        match = find_json(output)
        return [*json_strings(resolve_pointer(match[0], at))] if match else []
    texts = visible_texts(output)
    if at == "anywhere":
        return texts
    return ["\n".join(text.rstrip().splitlines()).rsplit("\n\n", 1)[-1] for text in texts[-1:]]


def add_missing_disclaimers(answer: str, rules: Sequence[Disclaimer]) -> str | None:
    """Return the reference ``answer`` with the missing disclaimers that its own fields require.

    In a JSON answer, a disclaimer is appended to the field that the rule names, or else to the longest string; in any other answer,
    it becomes a new paragraph. Returns ``None`` if nothing is missing or if another fault would remain, such as a misplaced one.
    """
    fixed = answer
    for rule in rules:
        missing = score_disclaimers(ModelAnswer(fixed, reference=fixed), [rule]).kind == "missing"
        sentence = next((phrase.text for phrase in rule.phrases if phrase.match != "regex"), "")
        if missing and sentence:
            fixed = _added(fixed, sentence, rule.at)
    return fixed if fixed != answer and score_disclaimers(ModelAnswer(fixed, reference=fixed), rules).passed else None


def _added(answer: str, sentence: str, at: str) -> str:
    try:
        value: Any = parse_json(answer)
    except InvalidJSON:
        return f"{answer.rstrip()}\n\n{sentence}" if answer.strip() else answer
    field = resolve_pointer(value, at) if at.startswith("/") else max(json_strings(value), key=len, default=None)
    if not isinstance(field, str):
        return answer
    separator = "\n\n" if at == "last paragraph" else " "
    extended = f"{field.rstrip()}{separator}{sentence}"
    for ascii_only in (False, True):  # keeps the rest of the text unchanged if the field can be found in it
        old, new = (json.dumps(text, ensure_ascii=ascii_only) for text in (field, extended))
        if answer.count(old) == 1:
            return answer.replace(old, new)
    return answer


def _has_fuzzy_phrase(contract: Contract) -> bool:
    return any(phrase.match == "fuzzy" for rule in contract.section.disclaimers for phrase in rule.phrases)


STRICT = Scorer(
    "disclaimer", "correct disclaimer",
    lambda contract: partial(score_disclaimers, rules=contract.section.disclaimers) if contract.section.disclaimers else None,
    required=lambda contract: not _has_fuzzy_phrase(contract), replaces_json=True,
)  # fmt: skip
FUZZY = Scorer(
    "disclaimer_fuzzy",
    "disclaimer, fuzzy",
    lambda contract: (
        partial(score_disclaimers, rules=contract.section.disclaimers, fuzzy=True) if _has_fuzzy_phrase(contract) else None
    ),
    replaces_json=True,
)
