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


def test_punctuation_only_phrase_can_match_fuzzily():
    assert judge("a *** b", Disclaimer("***", match="fuzzy"), fuzzy=True).passed


def test_threshold_sets_fuzzy_match():
    output = "This is generel guidance and no professional advise."
    assert judge(output, Disclaimer(S, match="fuzzy", threshold=99), fuzzy=True).kind == "missing"
    assert judge("This is generel guidance, not profesional advise.", Disclaimer(S, match="fuzzy", threshold=80), fuzzy=True).passed


def test_fuzzy_match_may_follow_rejected_match():
    assert judge(f"It is not true that {S}\n\nThis is generel guidance, not professional advice.", fuzzy=True).passed


def test_exact_match_is_case_sensitive():
    rule = Disclaimer(S, match="exact")
    assert judge(f"Hi. {S}", rule).passed
    assert judge(json.dumps({"reply": f"Hi. {S}"}), rule).passed
    assert judge(S.lower(), rule).kind == "missing"
    assert judge(S.replace(" ", "  "), rule).kind == "missing"
    assert judge(f"It is not true that {S}", rule).kind == "negated"


def test_regex_matches_variants():
    rule = Disclaimer(r"(?i)not (?:professional|legal|medical) advice", match="regex")
    assert judge("Note: NOT LEGAL ADVICE.", rule).passed
    assert judge("Not advice.", rule).kind == "missing"
    assert judge('"not legal advice" is on the box', rule).kind == "quoted"


def test_runaway_regex_is_stopped():
    rule = Disclaimer(r"(?:a|aa|a\w)+\d$", match="regex")
    assert judge("a" * 5000, rule).kind == "pattern_too_slow"


def test_any_alternative_matches_by_its_own_method():
    rule = Disclaimer(
        any_of=[Phrase("Nur allgemeine Hinweise."), Phrase("only a guide", match="exact"), Phrase("not .* law", match="regex")]
    )
    for output in ("NUR allgemeine  Hinweise.", "It is only a guide", "This is not binding law."):
        assert judge(output, rule).passed
    assert judge("It is Only A Guide", rule).kind == "missing"
    assert judge("nothing", rule).detail.startswith("“Nur allgemeine Hinweise.”")


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (f"Close it.\n\n{S}", ""),
        (f"Close it.\r\n\r\n{S}\r\n", ""),
        (f"Close it. {S}", ""),
        (f"{S}\n\nClose it.", "wrong_place"),
        (json.dumps({"reply": f"Close it.\n\n{S}", "ok": True}), ""),
        (json.dumps({"reply": f"{S}\n\nClose it."}), "wrong_place"),
        ("Close it.", "missing"),
    ],
)
def test_last_paragraph_position(output, kind):
    assert judge(output, Disclaimer(S, at="last paragraph")).kind == kind


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (json.dumps({"reply": S, "note": ""}), ""),
        (json.dumps({"reply": {"parts": ["Hi.", S]}}), ""),
        ("```\n" + json.dumps({"reply": S}) + "\n```", ""),
        (json.dumps({"reply": "Hi.", "note": S}), "wrong_place"),
        (S, "wrong_place"),
        (json.dumps({"note": "Hi."}), "missing"),
        (json.dumps({"reply": 5}), "missing"),
    ],
)
def test_named_field_position(output, kind):
    assert judge(output, Disclaimer(S, at="/reply")).kind == kind


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


def test_rule_condition_uses_reference_not_output():
    reference = _answer("x", "safety")
    assert judge(_answer("Take care."), SAFETY, reference=reference).passed
    assert judge(_answer("Nothing."), SAFETY, reference=reference).kind == "missing"


def test_unwanted_disclaimer_is_failure():
    assert judge(_answer("Take care."), SAFETY, reference=_answer("x")).kind == "out_of_place"
    assert judge(_answer("Nothing."), SAFETY, reference=_answer("x")).passed


def test_when_needs_all_fields_and_unless_any():
    fields = {"category": "safety", "high": True}
    both, one = (json.dumps({"category": "safety", "high": high}) for high in (True, False))
    assert judge("nothing", Disclaimer("Take care.", fields), reference=both).kind == "missing"
    assert judge("nothing", Disclaimer("Take care.", fields), reference=one).passed
    assert judge("nothing", Disclaimer("Take care.", unless=fields), reference=both).passed
    assert judge("Take care.", Disclaimer("Take care.", unless=fields), reference=both).kind == "out_of_place"
    assert judge("nothing", Disclaimer("Take care.", unless=fields), reference=one).kind == "missing"


def test_when_takes_json_pointers():
    for order, kind in (({"kind": "gift"}, "missing"), ({"kind": "sale"}, ""), ("gift", "")):
        assert (
            judge("nothing", Disclaimer("Take care.", {"/order/kind": "gift"}), reference=json.dumps({"order": order})).kind == kind
        )
    assert judge("nothing", Disclaimer("Take care.", {"/a": None}), reference='{"a": null}').kind == "missing"
    assert judge("nothing", Disclaimer("Take care.", {"a/b": 1}), reference='{"a/b": 1}').kind == "missing"


def test_absent_field_matches_nothing():
    assert judge("nothing", Disclaimer("Take care.", {"category": None}), reference="{}").passed


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


def test_disclaimer_extends_longest_string_and_keeps_formatting():
    answer = '{ "category":"safety",\n  "reply": "Only with a flue: \\u00fcber."  }'
    assert add_missing_disclaimers(answer, [GUIDANCE]) == answer.replace('\\u00fcber."', '\\u00fcber. This is general guidance."')


def test_prose_answer_gets_new_paragraph():
    assert add_missing_disclaimers("Ask a lawyer. ", [NO_ADVICE]) == "Ask a lawyer.\n\nNo legal advice."


@pytest.mark.parametrize("at", ["/note", "last paragraph"])
def test_disclaimer_is_added_where_rule_expects_it(at):
    answer = json.dumps({"reply": "A long reply that says much.", "note": "Short."})
    completed = add_missing_disclaimers(answer, [Disclaimer("No legal advice.", at=at)])
    if at == "/note":
        assert json.loads(completed) == {"reply": "A long reply that says much.", "note": "Short. No legal advice."}
    else:  # the last string is not the longest one, so the disclaimer would still be in the wrong place
        assert completed is None


def test_all_missing_disclaimers_are_added_at_once():
    completed = add_missing_disclaimers('{"category": "safety", "reply": "Only with a flue."}', [GUIDANCE, NO_ADVICE])
    assert json.loads(completed)["reply"] == "Only with a flue. This is general guidance. No legal advice."


def test_plain_phrase_is_used_when_first_is_regex():
    rule = Disclaimer(any_of=[Phrase("no (legal )?advice", "regex"), Phrase("No legal advice.")])
    assert add_missing_disclaimers("Ask a lawyer.", [rule]) == "Ask a lawyer.\n\nNo legal advice."


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
