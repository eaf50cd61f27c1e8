from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.data import mapped, scan
from mlxtune.data.layout import layout
from mlxtune.data.mapped import Mapped

BLOCKS = st.sampled_from([1, 2, 3, 7, 64, 1 << 20])  # the smallest ones put every kind of border into every place
TEXT = st.text(alphabet='ab",\\[]{}:;\n\té😀 ', max_size=8)
JSON = st.recursive(
    TEXT | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def _read(path: Path, data: bytes, block: int) -> list[tuple[int, Any]]:
    """The line and the value of each record, found in blocks of ``block`` bytes. The spans must be in order, apart and inside."""
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "BLOCK", block)
        source = Mapped(path)
        how = layout(source)
        spans = how.spans(source)
    assert spans.fit(source.size)
    raw = [source.read(start, end) for start, end in zip(spans.starts, spans.ends, strict=True)]
    assert [data[:start].count(b"\n") + 1 for start in spans.starts] == list(spans.lines)
    source.close()
    return [(int(line), how.value(one)) for line, one in zip(spans.lines, raw, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scan")


@settings(deadline=None)
@given(st.lists(JSON, max_size=5), st.sampled_from([None, 1, 4]), st.booleans(), st.sampled_from(["", "\n ", "\ufeff"]), BLOCKS)
def test_elements_of_an_array_are_what_json_says(folder, items, indent, ascii, before, block):
    text = before + json.dumps(items, indent=indent, ensure_ascii=ascii) + "\n"
    assert [value for _, value in _read(folder / "d.json", text.encode(), block)] == items


@settings(deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans(), BLOCKS)
def test_records_of_a_table_are_what_the_csv_module_says(folder, rows, end, quoted, block):
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([("one", "two"), *rows])
    found = _read(folder / "d.csv", file.getvalue().encode(), block)
    assert [tuple(value.values()) for _, value in found] == rows


@settings(deadline=None)
@given(st.text(alphabet='a",\n\r ', max_size=20), BLOCKS)
def test_any_table_is_divided_as_the_csv_module_divides_it(folder, text, block):
    path = folder / "d.csv"
    path.write_bytes(b"one,two\n" + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "BLOCK", block)
        source = Mapped(path)
        found = scan.records(source, ",")
        asked = scan._parsed(source, ",")
        source.close()
    assert [list(column) for column in (found.starts, found.ends, found.lines)] == [
        list(column) for column in (asked.starts, asked.ends, asked.lines)
    ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", " ", "\t\r", '{"a": 1}', ' {"a": 2}\r', '"\u2028\x85"']), max_size=6), BLOCKS)
def test_lines_end_with_line_feeds_alone_and_blank_ones_are_none(folder, lines, block):
    found = _read(folder / "d.jsonl", "\n".join(lines).encode(), block)
    assert found == [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip(" \t\r")]


@pytest.mark.parametrize("space", [5, 40, 5000])
def test_white_space_of_any_length_stands_before_an_element(folder, space):
    data = b"[" + b" " * space + b"1," + b"\n" * space + b"2" + b" " * space + b"]"
    assert _read(folder / "d.json", data, 16) == [(1, 1), (space + 1, 2)]


def test_line_above_the_limit_leaves_the_table_whole(folder, monkeypatch):
    monkeypatch.setattr("mlxtune.data.scan.LIMIT", 100)
    data = b'one,two\n"a",b\n' + b"x" * 500 + b',y\n"c\nd",e\n'
    assert [line for line, _ in _read(folder / "d.csv", data, 16)] == [2, 3, 4]
