"""When a disclaimer counts as stated, and how a missing one is added to an answer."""

import json
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.disclaimer import add_missing_disclaimers, required_by, score_disclaimers
from mlxtune.evaluation.scorers.output_text import normalize
from mlxtune.recipe import Disclaimer, Phrase

S = "This is general guidance, not professional advice."
ASKED = f"Begin every safety reply with: {S}\n\nThe box says “{S}” and my stove hisses."
RULE = Disclaimer(S, match="fuzzy")
ALWAYS = Disclaimer("This isn't advice.")
SAFETY = Disclaimer("Take care.", {"category": "safety"})


def judge(output: str, *rules: Disclaimer, reference: str | None = None, prompt: str = "", fuzzy: bool = False) -> Score:
    return score_disclaimers(ModelAnswer(output, reference=reference, prompt=prompt), rules or (RULE,), fuzzy)


def _answer(reply: str, category: str = "order") -> str:
    return json.dumps({"category": category, "reply": reply})


SAID = [
    S,
    f"Hello.\n\n{S}",
    f"{S} Take care.",
    f"Please note: {S}",
    f"**Disclaimer:** {S}",
    f"_{S}_",
    f"({S})",
    f"* {S}",
    S.replace("not", "**not**"),
    S.replace("general guidance", "_general_ ***guidance***"),
    # a correction that follows a denial
    f"What you said was wrong: {S}",
    f"That is not correct: {S}",
    f"No, that's a myth: {S}",
    f"You are wrong, {S}",
    f"It is not true - {S}",
    f"That is a lie ({S})",
    f"I don't agree: {S}",
    f"I would not say that: {S}",
    f"We never claim that; {S}",
    f"I don't believe it, {S}",
    f"If anything, {S}",
    f"I never said it is: {S}",
    f"We did not claim that you can, {S}",
    f"I would not say they were - {S}",
    f"Your claim that this is wrong is false: {S}",
    f"This is wrong. {S}",
    f"If you like: {S}",
    # negations of something else
    f"I'm not a doctor. {S}",
    f"I am not a lawyer, but {S}",
    f"No worries! {S}",
    f"No, {S}",
    f"We cannot see your stove, so {S}",
    f"Never open a hot stove. {S}",
    f"This isn't urgent; {S}",
    f"Not all stoves are equal, and {S}",
    f"Without seeing it I can only guess. {S}",
    f"There is no risk (as far as I know). {S}",
    f"It is not true that stoves explode. {S}",
    f"I don't know what is wrong. Whatever it is, {S}",
    f"I do not think so: {S}",
    f"I have no idea - {S}",
    f"You should never leave it, {S}",
    f"Yes, that's true. {S}",
    f"{S} It is not dangerous.",
    f"{S} It is not right to open it yourself.",
    f"{S} This is not a drill.",
    f"{S} Do not open it.",
    f"{S} No open flames!",
    f"{S} This does not apply to tents.",
    # double negations
    f"Do not forget: {S}",
    f"Please don't ignore this: {S}",
    # quotation marks around something else
    f'"Hissing" means a leak. {S} "Leak" means gas.',
    f'You said "it hisses". {S}',
    f'A 5" peg holds. {S} Use a 6" one.',
    f"The valve's 'open' mark. {S} It's fine, 'cause it is.",
    # JSON, complete or truncated
    json.dumps({"reply": f"No. {S}"}),
    json.dumps({"a": ["x", {"b": S}]}),
    "```json\n" + json.dumps({"reply": S}) + "\n```",
    "Sure! " + json.dumps({"reply": S}),
    '{"reply": "' + S + " And then",
    # after a thinking block
    f"<think>It is not needed</think>{S}",
    f"thinking of it</think>\n{S}",
    # negated or quoted once, asserted once
    f"It is not true that {S}\n\nSeriously: {S}",
    f"The box says “{S}” I say so too. {S}",
]

NOT_SAID = [
    ("", "missing"),
    ("This is professional advice.", "missing"),
    ("This is general guidance.", "missing"),
    # negated inside the phrase
    ("This is not general guidance, not professional advice.", "missing"),
    ("This isn't general guidance, not professional advice.", "missing"),
    ("This is general guidance, and professional advice.", "missing"),
    ("This is general guidance, professional advice.", "missing"),
    # negated before the phrase
    (f"It is not true that {S}", "negated"),
    (f"It's not the case that {S}", "negated"),
    (f"I don't think {S}", "negated"),
    (f"I would never say that {S}", "negated"),
    (f"It is false that {S}", "negated"),
    (f"It is false that _{S}_", "negated"),
    (f"It is simply wrong that {S}", "negated"),
    (f"This is false: {S}", "negated"),
    (f"This is simply not true: {S}", "negated"),
    (f"The following is false: {S}", "negated"),
    (f"The next sentence is a lie: {S}", "negated"),
    (f"What follows is wrong: {S}", "negated"),
    (f"I never said that {S}", "negated"),
    (f"It is not right to say “{S}", "negated"),
    (f"I don't believe that {S}", "negated"),
    (f"It would be wrong to say: {S}", "negated"),
    (f"I won't add: {S}", "negated"),
    (f"I am not going to write {S}", "negated"),
    (f"I cannot honestly claim that {S}", "negated"),
    (f"I refuse to say: {S}", "negated"),
    (f"Nobody should say {S}", "negated"),
    (f"Ignore the sentence: {S}", "negated"),
    (f"Please disregard this: {S}", "negated"),
    (f"Instead of {S} I say nothing.", "negated"),
    (f"You do not need the disclaimer: {S}", "negated"),
    # negated after the phrase
    (f"{S} That is simply a lie.", "negated"),
    (f"{S} This does not apply here.", "negated"),
    (f"{S} That's not true.", "negated"),
    (f"{S} Actually, that is wrong.", "negated"),
    (f"{S} It no longer applies.", "negated"),
    (f"{S} Just kidding!", "negated"),
    (f"{S} Ignore that.", "negated"),
    # quoted
    (f'The manual says "{S}"', "quoted"),
    (f"You wrote “{S}” to me.", "quoted"),
    (f"«{S}»!", "quoted"),
    (f"It reads: '{S}'", "quoted"),
    (f'The box: "Careful. {S} Keep dry."', "quoted"),
    (json.dumps({"reply": f'It says "{S}" on the box.'}), "quoted"),
    ('{"reply": "It says \\"' + S + '\\" on the', "quoted"),
    # truncated
    ("Close it. This is general guidance, not professional", "cut_off"),
    ("Close it. This is general guidance, not professional adv", "cut_off"),
    ('{"reply": "Close it. This is general gui', "cut_off"),
    # inside a thinking block
    (f"<think>{S}</think> Close it.", "only_thought"),
    (f"<THINK>{S}</THINK>Close it.", "only_thought"),
    (f"<thinking>{S}</thinking>Close it.", "only_thought"),
    (f"<think>{S}", "only_thought"),
    (f"I must say: {S}</think> Close it.", "only_thought"),
    (f"<reasoning>{S}</reasoning> Close it.", "only_thought"),
    (f"[THINK]{S}[/THINK]Close it.", "only_thought"),
    (f"<|channel|>analysis<|message|>{S}<|end|><|start|>assistant<|channel|>final<|message|>Close it.", "only_thought"),
    # invisible to the reader
    (f"<!-- {S} -->Close it.", "hidden"),
    (f"~~{S}~~ Close it.", "hidden"),
    # reported, doubted, or retracted
    (f"You asked me to end with: {S}", "negated"),
    (f"If {S}, then ignore me.", "negated"),
    (f"Far from it: {S}", "negated"),
    (f"Contrary to what they say, {S}", "negated"),
    (f"{S} Not.", "negated"),
]


@pytest.mark.parametrize("rest", ["is not true.", "does not apply here!", "is a myth", "- which is wrong."])
def test_continued_sentence_may_retract_disclaimer(rest):
    assert judge(f"{S[:-1]} {rest}", Disclaimer(S[:-1])).kind == "negated"


@pytest.mark.parametrize("output", SAID)
def test_asserted_disclaimer_counts(output):
    for prompt in ("", ASKED):
        assert [fuzzy for fuzzy in (False, True) if not judge(output, prompt=prompt, fuzzy=fuzzy).passed] == [], prompt
        assert judge(output, Disclaimer(S, {"a": 1}), prompt=prompt, reference='{"a": 2}').kind == "out_of_place", prompt


@pytest.mark.parametrize(("output", "kind"), NOT_SAID)
def test_unasserted_disclaimer_fails_with_its_class(output, kind):
    for prompt, fuzzy in product(("", ASKED), (False, True)):
        score = judge(output, prompt=prompt, fuzzy=fuzzy)
        assert (score.passed, score.kind) == (False, kind), (prompt, fuzzy)
        assert S in score.detail
        assert judge(output, Disclaimer(S, {"a": 1}), prompt=prompt, reference='{"a": 2}').passed, prompt


def test_instruction_copied_from_prompt_is_quotation():
    assert judge(f"Begin every safety reply with: {S}", prompt=ASKED).kind == "quoted"
    assert judge(f"> {S}\n\nClose it.", prompt=ASKED).kind == "quoted"


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
    mended = add_missing_disclaimers(answer, [Disclaimer("No legal advice.", at=at)])
    if at == "/note":
        assert mended is not None
        assert json.loads(mended) == {"reply": "A long reply that says much.", "note": "Short. No legal advice."}
    else:  # the last string is not the longest one, so the disclaimer would still be in the wrong place
        assert mended is None


def test_all_missing_disclaimers_are_added_at_once():
    mended = add_missing_disclaimers('{"category": "safety", "reply": "Only with a flue."}', [GUIDANCE, NO_ADVICE])
    assert mended is not None
    assert json.loads(mended)["reply"] == "Only with a flue. This is general guidance. No legal advice."


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
