from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import InputError
from mlxtune.data.decisions import Decision, State
from mlxtune.data.filters import Subject, parse, said
from mlxtune.data.rows import Conversation, Message, Place, Preference, Row, Text

HERE = Place(Path("d.jsonl"), 1)


def _subject(row: Row, *, tokens: int = -1, findings: frozenset[str] = frozenset(), **decided: object) -> Subject:
    return Subject.of((row.hash, row), State({row.hash: Decision(row.hash, row.hash, **decided)}), findings, tokens)


CHAT = Conversation(
    HERE,
    {"tags": ["billing", "two words"]},
    (Message("user", "Where is my Refund? a/b"), Message("assistant", "Soon: it takes 3 days")),
)
ONE = _subject(CHAT, status="accepted", tokens=12, findings=frozenset({"near-duplicate"}))


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", "status:accepted", "status:decided", "tag:billing", 'tag:"two words"', "finding:near-duplicate", "refund", '"my refund"',
        "/Ref.nd/", "/ref.nd/i", r"/a\/b/", "/is my Refund\\? a/", "len=45", "len>44", "len>=45", "len<46", "len<=45", "tokens=12", "tokens<13",
        "-tag:other", "-/xyz/", "-len>45", "-status:pending", "status:accepted tag:billing refund len>4", f"id:{CHAT.hash[:6]}", "a/b", "Soon",
        '"soon: it"', "3", "-status:edited", "-status:undecided",
    ],
)  # fmt: skip
def test_holds(text):
    assert len(said(CHAT)) == 45
    assert parse(text)(ONE)


@pytest.mark.parametrize(
    "text",
    [
        "status:pending", "tag:bill", "finding:leak", "/ref.nd/", "len>45", "len<45", "tokens>12", "-refund", "refund tag:other", "id:zz",
        "user", "assistant", "status:edited", '-"my refund"',
    ],
)  # fmt: skip
def test_does_not_hold(text):
    assert not parse(text)(ONE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/(/", "is no regular expression"),
        ("status:acepted", "There is no status acepted"),
        ("statu:pending", "A filter has no statu:"),
        ("finding:near-twin", "No check finds near-twin."),
        ('"open', 'cannot be read from here on: "open'),
        ("status:pending /open", "cannot be read from here on: /open"),
    ],
)
def test_what_cannot_be_understood_is_named(text, words):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert words in caught.value.message


def test_a_near_miss_is_guessed():
    with pytest.raises(InputError) as caught:
        parse("status:acepted")
    assert caught.value.mend == "Did you mean accepted?"
    with pytest.raises(InputError) as caught:
        parse("tags:x")
    assert caught.value.mend == "Did you mean tag:?"


def test_lengths_in_tokens_hold_for_none_where_they_are_not_known():
    assert not parse("tokens<99")(_subject(CHAT))
    assert not parse("tokens>0")(_subject(CHAT))


def test_all_that_a_pair_and_a_text_say_is_searched():
    pair = Preference(HERE, {}, (Message("system", "be kind"), Message("user", "q")), "yes", "no")
    assert said(pair) == "be kind\nq\nyes\nno"
    assert said(Text(HERE, {}, "plain")) == "plain"


def test_edited_and_undecided_are_states_of_their_own():
    assert parse("status:edited")(_subject(CHAT, record=CHAT.content))
    assert parse("status:undecided")(_subject(CHAT, status="skipped"))
    assert not parse("status:pending")(_subject(CHAT, status="skipped"))
    assert parse("status:decided")(_subject(CHAT, status="tied"))


@given(st.text(max_size=20) | st.text(string.punctuation + "ab ", max_size=20))
def test_any_text_is_a_filter_or_an_input_error(text):
    try:
        chosen = parse(text)
    except InputError:
        return
    assert chosen(ONE) in (True, False)


@given(st.text(st.characters(exclude_characters='"', exclude_categories=["Cs"]), min_size=1, max_size=6))
def test_a_quoted_text_is_found_where_it_stands(text):
    row = Text(HERE, {}, f"before {text} after")
    assert parse(f'"{text}"')(_subject(row))


def test_an_edited_row_is_found_by_what_it_says_now_and_by_either_id():
    row = Text(HERE, {}, "before")
    edited = _subject(row, record={"text": "after"}, tags=("new",))
    assert parse("after tag:new")(edited)
    assert not parse("before")(edited)
    assert parse(f"id:{row.id}")(edited)
    assert parse(f"id:{Text(HERE, {}, 'after').id}")(edited)
