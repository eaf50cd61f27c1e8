"""Correct: everything that ``evaluation.correct`` lists equals the reference: the answer, its fields, its number, or its calls."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from statistics import fmean
from typing import Any

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import CORRECT, PASS, ModelAnswer, Score, Scorer, in_words
from mlxtune.evaluation.scorers.json_parser import InvalidJSON, find_json, find_syntax_error, parse_json
from mlxtune.evaluation.scorers.number import score_number
from mlxtune.evaluation.scorers.output_text import strip_thinking

Leaves = Counter[tuple[str, object]]  # (JSON Pointer, (the depths at which it has an index of an array, value))
_MEMBERS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[{\]},]', re.DOTALL)  # strings, and what begins or ends members
_MARKUP = re.compile(r"<[^<>]*>(?:assistant|user|system|tool)?|\[/?[A-Z_]+\]|```\w*")
_BROKEN_CALL = re.compile(r"""\{\s*["'](?:name|function)["']?\s*:""")


def score_correct(answer: ModelAnswer, parts: Sequence[str]) -> Score:
    """Score whether each of ``parts`` equals the reference's. A failure has the classes of all that differ; with several parts,
    ``value`` is the share that is equal."""
    scores = [_PARTS[part](answer) if part in _PARTS else score_fields(answer, part) for part in parts]
    shares = [float(score.passed) if score.value is None else score.value for score in scores]
    value = fmean(shares) if len(parts) > 1 else scores[0].value
    failed = [score for score in scores if not score.passed]
    if not failed:
        return Score(True, value=value)
    kind, *others = dict.fromkeys(score.kind for score in failed)
    detail = "; ".join(dict.fromkeys(score.detail for score in failed))
    return Score(False, kind, detail, value, any(score.is_final for score in failed), tuple(others))


def score_answer(answer: ModelAnswer) -> Score:
    """Score whether the output equals the reference: as JSON values if both are JSON, else as stripped text.

    A failure is final if the output begins neither like the reference nor like JSON.
    """
    output, reference = strip_thinking(answer.output).strip(), (answer.reference or "").strip()
    if output == reference:
        return PASS
    with suppress(InvalidJSON):
        if leaves(parse_json(output)) == leaves(parse_json(reference)):
            return PASS
    error = find_syntax_error(output)
    is_final = not reference.startswith(output) and error is not None and not error.at_end
    return _different(answer, Score(False, "other", "the output differs from the reference", is_final=is_final))


def score_fields(answer: ModelAnswer, pointer: str = "") -> Score:
    """Score whether the output's JSON value, or the part at ``pointer``, equals the reference's. ``value`` is the F1 of its fields.

    A field is a leaf: a JSON Pointer with a value. The number 1 equals 1.0 but not true. F1 is twice the number of shared fields
    divided by the total in both. JSON in a fence or in prose counts too. The failure of an answer that was cut off is final if a
    complete field differs.
    """
    output = strip_thinking(answer.output).strip()
    expected, actual = (_fields(text, pointer) for text in (answer.reference or "", output))
    if not expected:
        return Score(False, "no_reference", f"the reference has no {pointer or 'JSON'}")
    score = _compared(answer, expected, actual)
    return score if score.passed else replace(score, is_final=bool(_below(_complete_leaves(output), pointer) - expected))


def score_calls(answer: ModelAnswer) -> Score:
    """Score whether the output makes the reference's calls: equal names and arguments, in the same order. ``value`` is their F1.

    A reference without calls requires an answer without calls. An answer ends with its calls: text after them takes them back.
    """
    (expected, may_go_on), (actual, goes_on) = map(_calls, (answer.reference or "", strip_thinking(answer.output)))
    if len(expected) == len(actual):
        score = _compared(answer, leaves(expected), leaves(actual))
        if score.passed and actual and goes_on and not may_go_on:
            return _different(answer, Score(False, "text_after_it", "text follows the calls", 0.0))
        return score if score.passed else replace(score, kind=re.sub(r"^/\d+", "", score.kind) or "malformed_call")
    shared = leaves(expected) & leaves(actual) if expected and actual else Counter()
    value = 2 * shared.total() / (leaves(expected).total() + leaves(actual).total())
    kind, detail = "number_of_calls" if actual else "no_call", f"{len(actual)} calls, expected {len(expected)}"
    return _different(answer, Score(False, kind, detail, value))


def _compared(answer: ModelAnswer, expected: Leaves, actual: Leaves) -> Score:
    shared = expected & actual
    value = 2 * shared.total() / (expected.total() + actual.total())
    if value == 1:
        return Score(True, value=1.0)
    wrong = sorted(path for path, _ in (expected | actual) - shared if path) or ["/"]
    why = f"differs from the reference: {one_line(', '.join(dict.fromkeys(wrong)), 160)}"
    return _different(answer, Score(False, one_line(wrong[0], 40), why, value))


def _different(answer: ModelAnswer, score: Score) -> Score:
    """Return ``score``, a failure, with the class and the reason of an answer that did not end on its own if it is one."""
    cut = answer.interruption
    return replace(score, kind=cut, detail=f"{in_words(cut)}, and {score.detail}") if cut else score


def leaves(value: Any) -> Leaves:
    """Return the leaves of a JSON value, including empty objects and arrays."""
    counts: Leaves = Counter()
    stack: list[tuple[str, tuple[int, ...], Any]] = [("", (), value)]
    while stack:
        path, arrays, item = stack.pop()
        if isinstance(item, dict | list) and item:
            members = item.items() if isinstance(item, dict) else enumerate(item)
            below = arrays if isinstance(item, dict) else (*arrays, path.count("/"))
            stack += [(f"{path}/{str(name).replace('~', '~0').replace('/', '~1')}", below, member) for name, member in members]
        else:
            counts[path, (arrays, (type(item).__name__, str(item)) if isinstance(item, bool | dict | list) else item)] += 1
    return counts


@lru_cache(maxsize=4096)  # free arms compare the same texts again and again
def _fields(text: str, pointer: str) -> Leaves:
    match = find_json(text)
    return _below(leaves(match[0]) if match else Counter(), pointer)


def _below(found: Leaves, pointer: str) -> Leaves:
    return Counter({leaf: count for leaf, count in found.items() if f"{leaf[0]}/".startswith(f"{pointer}/")})


@lru_cache(maxsize=4096)
def _complete_leaves(text: str) -> Leaves:
    """Return the leaves of the complete members of ``text`` if it is JSON that was cut off; otherwise, none."""
    error, open_, end, closing = find_syntax_error(text), "", 0, ""
    if error is None or not error.at_end:
        return Counter()
    for match in _MEMBERS.finditer(text):
        if match[0] in "[{":
            open_ = {"[": "]", "{": "}"}[match[0]] + open_
        elif match[0] in "]},":
            open_ = open_[match[0] != "," :]
            end, closing = match.end() - (match[0] == ","), open_
    with suppress(InvalidJSON):  # nothing is complete, or beyond the parser's limits
        return leaves(parse_json(text[:end] + closing))
    return Counter()


def _calls(text: str) -> tuple[list[Any], bool]:
    """Return the calls in ``text``, one, a list, or several, also malformed ones, and whether more than markup follows the last one."""
    calls: list[Any] = []
    after = ""  # of the last call, without other JSON
    while match := find_json(text):
        value, before, text = match
        calls += _BROKEN_CALL.findall(before)
        items, after = value if isinstance(value, list) else [value], after + before
        if any(isinstance(item, dict) and not item.keys().isdisjoint(("name", "function")) for item in items):
            calls, after = [*calls, *map(_call, items)], ""
    return calls + _BROKEN_CALL.findall(text), re.search(r"\w", _MARKUP.sub("", after + text)) is not None


def _call(value: Any) -> Any:
    """Return the name and the arguments, which may be JSON in a string, of a call, or ``value`` as it is if it is malformed."""
    call = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return value
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str):
        match = find_json(arguments)
        arguments = match[0] if match and not (match[1] + match[2]).strip() else None
    return {"name": call["name"], "arguments": arguments} if isinstance(arguments, dict) else value


_PARTS: dict[str, Callable[[ModelAnswer], Score]] = {
    "answer": score_answer, "fields": score_fields, "number": score_number, "calls": score_calls,
}  # fmt: skip
SCORER = Scorer(
    CORRECT, "correct",
    lambda contract: partial(score_correct, parts=contract.section.correct) if contract.section.correct else None,
    needs_reference=True, replaces_json=True,
)  # fmt: skip
