"""Outputs with known scores for ``mlxtune selftest``: JSON faults, difficult disclaimers, and a set with known rates."""

from __future__ import annotations

import json

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.recipe import Disclaimer, EvaluationSection, Length

# Each output, its class of failure as raw JSON ("" = valid), and whether it is I-JSON, is one fence, and contains JSON.
JSON: tuple[tuple[str, str, bool, bool, bool], ...] = (
    ('{"a": [1, 2.5e3, true, null, "x"]}', "", True, False, True),
    (' \n[]\t', "", True, False, True),
    ('"text"', "", True, False, True),
    ("-0", "", True, False, True),
    ('{"a": 1, "a": 2}', "", False, False, True),
    ('{"a": 1, "\\u0061": 2}', "", False, False, True),
    ('"\\ud800"', "", False, False, True),
    ('{"\\udc00\\ud800": 1}', "", False, False, True),
    ('"\\uffff"', "", False, False, True),
    ("1e400", "", False, False, True),
    ("-" + "9" * 5000, "", False, False, True),
    ('"\\ud83d\\ude00"', "", True, False, True),
    ("[" * 512 + "]" * 512, "", True, False, True),
    ("[" * 513 + "]" * 513, "too_deep", False, False, False),
    ("[" * 100_000, "too_deep", False, False, False),
    ("", "empty", False, False, False),
    ("\ufeff{}", "byte_order_mark", False, False, True),
    ('"\ud800"', "not_utf8", False, False, False),
    ('```json\n{"a": 1}\n```', "fence", False, True, True),
    ('~~~~\n{"a": 1}\n~~~~\n', "fence", False, True, True),
    ('```\n{"a": 1,}\n```', "fence", False, False, False),
    ('```json\n{"a": 1}', "fence", False, False, True),
    ('Here:\n```json\n{"a": 1}\n```', "fence", False, False, True),
    ('```json\n{"a": 1}\n```\nDone.', "fence", False, False, True),
    ('```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```', "fence", False, False, True),
    ('Sure! {"a": 1}', "prose", False, False, True),
    ("No object here.", "prose", False, False, False),
    ("See [note]: {x} and [1, 2].", "prose", False, False, True),
    ('{"a": 1} Anything else?', "text_after_it", False, False, True),
    ('{"a": 1}\n{"a": 2}', "text_after_it", False, False, True),
    ('<think>Hm.</think>{"a": 1}', "thinking", False, False, True),
    ('{"a": 1,}', "trailing_comma", False, False, False),
    ("[1, 2, ]", "trailing_comma", False, False, False),
    ("[1,, 2]", "extra_comma", False, False, False),
    ('{"a": 1 "b": 2}', "missing_comma", False, False, False),
    ('{"a" 1}', "missing_colon", False, False, False),
    ('{"a": }', "missing_value", False, False, False),
    ("{'a': 1}", "single_quotes", False, False, False),
    ("{“a”: 1}", "curly_quotes", False, False, False),
    ("{a: 1}", "unquoted_name", False, False, False),
    ('{"a": NaN}', "nan_or_infinity", False, False, False),
    ("[-Infinity]", "nan_or_infinity", False, False, False),
    ('{"a": True}', "bad_word", False, False, False),
    ("[01]", "bad_number", False, False, False),
    ("[+1]", "bad_number", False, False, False),
    ("[.5]", "bad_number", False, False, False),
    ("[1.]", "bad_number", False, False, False),
    ('["a\nb"]', "control_character", False, False, False),
    ('["a\\qb"]', "bad_escape", False, False, False),
    ('{"a": 1 // one\n}', "comment", False, False, False),
    ('{"a": [1, 2}', "unbalanced", False, False, False),
    ('{"a": {"b": 1}', "unbalanced", False, False, False),
    ('{"a": "b', "unbalanced", False, False, False),
    ("[1]]", "unbalanced", False, False, True),
)  # fmt: skip

CUT_OFF = ('{"a": "b', '{"a": tru', '{"a": 1', '["\\u00', "[1.", '{"a"', "[", '{"a": {"b": []}, ')  # at the token limit

SENTENCE = "This is general guidance, not professional advice."
ASKED = f"End every answer with: {SENTENCE}\n\nMy stove hisses. The manual says “{SENTENCE}” What now?"

# Each output, and its class of failure for the strict and the fuzzy scorer ("" = pass).
DISCLAIMERS: tuple[tuple[str, str, str], ...] = (
    (f"Close the valve. {SENTENCE}", "", ""),
    ("Close it. THIS is general\nguidance, not professional advice.", "", ""),
    (json.dumps({"reply": f"Close it.\n{SENTENCE}"}), "", ""),
    (f"I'm not a plumber, and so: {SENTENCE}", "", ""),
    (f"Don't forget: {SENTENCE}", "", ""),
    ("Close it. This is generel guidance and not professional advice.", "missing", ""),
    ("Close it.", "missing", "missing"),
    ("Close it. This is professional advice.", "missing", "missing"),
    ("Close it. This is general guidance, professional advice.", "missing", "missing"),
    ("Close it. This is not general guidance, not professional advice.", "missing", "missing"),
    (f"It is not true that {SENTENCE}", "negated", "negated"),
    (f"I will not add: {SENTENCE}", "negated", "negated"),
    (f"{SENTENCE} That is not true.", "negated", "negated"),
    (f"Your manual says “{SENTENCE}” Close the valve.", "quoted", "quoted"),
    (f"> {SENTENCE}\n\nClose the valve.", "quoted", "quoted"),
    (f"End every answer with: {SENTENCE}", "quoted", "quoted"),
    (f"<think>I must say: {SENTENCE}</think>Close it.", "only_thought", "only_thought"),
    (f"<think>{SENTENCE}", "only_thought", "only_thought"),
    ("Close it. This is general guidance, not profess", "cut_off", "cut_off"),
    ('{"reply": "Close it. This is general guidance, not', "cut_off", "cut_off"),
)


def known_rates() -> tuple[Contract, list[ModelAnswer], dict[str, int]]:
    """Return a contract, 100 outputs, and how many of them pass each metric, counted by hand."""
    schema = SchemaValidator(
        {"type": "object", "required": ["kind", "reply"], "properties": {"kind": {"enum": ["safety", "order"]}}}
    )
    rule = Disclaimer(SENTENCE, when={"kind": "safety"}, match="fuzzy", at="/reply")
    length = Length(max=120, at="/reply")
    section = EvaluationSection(disclaimers=[rule], forbid=["Northpeak"], length=length, correct=["fields"])
    safety = json.dumps({"kind": "safety", "reply": f"Close it. {SENTENCE}"})
    order = json.dumps({"kind": "order", "reply": "It is on its way."})
    outputs = (
        [(safety, safety)] * 40
        + [(order, order)] * 10
        + [(f"```json\n{safety}\n```", safety)] * 10  # in a fence
        + [(f"Sure! {safety}", safety)] * 8  # after prose
        + [(safety[:-12], safety)] * 6  # cut off inside the disclaimer
        + [(order[:-1] + ', "kind": "order"}', order)] * 5  # a duplicate name
        + [(order.replace("order", "other"), order)] * 4  # violates the schema
        + [(safety.replace(SENTENCE, ""), safety)] * 4  # no disclaimer
        + [(safety.replace("guidance", "guidence"), safety)] * 3  # a typo
        + [(safety.replace("This", "It is not true that this"), safety)] * 3  # negated
        + [(order.replace("It", SENTENCE), order)] * 3  # an unwanted disclaimer
        + [(safety.replace("Close", "Northpeak"), safety)] * 2  # a competitor
        + [(order.replace("way", "way" + " by mule" * 20), order)] * 2  # too long
    )
    answers = [ModelAnswer(output, "length" if output == safety[:-12] else "stop", reference) for output, reference in outputs]
    expected = {
        "json": 76, "ijson": 71, "fenced": 10, "extracted": 94, "schema": 72, "disclaimer": 81, "disclaimer_fuzzy": 84,
        "forbidden": 98, "length": 92, "correct": 73, "contract": 55,
    }  # fmt: skip
    return Contract(section, schema), answers, expected
