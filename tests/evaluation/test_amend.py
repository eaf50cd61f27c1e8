"""Adding a missing disclaimer to an answer: where it is inserted, what stays unchanged, and when it is impossible."""

import json

import pytest

from mlxtune.evaluation.scorers.disclaimer import add_missing_disclaimers
from mlxtune.recipe import Disclaimer, Phrase

SAFETY = Disclaimer("This is general guidance.", when={"category": "safety"})
ALWAYS = Disclaimer("No legal advice.")


def test_disclaimer_extends_longest_string_and_keeps_formatting():
    answer = '{ "category":"safety",\n  "reply": "Only with a flue: \\u00fcber."  }'
    assert add_missing_disclaimers(answer, [SAFETY]) == answer.replace('\\u00fcber."', '\\u00fcber. This is general guidance."')


def test_prose_answer_gets_new_paragraph():
    assert add_missing_disclaimers("Ask a lawyer. ", [ALWAYS]) == "Ask a lawyer.\n\nNo legal advice."


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
    mended = add_missing_disclaimers('{"category": "safety", "reply": "Only with a flue."}', [SAFETY, ALWAYS])
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
    rules = [SAFETY] if "category" in answer else [Disclaimer("No legal advice.", at="/reply" if "note" in answer else "anywhere")]
    assert add_missing_disclaimers(answer, rules) is None
