"""When a disclaimer counts as stated, and how a missing one is added to an answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.disclaimer import add_missing_disclaimers, required_by, score_disclaimers
from mlxtune.evaluation.scorers.output_text import normalize
from mlxtune.evaluation.selftest.checks import ASKED, DISCLAIMERS, SENTENCE
from mlxtune.recipe import Disclaimer, Phrase

S = SENTENCE
RULE = Disclaimer(S, match="fuzzy")
ALWAYS = Disclaimer("This isn't advice.")
SAFETY = Disclaimer("Take care.", {"category": "safety"})


def judge(output: str, *rules: Disclaimer, reference: str | None = None, prompt: str = "", fuzzy: bool = False) -> Score:
    return score_disclaimers(ModelAnswer(output, reference=reference, prompt=prompt), rules or (RULE,), fuzzy)


def _answer(reply: str, category: str = "order") -> str:
    return json.dumps({"category": category, "reply": reply})


@pytest.mark.parametrize("rest", ["is not true.", "does not apply here!", "is a myth", "- which is wrong."])
def test_continued_sentence_may_retract_disclaimer(rest):
    assert judge(f"{S[:-1]} {rest}", Disclaimer(S[:-1])).kind == "negated"


@pytest.mark.parametrize("prompt", ["", ASKED])
def test_a_disclaimer_counts_and_is_unwanted_where_it_is_asserted(prompt):
    """The self-test requires it of the same outputs."""
    for (kind, _), outputs in DISCLAIMERS:
        for output in outputs:
            asserted = not kind or (not prompt and output.startswith(("> ", "End every answer")))  # copied from the prompt
            assert judge(output, prompt=prompt).kind == ("" if asserted else kind), output
            unwanted = judge(output, Disclaimer(S, {"a": 1}), prompt=prompt, reference='{"a": 2}')
            assert unwanted.kind == ("out_of_place" if asserted else ""), output


def test_quotation_not_from_prompt_counts():
    output = f'Our motto: "{S}"'
    assert judge(output, prompt="My stove hisses.").passed
    assert judge(output).kind == "quoted"


def test_lead_in_requested_by_prompt_is_not_quotation():
    prompt = "End with: Please be aware that this is general guidance, not professional advice."
    assert judge(f"Close it. Please be aware that {S}", prompt=prompt).passed


@pytest.mark.parametrize(
    "output",
    ["This is generel guidance, not profesional advice.", "It is general guidance and not professional advice.",
     "Hi! this is a general guidance – not professional advice. Bye.", "This is general guidance only, not professional advice."],
)  # fmt: skip
def test_fuzzy_match_counts_only_for_fuzzy_rate(output):
    assert judge(output, fuzzy=True).passed
    assert judge(output).kind == "missing"
    assert not judge(output, Disclaimer(S), fuzzy=True).passed  # a rule without fuzzy matching


@pytest.mark.parametrize("end", ["", " profess", " professional", " professional adv", " professional advi", " professional advic"])
def test_truncated_fuzzy_match_does_not_count(end):
    assert judge(f"Close it. This is general guidance, not{end}", fuzzy=True).kind == "cut_off"
    assert judge(f'{{"reply": "This is generel guidance, not{end}', fuzzy=True).kind in ("missing", "cut_off")


@pytest.mark.parametrize(
    ("rule", "output", "kind"),
    [
        (Disclaimer("***", match="fuzzy"), "a *** b", ""),
        (Disclaimer(S, match="fuzzy", threshold=99), "This is generel guidance and no professional advise.", "missing"),
        (Disclaimer(S, match="fuzzy", threshold=80), "This is generel guidance, not profesional advise.", ""),
        (RULE, f"It is not true that {S}\n\nThis is generel guidance, not professional advice.", ""),  # behind a rejected match
    ],
)
def test_fuzzy_match_has_a_threshold(rule, output, kind):
    score = judge(output, rule, fuzzy=True)
    assert (score.passed, score.kind) == (not kind, kind)


EXACT = Disclaimer(S, match="exact")
PATTERN = Disclaimer(r"(?i)not (?:professional|legal|medical) advice", match="regex")
ANY = Disclaimer(
    any_of=[Phrase("Nur allgemeine Hinweise."), Phrase("only a guide", match="exact"), Phrase("not .* law", match="regex")]
)
LAST = Disclaimer(S, at="last paragraph")
FIELD = Disclaimer(S, at="/reply")


@pytest.mark.parametrize(
    ("rule", "output", "kind"),
    [
        (EXACT, f"Hi. {S}", ""),
        (EXACT, json.dumps({"reply": f"Hi. {S}"}), ""),
        (EXACT, S.lower(), "missing"),
        (EXACT, S.replace(" ", "  "), "missing"),
        (EXACT, f"It is not true that {S}", "negated"),
        (PATTERN, "Note: NOT LEGAL ADVICE.", ""),
        (PATTERN, "Not advice.", "missing"),
        (PATTERN, '"not legal advice" is on the box', "quoted"),
        (Disclaimer(r"(?:a|aa|a\w)+\d$", match="regex"), "a" * 5000, "pattern_too_slow"),
        (ANY, "NUR allgemeine  Hinweise.", ""),
        (ANY, "It is only a guide", ""),
        (ANY, "This is not binding law.", ""),
        (ANY, "It is Only A Guide", "missing"),
        (LAST, f"Close it.\n\n{S}", ""),
        (LAST, f"Close it.\r\n\r\n{S}\r\n", ""),
        (LAST, f"Close it. {S}", ""),
        (LAST, f"{S}\n\nClose it.", "wrong_place"),
        (LAST, json.dumps({"reply": f"Close it.\n\n{S}", "ok": True}), ""),
        (LAST, json.dumps({"reply": f"{S}\n\nClose it."}), "wrong_place"),
        (LAST, "Close it.", "missing"),
        (FIELD, json.dumps({"reply": S, "note": ""}), ""),
        (FIELD, json.dumps({"reply": {"parts": ["Hi.", S]}}), ""),
        (FIELD, "```\n" + json.dumps({"reply": S}) + "\n```", ""),
        (FIELD, json.dumps({"reply": "Hi.", "note": S}), "wrong_place"),
        (FIELD, S, "wrong_place"),
        (FIELD, json.dumps({"note": "Hi."}), "missing"),
        (FIELD, json.dumps({"reply": 5}), "missing"),
    ],
)
def test_methods_and_places(rule, output, kind):
    score = judge(output, rule)
    assert (score.passed, score.kind) == (not kind, kind)


def test_the_first_alternative_is_named():
    assert judge("nothing", ANY).detail.startswith("“Nur allgemeine Hinweise.”")


def test_unwanted_disclaimer_fails_in_any_field():
    rule = Disclaimer(S, {"category": "safety"}, at="/reply")
    assert judge(json.dumps({"reply": "Hi.", "note": S}), rule, reference=_answer("x")).kind == "out_of_place"


@pytest.mark.parametrize(
    "output",
    [
        "This isn't advice.",
        "this ISN’T  advice. Bye",
        "So: This isn't\nadvice.",
        _answer("Hi. This isn't\n advice."),
        '{"reply": "This isn\\u2019t advice."}',
        "This isn't ad\u00advice.",
        "Ｔｈｉｓ isn't advice.",
    ],
)
def test_case_space_quotes_and_escapes_are_ignored(output):
    assert judge(output, ALWAYS).passed


@pytest.mark.parametrize("output", ["", "This is advice.", "{}", "This isn't", '["This", 5, null]', "rethis isn't advice."])
def test_missing_disclaimer_is_reported(output):
    score = judge(output, ALWAYS)
    assert (score.passed, score.kind) == (False, "missing")
    assert ALWAYS.text in score.detail


HIGH = {"category": "safety", "high": True}
TEXT = "Take care."


@pytest.mark.parametrize(
    ("rule", "output", "reference", "kind"),
    [
        (Disclaimer(TEXT, HIGH), "nothing", {"category": "safety", "high": True}, "missing"),
        (Disclaimer(TEXT, HIGH), "nothing", {"category": "safety", "high": False}, ""),
        (Disclaimer(TEXT, unless=HIGH), "nothing", {"category": "safety", "high": True}, ""),
        (Disclaimer(TEXT, unless=HIGH), TEXT, {"category": "safety", "high": True}, "out_of_place"),
        (Disclaimer(TEXT, unless=HIGH), "nothing", {"category": "safety", "high": False}, "missing"),
        (Disclaimer(TEXT, {"/order/kind": "gift"}), "nothing", {"order": {"kind": "gift"}}, "missing"),
        (Disclaimer(TEXT, {"/order/kind": "gift"}), "nothing", {"order": {"kind": "sale"}}, ""),
        (Disclaimer(TEXT, {"/order/kind": "gift"}), "nothing", {"order": "gift"}, ""),
        (Disclaimer(TEXT, {"/a": None}), "nothing", {"a": None}, "missing"),
        (Disclaimer(TEXT, {"a/b": 1}), "nothing", {"a/b": 1}, "missing"),
        (Disclaimer(TEXT, {"category": None}), "nothing", {}, ""),
        (SAFETY, _answer(TEXT), {"category": "safety"}, ""),
        (SAFETY, _answer("Nothing."), {"category": "safety"}, "missing"),
        (SAFETY, _answer(TEXT), {"category": "order"}, "out_of_place"),
        (SAFETY, _answer("Nothing."), {"category": "order"}, ""),
    ],
)
def test_conditions_are_about_the_reference(rule, output, reference, kind):
    score = judge(output, rule, reference=json.dumps(reference))
    assert (score.passed, score.kind) == (not kind, kind)


def test_only_unconditional_rules_apply_without_reference():
    assert judge("Take care.", SAFETY).passed
    assert judge("nothing", Disclaimer("Take care.", unless={"a": 1})).passed
    assert judge("Take care.", SAFETY, ALWAYS).kind == "missing"


@pytest.mark.parametrize("reference", ["no JSON at all", '{"category": "saf', ""])
@pytest.mark.parametrize("output", ["Take care.", "nothing"])
def test_condition_on_a_reference_without_fields_is_reported(output, reference):
    for rule in (SAFETY, Disclaimer("Take care.", unless={"a": 1})):
        score = judge(output, rule, reference=reference)
        assert (score.passed, score.kind) == (False, "no_reference")
        assert "not JSON" in score.detail
    assert judge("Take care.", Disclaimer("Take care."), reference=reference).passed


def test_deeply_nested_output_is_searched():
    deep = "[" * 600 + '"This isn\'t advice."' + "]" * 600
    assert not judge(deep, Disclaimer("Nothing.")).passed
    assert judge("[" * 200_000, ALWAYS).kind == "missing"


def test_object_keys_are_not_searched():
    assert not judge(json.dumps({ALWAYS.text: 1}), ALWAYS).passed


def test_normalization_folds_invisible_differences():
    assert normalize("  “Ａ” –\u00a0b\n") == '"a" - b'


@pytest.mark.parametrize(
    "output",
    ["no " * 20_000, "not to " * 10_000 + S, '"' * 20_000 + S, "'a " * 10_000 + S, "> " * 20_000, "<think>" * 10_000, "{" * 20_000, S * 500],
    ids=range(8),
)  # fmt: skip
def test_hostile_output_gets_verdict(output):
    judge(output, RULE, prompt=ASKED, fuzzy=True)


@given(st.text(alphabet="{}[]\":\\ <>think/.\n'not general guidance", max_size=80), st.sampled_from(["", ASKED]), st.booleans())
def test_any_output_gets_verdict(output, prompt, fuzzy):
    judge(output, RULE, ALWAYS, Disclaimer("a", at="last paragraph"), prompt=prompt, fuzzy=fuzzy)


def test_only_conditional_disclaimers_are_required_by_a_reference():
    rules = [Disclaimer(text="Not advice."), Disclaimer(text="Call 112.", when={"/reason": "injury"})]
    assert required_by('{"reason": "injury"}', rules) == ("Call 112.",)
    assert required_by('{"reason": "size"}', rules) == required_by("plain text", rules) == ()


GUIDANCE = Disclaimer("This is general guidance.", when={"category": "safety"})
NO_ADVICE = Disclaimer("No legal advice.")


@pytest.mark.parametrize(
    ("answer", "rules", "added"),
    [
        ('{ "category":"safety",\n  "reply": "Only with a flue: \\u00fcber."  }', [GUIDANCE],
         '{ "category":"safety",\n  "reply": "Only with a flue: \\u00fcber. This is general guidance."  }'),
        ('{"category": "safety", "reply": "Only with a flue."}', [GUIDANCE, NO_ADVICE],
         '{"category": "safety", "reply": "Only with a flue. This is general guidance. No legal advice."}'),
        ("Ask a lawyer. ", [NO_ADVICE], "Ask a lawyer.\n\nNo legal advice."),
        ("Ask a lawyer.", [Disclaimer(any_of=[Phrase("no (legal )?advice", "regex"), Phrase("No legal advice.")])],
         "Ask a lawyer.\n\nNo legal advice."),
    ],
)  # fmt: skip
def test_disclaimers_extend_the_longest_string_or_are_a_new_paragraph(answer, rules, added):
    assert add_missing_disclaimers(answer, rules) == added


@pytest.mark.parametrize("at", ["/note", "last paragraph"])
def test_disclaimer_is_added_where_rule_expects_it(at):
    answer = json.dumps({"reply": "A long reply that says much.", "note": "Short."})
    completed = add_missing_disclaimers(answer, [Disclaimer("No legal advice.", at=at)])
    if at == "/note":
        assert json.loads(completed) == {"reply": "A long reply that says much.", "note": "Short. No legal advice."}
    else:  # the last string is not the longest one, so the disclaimer would still be in the wrong place
        assert completed is None


@pytest.mark.parametrize(
    "answer",
    [
        "Ask a lawyer. No legal advice.",  # nothing is missing
        '{"note": "Short."}',  # the field named by the rule is missing
        '{"category": "other", "reply": "This is general guidance."}',  # one disclaimer is unwanted
        "",
    ],
)
def test_unfixable_answer_returns_none(answer):
    rules = (
        [GUIDANCE] if "category" in answer else [Disclaimer("No legal advice.", at="/reply" if "note" in answer else "anywhere")]
    )
    assert add_missing_disclaimers(answer, rules) is None
