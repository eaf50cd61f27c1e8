"""Outputs with known scores for ``mlxtune selftest``: JSON faults, difficult disclaimers, and a set with known rates."""

import json

from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.recipe import Disclaimer, EvaluationSection, Length

# Each output, its class of failure as raw JSON ("" = valid), and whether it contains JSON.
JSON: tuple[tuple[str, str, bool], ...] = (
    ('{"a": [1, 2.5e3, true, null, "x"]}', "", True),
    (' \n[]\t', "", True),
    ('"text"', "", True),
    ("-0", "", True),
    ('{"a": 1, "a": 2}', "", True),
    ('{"a": 1, "\\u0061": 2}', "", True),
    ('"\\ud800"', "", True),
    ('{"\\udc00\\ud800": 1}', "", True),
    ('"\\uffff"', "", True),
    ("1e400", "", True),
    ("1e" + "9" * 30, "number_too_large", False),
    ("-" + "9" * 5000, "", True),
    ('"\\ud83d\\ude00"', "", True),
    ("[" * 512 + "]" * 512, "", True),
    ("[" * 513 + "]" * 513, "too_deep", False),
    ("[" * 100_000, "too_deep", False),
    ("", "empty", False),
    ("\ufeff{}", "byte_order_mark", True),
    ('"\ud800"', "not_utf8", False),
    ('```json\n{"a": 1}\n```', "fence", True),
    ('~~~~\n{"a": 1}\n~~~~\n', "fence", True),
    ('```\n{"a": 1,}\n```', "fence", False),
    ('```json\n{"a": 1}', "fence", True),
    ('Here:\n```json\n{"a": 1}\n```', "fence", True),
    ('```json\n{"a": 1}\n```\nDone.', "fence", True),
    ('```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```', "fence", True),
    ('Sure! {"a": 1}', "prose", True),
    ("No object here.", "prose", False),
    ("See [note]: {x} and [1, 2].", "prose", True),
    ('{"a": 1} Anything else?', "text_after_it", True),
    ('{"a": 1}\n{"a": 2}', "text_after_it", True),
    ('<think>Hm.</think>{"a": 1}', "thinking", True),
    ('{"a": 1,}', "trailing_comma", False),
    ("[1, 2, ]", "trailing_comma", False),
    ("[1,, 2]", "extra_comma", False),
    ('{"a": 1 "b": 2}', "missing_comma", False),
    ('{"a" 1}', "missing_colon", False),
    ('{"a": }', "missing_value", False),
    ("{'a': 1}", "single_quotes", False),
    ("{“a”: 1}", "curly_quotes", False),
    ("{a: 1}", "unquoted_name", False),
    ('{"a": NaN}', "nan_or_infinity", False),
    ("[-Infinity]", "nan_or_infinity", False),
    ('{"a": True}', "bad_word", False),
    ("[01]", "bad_number", False),
    ("[+1]", "bad_number", False),
    ("[.5]", "bad_number", False),
    ("[1.]", "bad_number", False),
    ('["a\nb"]', "control_character", False),
    ('["a\\qb"]', "bad_escape", False),
    ('{"a": 1 // one\n}', "comment", False),
    ('{"a": [1, 2}', "unbalanced", False),
    ('{"a": {"b": 1}', "unbalanced", False),
    ('{"a": "b', "unbalanced", False),
    ("[1]]", "unbalanced", True),
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
    (f"What you said was wrong: {SENTENCE}", "", ""),
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


# Each output, a forbidden phrase, and whether the output contains it.
PHRASES: tuple[tuple[str, str, bool], ...] = (
    ("Try _Northpeak_ instead.", "Northpeak", True),
    ('{"reply": "a\\nNorth\\u0070eak"}', "Northpeak", True),
    ("我们推荐北峰帐篷。", "北峰", True),
    ("It is **not** safe.", "not safe", True),
    ("Safe to use? It is not", "not safe", False),
    ('["It is not", "safe"]', "not safe", False),
    ("Northpeaks", "Northpeak", False),
)
# Each output, its reference, and whether their final numbers are equal.
NUMBERS: tuple[tuple[str, str, bool], ...] = (
    ("So it is $1,234.50.", "#### 1234.5", True),
    ("#### 1/3", "1/2", False),
    ("9.1e10", "2.5e10", False),
    ("5 ½", "5", False),
    ("5 ½", "5.5", True),
    ("#### 2√3", "#### 2√5", False),
    ("\\boxed{2\\sqrt{3}}", "2√3", True),
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
        "json": 76, "extracted": 94, "schema": 72, "disclaimer": 81, "disclaimer_fuzzy": 84,
        "forbidden": 98, "length": 92, "correct": 73, "contract": 55,
    }  # fmt: skip
    return Contract(section, schema), answers, expected
