import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.text import duration, nearest, one_line, plural, restore_unsafe, safe_text, speed


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=40))
def test_safe_text_removes_control_characters(text):
    shown = safe_text(text)
    shown.encode("utf-8")
    for char in shown:
        assert char in "\n\t" or unicodedata.category(char) != "Cc"
        assert unicodedata.bidirectional(char) not in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def test_escape_sequences_are_made_visible():
    assert safe_text("\x1b[31mred\x07\r") == "␛[31mred␇␍"
    assert safe_text("a\r\nb\tc") == "a\nb\tc"


def test_markup_and_printable_characters_are_unchanged():
    text = "[bold]x[/bold] {y} 日本 👩‍🚀 é"
    assert safe_text(text) == text


@given(st.text(max_size=60), st.integers(1, 30))
def test_a_truncated_text_ends_with_an_ellipsis(text, limit):
    shown = safe_text(text, limit=limit)
    assert len(shown) <= limit
    assert shown == safe_text(text) or shown.endswith("…")


def test_one_line():
    assert one_line("  a\n\n b\t\u2028c\r\n") == "a b c"
    assert one_line("\x0crac{1}{2}") == "␌rac{1}{2}"
    assert one_line("abcdef", 4) == "abc…"
    assert one_line("a" + " " * 10**6 + "b", 4) == "a …"


def test_nearest_finds_typos_only():
    assert nearest("learning_rat", ["rank", "learning_rate"]) == "learning_rate"
    assert nearest("zzz", ["rank", "alpha"]) is None


@pytest.mark.parametrize(("count", "words"), [(0, "0 rows"), (1, "1 row"), (1204, "1,204 rows")])
def test_plural(count, words):
    assert plural(count, "row") == words
    assert plural(2, "entry", "entries") == "2 entries"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 s"), (0.4, "0 s"), (40, "40 s"), (89, "89 s"), (95, "2 min"), (420, "7 min"),
        (7500, "2 h 05 min"), (5399, "1 h 30 min"),
    ],
)  # fmt: skip
def test_duration(seconds, words):
    assert duration(seconds) == words


@pytest.mark.parametrize(("tokens", "words"), [(0.44, "0.4"), (0.96, "1"), (15.2, "15"), (1204, "1,204")])
def test_speed(tokens: float, words: str) -> None:
    assert speed(tokens) == words


@given(st.text(), st.text(), st.integers(0, 40), st.integers(0, 40))
def test_unedited_text_is_restored(original, inserted, start, length):
    shown = safe_text(original)
    start = min(start, len(shown))
    assert restore_unsafe(original, shown) == original
    edited = shown[:start] + inserted + shown[start + length :]
    assert safe_text(restore_unsafe(original, edited)) == safe_text(edited)


def test_hidden_characters_around_an_edit_are_restored():
    original = "a\x1b[31mb\r\nc\u202ed"
    assert restore_unsafe(original, "a␛[31mB\nc▯d!") == "a\x1b[31mB\r\nc\u202ed!"
