from __future__ import annotations

import string
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import InputError
from mlxtune.data.checks.registry import CHECKS, check_filter_name, check_named
from mlxtune.data.filters import parse
from mlxtune.data.review import Decision, apply_decision
from mlxtune.data.rows import Conversation, Location, Message, Preference, Row, TextRow, row_text

LOCATION = Location(Path("d.jsonl"), 1)


def _loaded_row(
    row: Row, *, split: str | None = None, tokens: int = -1, findings: frozenset[str] = frozenset(), **decided: object
) -> SimpleNamespace:
    decision = Decision(row.hash, row.hash, **decided)
    current = apply_decision(row, decision)
    return SimpleNamespace(row=row, current=current, decision=decision, findings=findings, split=split, tokens=tokens)


CHAT = Conversation(
    LOCATION,
    {"tags": ["billing", "two words"], "lang": "en", "score": 2.5, "done": True},
    (Message("user", "Where is my Refund? a/b"), Message("assistant", "Soon: it takes 3 days")),
)
ROW = _loaded_row(CHAT, status="accepted", split="test", tokens=12, findings=frozenset({"near-duplicate"}))


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "status:accepted", "status:decided", "tag:billing", 'tag:"two words"', "finding:near-duplicate", "split:test", "refund", '"my refund"',
        "/Ref.nd/", "/ref.nd/i", r"/a\/b/", "/is my Refund\\? a/", "len=45", "len>44", "len>=45", "len<46", "len<=45", "tokens=12", "tokens<13",
        "-tag:other", "-/xyz/", "-len>45", "-status:pending", "status:accepted tag:billing refund len>4", f"id:{CHAT.hash[:6]}", "a/b", "Soon",
        '"soon: it"', "3", "-status:edited", "-status:undecided",
        "len > 40", "len!=5", "len != 5 refund", "nothing or refund", "nothing OR refund", "(nothing or refund) tag:billing", "-(nothing or never)",
        "nothing tag:x or refund", "meta.lang:en", 'meta.lang:"en"', "meta.score>=2.5", "meta.score!=3", "-meta.other:x", "meta.done:true", "meta.tags:billing",
        "answer:/^Soon/", "assistant:soon", "user:refund", "prompt:/Refund/", "-answer:refund", '"or" or refund', "((refund))", "(refund)(soon)",
    ],
)  # fmt: skip
def test_filter_matches(text):
    assert len(row_text(CHAT)) == 45
    assert parse(text)(ROW)


@pytest.mark.parametrize(
    "text",
    [
        "status:pending", "tag:bill", "finding:leak", "split:train", "/ref.nd/", "len>45", "len<45", "tokens>12", "-refund", "refund tag:other", "id:zz",
        "user", "assistant", "status:edited", '-"my refund"',
        "len > 400", "len!=45", "nothing or never", "(refund or nothing) never", "-(refund or never)", "meta.lang:de", "meta.none:x", "meta.lang>1",
        "answer:refund", "prompt:soon", "system:x", "meta.none!=1",
    ],
)  # fmt: skip
def test_filter_does_not_match(text):
    assert not parse(text)(ROW)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/(/", "is not a valid regular"),
        ("status:acepted", "Unknown status acepted"),
        ("statu:pending", "Unknown filter statu:"),
        ("split:held", "Unknown split held"),
        ("finding:near-twin", "Unknown check near-twin."),
        ("len>abc", "len>abc has no number"),
        ('"open', 'invalid, starting at: "open'),
        ("status:pending /open", "invalid, starting at: /open"),
        ("len>", "len> has no number"),
        ("len > x", "invalid, starting at: >"),
        ("a && b", "invalid, starting at: &&"),
        ("a AND b", "invalid, starting at: AND"),
        ("a or", "invalid, starting at: or"),
        ("or a", "invalid, starting at: or"),
        ("(a b", "invalid, starting at: ("),
        ("- tag:winter", "invalid, starting at: -"),
        ("a)", "invalid, starting at: )"),
        ("()", "invalid, starting at: )"),
        ("category:x", "Unknown filter category:"),
        ("language:Klingon", "Unknown language Klingon"),
    ],
)
def test_an_invalid_filter_is_reported(text, words):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (":", 'Complete it, or put text in quotes: "a:b"'),
        ('-"a', "Close the quote or the slash."),
        ("finding:speak-as-an-ai", "Did you mean self-reference?"),
    ],
)
def test_the_hint_fits_the_invalid_text(text, hint):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert caught.value.hint == hint


def test_a_check_is_found_by_the_short_name_that_lists_show():
    assert [check_named(name) for name in ("as an AI", "as-an-ai", "invisible", "near-dup", "control")] == [
        "self-reference", "self-reference", "control", "near-duplicate", "control"
    ]  # fmt: skip
    for id, check in CHECKS.items():
        assert check_named(check.label) == check_named(check_filter_name(id)) == id


def test_a_typo_gets_a_suggestion():
    with pytest.raises(InputError) as caught:
        parse("status:acepted")
    assert caught.value.hint == "Did you mean accepted?"
    with pytest.raises(InputError) as caught:
        parse("tags:x")
    assert caught.value.hint.startswith("Did you mean tag?")


def test_rows_are_found_by_the_language_of_their_answers():
    row = _loaded_row(TextRow(LOCATION, {}, "Das ist der Grund, und wir haben es nicht mit der Post geschickt."))
    assert parse("language:German")(row)
    assert not parse("language:English")(row)


def test_unknown_token_counts_match_no_token_filter():
    assert not parse("tokens<99")(_loaded_row(CHAT))
    assert not parse("tokens>0")(_loaded_row(CHAT))


def test_row_text_is_all_text_of_a_row():
    pair = Preference(LOCATION, {}, (Message("system", "be kind"), Message("user", "q")), "yes", "no")
    assert row_text(pair) == "be kind\nq\nyes\nno"
    assert row_text(TextRow(LOCATION, {}, "plain")) == "plain"


def test_edited_and_undecided_are_statuses():
    assert parse("status:edited")(_loaded_row(CHAT, record=CHAT.content))
    assert parse("status:undecided")(_loaded_row(CHAT, status="skipped"))
    assert not parse("status:pending")(_loaded_row(CHAT, status="skipped"))
    assert parse("status:decided")(_loaded_row(CHAT, status="tied"))


@given(st.text(max_size=20) | st.text(string.punctuation + "ab ", max_size=20))
def test_any_text_is_a_filter_or_an_input_error(text):
    try:
        matches = parse(text)
    except InputError:
        return
    assert matches(ROW) in (True, False)


@given(st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1, max_size=6))
def test_quoted_text_matches_anywhere(text):
    row = TextRow(LOCATION, {}, f"before {text} after")
    assert parse(f'"{text}"')(_loaded_row(row))


def test_an_edited_row_matches_its_new_text_and_both_ids():
    row = TextRow(LOCATION, {}, "before")
    edited = _loaded_row(row, record={"text": "after"}, tags=("new",))
    assert parse("after tag:new")(edited)
    assert not parse("before")(edited)
    assert parse(f"id:{row.id}")(edited)
    assert parse(f"id:{TextRow(LOCATION, {}, 'after').id}")(edited)
