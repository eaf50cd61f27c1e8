import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlxtune.tui.render.output_text import (
    DIFFERENCE_STYLE,
    FAILURE_STYLE,
    difference_styles,
    is_marked,
    output_rows,
    styled_rows,
    word_diff,
)


def plain_rows(text: str, span: tuple[int, int] | None = None, width: int = 60) -> list[str]:
    return [row.plain for row in output_rows(text, span, width)]


def marked(text: str, span: tuple[int, int], width: int) -> str:
    return "".join(
        row.plain[part.start : part.end]
        for row in output_rows(text, span, width)
        for part in row.spans
        if part.style == FAILURE_STYLE
    )


def test_json_has_one_member_per_row_and_a_mark_on_the_failing_part():
    text = '{"category": "login", "priority": "hgih", "answer": "Open, the {app}"}'
    at = text.index('"hgih"')
    assert plain_rows(text, (at, at + 6)) == ['{"category": "login",', ' "priority": "hgih",', ' "answer": "Open, the {app}"}']
    assert [is_marked(row) for row in output_rows(text, (at, at + 6), 60)] == [False, True, False]
    assert marked(text, (at, at + 6), 60) == '"hgih"'


def test_long_members_hang_and_prose_does_not():
    assert plain_rows('{"answer": "one two three four five"}', None, 20) == ['{"answer": "one two', '  three four five"}']
    assert plain_rows("one two three four five", None, 10) == ["one two", "three four", "five"]
    assert plain_rows("a" * 25, None, 10) == ["a" * 10, "a" * 10, "a" * 5]


def test_lines_of_the_text_stay_and_arrays_are_not_broken():
    assert plain_rows('{"a": [1, 2, 3],\n "b": {"c": 1, "d": 2}}') == ['{"a": [1, 2, 3],', ' "b": {"c": 1,', '  "d": 2}}']
    assert plain_rows("Dear, you,\n\nyes") == ["Dear, you,", "", "yes"]


def test_json_is_indented_and_colored():
    text = '{"a":1,"b":{"c":true,"d":"x, {1}"},"e":[1,2]} and 7'
    rows = output_rows(text, None, 60)
    assert [row.plain for row in rows] == ['{"a":1,', ' "b":{"c":true,', '  "d":"x, {1}"},', ' "e":[1,2]} and 7']
    styled = [(row.plain[part.start : part.end], part.style) for row in rows for part in row.spans]
    assert [text for text, style in styled if style == "$second"] == ["1", "true", "1", "2"]
    assert ('"a":', "$muted") in styled
    assert not any("x" in text for text, _ in styled)


def test_truncated_json_is_still_split_by_member():
    assert plain_rows('{"a": "x", "b": "it en') == ['{"a": "x",', ' "b": "it en']


@pytest.mark.parametrize("width", [-3, 0, 1, 2])
def test_no_width_is_too_small(width):
    assert marked('{"a": 1}', (1, 4), width) == '"a"'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), st.integers(4, 40), st.integers(0, 80), st.integers(1, 20))
def test_rows_fit_the_width_are_safe_and_mark_the_span(text, width, start, length):
    span = (min(start, len(text)), min(start + length, len(text)))
    rows = output_rows(text, span, width)
    for row in rows:
        assert cell_len(row.plain) <= max(width, 2)
        assert not set(row.plain) & set("\x1b\x07\r\n\t\x9b\u202e")
    highlighted = marked(text, span, width)
    assert len(highlighted) <= span[1] - span[0]
    assert highlighted or not text[span[0] : span[1]].strip()


def test_differences_are_marked_in_indented_json():
    left, _ = word_diff('{"a": "x", "b": 1}', '{"a": "y", "b": 1}')
    rows = styled_rows('{"a": "x", "b": 1}', difference_styles(left), 40)
    assert [row.plain for row in rows] == ['{"a": "x",', ' "b": 1}']
    assert [row.plain[span.start : span.end] for row in rows for span in row.spans if span.style == DIFFERENCE_STYLE] == ["x"]
