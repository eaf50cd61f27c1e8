"""Outputs as rows: what fails is marked where it stands, whatever the width, and nothing in a text does anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxtune.tui.widgets.answer_text import FAILS, answer_rows, marks


def told(text: str, span: tuple[int, int] | None = None, width: int = 60) -> list[str]:
    return [row.plain for row in answer_rows(text, span, width)]


def marked(text: str, span: tuple[int, int], width: int) -> str:
    """The text under the mark, rows joined."""
    return "".join(
        row.plain[part.start : part.end] for row in answer_rows(text, span, width) for part in row.spans if part.style == FAILS
    )


def test_a_member_a_row_and_carets_under_what_fails() -> None:
    text = '{"category": "login", "priority": "hgih", "answer": "Open, the {app}"}'
    at = text.index('"hgih"')
    assert told(text, (at, at + 6)) == [
        '{"category": "login",',
        ' "priority": "hgih",',
        "             ^^^^^^",
        ' "answer": "Open, the {app}"}',
    ]
    assert [marks(row) for row in answer_rows(text, (at, at + 6), 60)] == [False, False, True, False]


def test_long_members_hang_and_prose_does_not() -> None:
    assert told('{"answer": "one two three four five"}', None, 20) == ['{"answer": "one two', '  three four five"}']
    assert told("one two three four five", None, 10) == ["one two", "three four", "five"]
    assert told("a" * 25, None, 10) == ["a" * 10, "a" * 10, "a" * 5]


def test_lines_of_the_text_stay_and_arrays_are_not_broken() -> None:
    assert told('{"a": [1, 2, 3],\n "b": {"c": 1, "d": 2}}') == ['{"a": [1, 2, 3],', ' "b": {"c": 1, "d": 2}}']
    assert told("Dear, you,\n\nyes") == ["Dear, you,", "", "yes"]


def test_what_was_cut_off_is_still_told_by_members() -> None:
    assert told('{"a": "x", "b": "it en') == ['{"a": "x",', ' "b": "it en']


def test_rows_of_carets_in_an_output_are_no_marks() -> None:
    assert not any(marks(row) for row in answer_rows("^^^^\nx", None, 20))


@pytest.mark.parametrize("width", [-3, 0, 1, 2])
def test_no_width_is_too_small(width: int) -> None:
    assert "".join(told('{"a": 1}', (1, 4), width)).count("^") == 3


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.integers(4, 40), st.integers(0, 80), st.integers(1, 20))
def test_rows_fit_are_safe_and_mark_the_span(text: str, width: int, start: int, length: int) -> None:
    span = (min(start, len(text)), min(start + length, len(text)))
    rows = answer_rows(text, span, width)
    for row in rows:
        assert cell_len(row.plain) <= max(width, 2)
        assert not set(row.plain) & set("\x1b\x07\r\n\t\x9b\u202e")
    dark = marked(text, span, width)
    assert len(dark) <= span[1] - span[0]
    assert dark or not text[span[0] : span[1]].strip()
