from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.text import duration, nearest, one_line, plural, restored, safe_text


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=40))
def test_nothing_that_a_terminal_obeys_or_cannot_print_gets_through(text):
    shown = safe_text(text)
    shown.encode("utf-8")
    for char in shown:
        assert char in "\n\t" or unicodedata.category(char) != "Cc"
        assert unicodedata.bidirectional(char) not in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_escape_sequences_become_visible():
    assert safe_text("\x1b[31mred\x07\r") == "␛[31mred␇␍"
    assert safe_text("a\r\nb\tc") == "a\nb\tc"


def test_markup_and_honest_signs_stay_as_they_are():
    text = "[bold]x[/bold] {y} 日本 👩‍🚀 é"
    assert safe_text(text) == text


@given(st.text(max_size=60), st.integers(1, 30))
def test_limit_is_kept_and_a_cut_is_marked(text, limit):
    shown = safe_text(text, limit=limit)
    assert len(shown) <= limit
    assert shown == safe_text(text) or shown.endswith("…")


def test_one_line_has_one_line():
    assert one_line("  a\n\n b\t\u2028c\r\n") == "a b c"
    assert one_line("abcdef", 4) == "abc…"


def test_nearest_finds_typos_and_nothing_far():
    assert nearest("learning_rat", ["rank", "learning_rate"]) == "learning_rate"
    assert nearest("zzz", ["rank", "alpha"]) is None


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 rows"), (1, "1 row"), (1204, "1,204 rows")]
)  # fmt: skip
def test_plural(count, words):
    assert plural(count, "row") == words
    assert plural(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (40, "40 s"),
        (89, "89 s"),
        (95, "2 min"),
        (420, "7 min"),
        (7500, "2 h 05 min"),
        (5399, "1 h 30 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words


@given(st.text(), st.text(), st.integers(0, 40), st.integers(0, 40))
def test_what_was_not_touched_is_restored(original, typed, start, length):
    shown = safe_text(original)
    start = min(start, len(shown))
    assert restored(original, shown) == original
    edited = shown[:start] + typed + shown[start + length :]
    assert safe_text(restored(original, edited)) == safe_text(edited)


def test_hidden_signs_come_back_around_an_edit():
    original = "a\x1b[31mb\r\nc\u202ed"
    assert restored(original, "a␛[31mB\nc�d!") == "a\x1b[31mB\r\nc\u202ed!"
