from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.evaluation.scorers import Answer, Score
from mlxtune.evaluation.scorers.disclaimer import right_disclaimer
from mlxtune.evaluation.scorers.words import normalised
from mlxtune.recipe import Disclaimer, Phrase

S = "This is general guidance, not professional advice."
ASKED = f"Begin every safety reply with: {S}\n\nThe box says “{S}” and my stove hisses."
RULE = Disclaimer(S, match="fuzzy")
ALWAYS = Disclaimer("This isn't advice.")
SAFETY = Disclaimer("Take care.", {"category": "safety"})


def judge(output: str, *rules: Disclaimer, reference: str | None = None, prompt: str = "", fuzzy: bool = False) -> Score:
    return right_disclaimer(Answer(output, reference=reference, prompt=prompt), rules or (RULE,), fuzzy)


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
    # denials that are about something else
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
    # denied denials
    f"Do not forget: {S}",
    f"Please don't ignore this: {S}",
    # quotation marks around something else
    f'"Hissing" means a leak. {S} "Leak" means gas.',
    f'You said "it hisses". {S}',
    f'A 5" peg holds. {S} Use a 6" one.',
    f"The valve's 'open' mark. {S} It's fine, 'cause it is.",
    # JSON, whole or not
    json.dumps({"reply": f"No. {S}"}),
    json.dumps({"a": ["x", {"b": S}]}),
    "```json\n" + json.dumps({"reply": S}) + "\n```",
    "Sure! " + json.dumps({"reply": S}),
    '{"reply": "' + S + " And then",
    # after a thought
    f"<think>It is not needed</think>{S}",
    f"thinking of it</think>\n{S}",
    # once denied or quoted, once said
    f"It is not true that {S}\n\nSeriously: {S}",
    f"The box says “{S}” I say so too. {S}",
]

NOT_SAID = [
    ("", "missing"),
    ("This is professional advice.", "missing"),
    ("This is general guidance.", "missing"),
    # negated within
    ("This is not general guidance, not professional advice.", "missing"),
    ("This isn't general guidance, not professional advice.", "missing"),
    ("This is general guidance, and professional advice.", "missing"),
    ("This is general guidance, professional advice.", "missing"),
    # negated before
    (f"It is not true that {S}", "negated"),
    (f"It's not the case that {S}", "negated"),
    (f"I don't think {S}", "negated"),
    (f"I would never say that {S}", "negated"),
    (f"It is false that {S}", "negated"),
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
    # negated behind
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
    # cut off
    ("Close it. This is general guidance, not professional", "cut off"),
    ("Close it. This is general guidance, not professional adv", "cut off"),
    ('{"reply": "Close it. This is general gui', "cut off"),
    # thought
    (f"<think>{S}</think> Close it.", "only thought"),
    (f"<THINK>{S}</THINK>Close it.", "only thought"),
    (f"<thinking>{S}</thinking>Close it.", "only thought"),
    (f"<think>{S}", "only thought"),
    (f"I must say: {S}</think> Close it.", "only thought"),
    (f"<reasoning>{S}</reasoning> Close it.", "only thought"),
    (f"[THINK]{S}[/THINK]Close it.", "only thought"),
    (f"<|channel|>analysis<|message|>{S}<|end|><|start|>assistant<|channel|>final<|message|>Close it.", "only thought"),
    # not to be seen
    (f"<!-- {S} -->Close it.", "hidden"),
    (f"~~{S}~~ Close it.", "hidden"),
    # told about, doubted, taken back
    (f"You asked me to end with: {S}", "negated"),
    (f"If {S}, then ignore me.", "negated"),
    (f"Far from it: {S}", "negated"),
    (f"Contrary to what they say, {S}", "negated"),
    (f"{S} Not.", "negated"),
]


@pytest.mark.parametrize("rest", ["is not true.", "does not apply here!", "is a myth", "- which is wrong."])
def test_sentence_that_goes_on_may_take_it_back(rest):
    assert judge(f"{S[:-1]} {rest}", Disclaimer(S[:-1])).kind == "negated"


def test_there_are_enough_examples():
    assert len(SAID) >= 40
    assert len(NOT_SAID) >= 40


@pytest.mark.parametrize("prompt", ["", ASKED], ids=["alone", "asked"])
@pytest.mark.parametrize("fuzzy", [False, True], ids=["strict", "fuzzy"])
@pytest.mark.parametrize("output", SAID)
def test_what_is_said_counts(output, fuzzy, prompt):
    assert judge(output, prompt=prompt, fuzzy=fuzzy).holds
    assert judge(output, Disclaimer(S, {"a": 1}), prompt=prompt, reference='{"a": 2}').kind == "out of place"


@pytest.mark.parametrize("prompt", ["", ASKED], ids=["alone", "asked"])
@pytest.mark.parametrize("fuzzy", [False, True], ids=["strict", "fuzzy"])
@pytest.mark.parametrize(("output", "kind"), NOT_SAID)
def test_what_is_not_said_does_not_count_and_has_its_class(output, kind, fuzzy, prompt):
    score = judge(output, prompt=prompt, fuzzy=fuzzy)
    assert (score.holds, score.kind) == (False, kind)
    assert S in score.why
    assert judge(output, Disclaimer(S, {"a": 1}), prompt=prompt, reference='{"a": 2}').holds


def test_an_instruction_copied_from_the_prompt_is_a_quotation():
    assert judge(f"Begin every safety reply with: {S}", prompt=ASKED).kind == "quoted"
    assert judge(f"> {S}\n\nClose it.", prompt=ASKED).kind == "quoted"


def test_a_quotation_that_is_not_from_the_prompt_counts_when_the_prompt_is_known():
    output = f'Our motto: "{S}"'
    assert judge(output, prompt="My stove hisses.").holds
    assert judge(output).kind == "quoted"


def test_words_that_the_prompt_asks_to_put_before_it_make_no_quotation():
    prompt = "End with: Please be aware that this is general guidance, not professional advice."
    assert judge(f"Close it. Please be aware that {S}", prompt=prompt).holds


@pytest.mark.parametrize(
    "output",
    ["This is generel guidance, not profesional advice.", "It is general guidance and not professional advice.",
     "Hi! this is a general guidance – not professional advice. Bye.", "This is general guidance only, not professional advice."],
)  # fmt: skip
def test_near_phrases_count_for_the_fuzzy_rate_alone(output):
    assert judge(output, fuzzy=True).holds
    assert judge(output).kind == "missing"
    assert not judge(output, Disclaimer(S), fuzzy=True).holds  # a rule that does not ask for it


@pytest.mark.parametrize("end", ["", " profess", " professional", " professional adv", " professional advi", " professional advic"])
def test_near_phrase_that_is_cut_off_does_not_count(end):
    assert judge(f"Close it. This is general guidance, not{end}", fuzzy=True).kind == "cut off"
    assert judge(f'{{"reply": "This is generel guidance, not{end}', fuzzy=True).kind in ("missing", "cut off")


def test_phrase_of_signs_alone_may_be_near():
    assert judge("a *** b", Disclaimer("***", match="fuzzy"), fuzzy=True).holds


def test_threshold_decides_how_near_is_near_enough():
    output = "This is generel guidance and no professional advise."
    assert judge(output, Disclaimer(S, match="fuzzy", threshold=99), fuzzy=True).kind == "missing"
    assert judge("This is generel guidance, not profesional advise.", Disclaimer(S, match="fuzzy", threshold=80), fuzzy=True).holds


def test_near_phrase_may_come_after_one_that_does_not_count():
    assert judge(f"It is not true that {S}\n\nThis is generel guidance, not professional advice.", fuzzy=True).holds


def test_exact_match_is_to_the_letter():
    rule = Disclaimer(S, match="exact")
    assert judge(f"Hi. {S}", rule).holds
    assert judge(json.dumps({"reply": f"Hi. {S}"}), rule).holds
    assert judge(S.lower(), rule).kind == "missing"
    assert judge(S.replace(" ", "  "), rule).kind == "missing"
    assert judge(f"It is not true that {S}", rule).kind == "negated"


def test_pattern_may_say_it_in_many_ways():
    rule = Disclaimer(r"(?i)not (?:professional|legal|medical) advice", match="regex")
    assert judge("Note: NOT LEGAL ADVICE.", rule).holds
    assert judge("Not advice.", rule).kind == "missing"
    assert judge('"not legal advice" is on the box', rule).kind == "quoted"


def test_pattern_that_does_not_end_is_stopped():
    rule = Disclaimer(r"(?:a|aa|a\w)+\d$", match="regex")
    assert judge("a" * 5000, rule).kind == "pattern too slow"


def test_any_of_several_ways_will_do_each_in_its_own_manner():
    rule = Disclaimer(
        any_of=[Phrase("Nur allgemeine Hinweise."), Phrase("only a guide", match="exact"), Phrase("not .* law", match="regex")]
    )
    for output in ("NUR allgemeine  Hinweise.", "It is only a guide", "This is not binding law."):
        assert judge(output, rule).holds
    assert judge("It is Only A Guide", rule).kind == "missing"
    assert judge("nothing", rule).why.startswith("“Nur allgemeine Hinweise.”")


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (f"Close it.\n\n{S}", ""),
        (f"Close it.\r\n\r\n{S}\r\n", ""),
        (f"Close it. {S}", ""),
        (f"{S}\n\nClose it.", "wrong place"),
        (json.dumps({"reply": f"Close it.\n\n{S}", "ok": True}), ""),
        (json.dumps({"reply": f"{S}\n\nClose it."}), "wrong place"),
        ("Close it.", "missing"),
    ],
)
def test_last_paragraph(output, kind):
    assert judge(output, Disclaimer(S, at="last paragraph")).kind == kind


@pytest.mark.parametrize(
    ("output", "kind"),
    [
        (json.dumps({"reply": S, "note": ""}), ""),
        (json.dumps({"reply": {"parts": ["Hi.", S]}}), ""),
        ("```\n" + json.dumps({"reply": S}) + "\n```", ""),
        (json.dumps({"reply": "Hi.", "note": S}), "wrong place"),
        (S, "wrong place"),
        (json.dumps({"note": "Hi."}), "missing"),
        (json.dumps({"reply": 5}), "missing"),
    ],
)
def test_named_field(output, kind):
    assert judge(output, Disclaimer(S, at="/reply")).kind == kind


def test_where_it_does_not_belong_it_belongs_nowhere():
    rule = Disclaimer(S, {"category": "safety"}, at="/reply")
    assert judge(json.dumps({"reply": "Hi.", "note": S}), rule, reference=_answer("x")).kind == "out of place"


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
def test_case_space_quotes_and_escapes_make_no_difference(output):
    assert judge(output, ALWAYS).holds


@pytest.mark.parametrize("output", ["", "This is advice.", "{}", "This isn't", '["This", 5, null]', "rethis isn't advice."])
def test_missing_disclaimer_is_said(output):
    score = judge(output, ALWAYS)
    assert (score.holds, score.kind) == (False, "missing")
    assert ALWAYS.text in score.why


def test_rule_applies_where_the_reference_says_so_and_not_where_the_output_does():
    reference = _answer("x", "safety")
    assert judge(_answer("Take care."), SAFETY, reference=reference).holds
    assert judge(_answer("Nothing."), SAFETY, reference=reference).kind == "missing"


def test_disclaimer_out_of_place_is_a_failure():
    assert judge(_answer("Take care."), SAFETY, reference=_answer("x")).kind == "out of place"
    assert judge(_answer("Nothing."), SAFETY, reference=_answer("x")).holds


def test_every_field_of_when_must_agree_and_not_every_one_of_unless():
    fields = {"category": "safety", "high": True}
    both, one = (json.dumps({"category": "safety", "high": high}) for high in (True, False))
    assert judge("nothing", Disclaimer("Take care.", fields), reference=both).kind == "missing"
    assert judge("nothing", Disclaimer("Take care.", fields), reference=one).holds
    assert judge("nothing", Disclaimer("Take care.", unless=fields), reference=both).holds
    assert judge("Take care.", Disclaimer("Take care.", unless=fields), reference=both).kind == "out of place"
    assert judge("nothing", Disclaimer("Take care.", unless=fields), reference=one).kind == "missing"


def test_field_that_is_absent_agrees_with_nothing():
    assert judge("nothing", Disclaimer("Take care.", {"category": None}), reference="{}").holds


@pytest.mark.parametrize("reference", [None, "no JSON at all"])
def test_without_a_reference_only_unconditional_rules_are_judged(reference):
    assert judge("Take care.", SAFETY, reference=reference).holds
    assert judge("nothing", Disclaimer("Take care.", unless={"a": 1}), reference=reference).holds
    assert judge("Take care.", SAFETY, ALWAYS, reference=reference).kind == "missing"


def test_deeply_nested_output_is_searched_and_raises_nothing():
    deep = "[" * 600 + '"This isn\'t advice."' + "]" * 600
    assert not judge(deep, Disclaimer("Nothing.")).holds
    assert judge("[" * 200_000, ALWAYS).kind == "missing"


def test_keys_are_no_place_for_a_disclaimer():
    assert not judge(json.dumps({ALWAYS.text: 1}), ALWAYS).holds


def test_normalised_folds_what_people_do_not_see():
    assert normalised("  “Ａ” –\u00a0b\n") == '"a" - b'


@pytest.mark.parametrize(
    "output",
    ["no " * 20_000, "not to " * 10_000 + S, '"' * 20_000 + S, "'a " * 10_000 + S, "> " * 20_000, "<think>" * 10_000, "{" * 20_000, S * 500],
    ids=range(8),
)  # fmt: skip
def test_hostile_output_has_a_verdict(output):
    judge(output, RULE, prompt=ASKED, fuzzy=True)


@given(st.text(alphabet="{}[]\":\\ <>think/.\n'not general guidance", max_size=80), st.sampled_from(["", ASKED]), st.booleans())
def test_any_output_has_a_verdict(output, prompt, fuzzy):
    judge(output, RULE, ALWAYS, Disclaimer("a", at="last paragraph"), prompt=prompt, fuzzy=fuzzy)
