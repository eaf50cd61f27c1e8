"""An answer's text in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.serving.words import Words


def decode(tokens) -> str:
    """One byte a token."""
    return bytes(tokens).decode("utf-8", "replace")


@given(st.text(max_size=40))
def test_pieces_joined_are_the_text_and_never_half_a_character(text: str) -> None:
    words = Words(decode)
    pieces = [words.add(byte) for byte in text.encode()] + [words.end()]
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces) or "\ufffd" in text


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_nothing_of_a_stop_string_is_shown_nor_what_follows(text: str, stops: list[str]) -> None:
    words, shown = Words(decode, stops), ""
    for byte in text.encode():
        shown += words.add(byte)
        if words.stopped:
            break
        assert not any(stop in shown for stop in stops)
    else:
        shown += words.end()
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if ends:
        seen = text[: min(ends)]
        assert words.stopped
        assert shown == seen[: min(seen.find(stop) for stop in stops if stop in seen)]
    else:
        assert shown == text


def test_a_character_that_is_never_completed_is_still_told() -> None:
    words = Words(decode)
    assert words.add(0xC3) == ""
    assert words.end() == "\ufffd"


@pytest.mark.parametrize("text", ["a\ufffdb"])
def test_a_real_replacement_character_is_only_late(text: str) -> None:
    words = Words(decode)
    assert "".join([words.add(byte) for byte in text.encode()] + [words.end()]) == text
