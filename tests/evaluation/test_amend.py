"""The mend of an answer that lacks a disclaimer: where it goes, that nothing else changes, and when there is none."""

from __future__ import annotations

import json

import pytest

from mlxtune.evaluation.amend import with_disclaimers
from mlxtune.recipe import Disclaimer, Phrase

SAFETY = Disclaimer("This is general guidance.", when={"category": "safety"})
ALWAYS = Disclaimer("No legal advice.")


def test_it_ends_the_longest_string_and_leaves_the_rest_as_it_was_written() -> None:
    answer = '{ "category":"safety",\n  "reply": "Only with a flue: \\u00fcber."  }'
    assert with_disclaimers(answer, [SAFETY]) == answer.replace('\\u00fcber."', '\\u00fcber. This is general guidance."')


def test_an_answer_in_prose_gets_a_paragraph() -> None:
    assert with_disclaimers("Ask a lawyer. ", [ALWAYS]) == "Ask a lawyer.\n\nNo legal advice."


@pytest.mark.parametrize("at", ["/note", "last paragraph"])
def test_it_goes_where_the_rule_looks_for_it(at: str) -> None:
    answer = json.dumps({"reply": "A long reply that says much.", "note": "Short."})
    mended = with_disclaimers(answer, [Disclaimer("No legal advice.", at=at)])
    if at == "/note":
        assert mended is not None
        assert json.loads(mended) == {"reply": "A long reply that says much.", "note": "Short. No legal advice."}
    else:  # the last text of the answer is another field than the longest: it would still be in the wrong place
        assert mended is None


def test_every_rule_that_lacks_is_met_at_once() -> None:
    mended = with_disclaimers('{"category": "safety", "reply": "Only with a flue."}', [SAFETY, ALWAYS])
    assert mended is not None
    assert json.loads(mended)["reply"] == "Only with a flue. This is general guidance. No legal advice."


def test_another_way_to_say_it_is_taken_where_the_first_is_a_pattern() -> None:
    rule = Disclaimer(any_of=[Phrase("no (legal )?advice", "regex"), Phrase("No legal advice.")])
    assert with_disclaimers("Ask a lawyer.", [rule]) == "Ask a lawyer.\n\nNo legal advice."


@pytest.mark.parametrize(
    "answer",
    [
        "Ask a lawyer. No legal advice.",  # nothing lacks
        '{"note": "Short."}',  # the field that the rule names is not there
        '{"category": "other", "reply": "This is general guidance."}',  # one is out of place
        "",
    ],
)
def test_where_adding_mends_nothing_there_is_no_mend(answer: str) -> None:
    rules = [SAFETY] if "category" in answer else [Disclaimer("No legal advice.", at="/reply" if "note" in answer else "anywhere")]
    assert with_disclaimers(answer, rules) is None
