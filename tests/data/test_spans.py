import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.data.access import file_bytes
from mlxtune.data.access.file_bytes import FileBytes
from mlxtune.data.access.layout import detect_layout
from mlxtune.data.access.records import RecordFile
from mlxtune.data.access.spans import csv_spans

BLOCKS = st.sampled_from([1, 2, 3, 7, 64, 1 << 20])  # small blocks put block borders at every position
TEXT = st.text(alphabet='ab",\\[]{}:;\n\té😀 ', max_size=8)
JSON = st.recursive(
    TEXT | st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)


def _read(path: Path, data: bytes, block: int) -> list[tuple[int, Any]]:
    """Return line and value of each record, scanning in blocks of ``block`` bytes. Spans must be ordered and disjoint."""
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_bytes, "BLOCK", block)
        source = FileBytes(path)
        layout = detect_layout(source)
        starts, ends, lines = layout.spans(source)
    assert (starts <= ends).all()
    assert (ends[:-1] <= starts[1:]).all()
    raw = [source.read(start, end) for start, end in zip(starts, ends, strict=True)]
    assert [data[:start].count(b"\n") + 1 for start in starts] == list(lines)
    source.close()
    return [(int(line), layout.value(record)) for line, record in zip(lines, raw, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scan")


@given(st.lists(JSON, max_size=5), st.sampled_from([None, 1, 4]), st.booleans(), st.sampled_from(["", "\n ", "\ufeff"]), BLOCKS)
def test_array_elements_equal_the_json_module(folder, items, indent, ascii, before, block):
    text = before + json.dumps(items, indent=indent, ensure_ascii=ascii) + "\n"
    assert [value for _, value in _read(folder / "d.json", text.encode(), block)] == items


@given(st.lists(st.tuples(TEXT, TEXT), max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans(), BLOCKS)
def test_csv_records_equal_the_csv_module(folder, rows, end, quoted, block):
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    writer.writerows([("one", "two"), *rows])
    records = _read(folder / "d.csv", file.getvalue().encode(), block)
    assert [tuple(value.values()) for _, value in records] == rows


@given(st.lists(st.sampled_from(["", " ", "\t\r", '{"a": 1}', ' {"a": 2}\r', '"\u2028\x85"']), max_size=6), BLOCKS)
def test_only_line_feeds_end_lines_and_blank_lines_are_skipped(folder, lines, block):
    records = _read(folder / "d.jsonl", "\n".join(lines).encode(), block)
    assert records == [(number, json.loads(line)) for number, line in enumerate(lines, 1) if line.strip(" \t\r")]


@pytest.mark.parametrize("space", [5, 40, 5000])
def test_whitespace_of_any_length_may_precede_an_element(folder, space):
    data = b"[" + b" " * space + b"1," + b"\n" * space + b"2" + b" " * space + b"]"
    assert _read(folder / "d.json", data, 16) == [(1, 1), (space + 1, 2)]


def test_a_line_above_the_limit_does_not_break_the_table(folder, monkeypatch):
    monkeypatch.setattr("mlxtune.data.access.spans.LIMIT", 100)
    data = b'one,two\n"a",b\n' + b"x" * 500 + b',y\n"c\nd",e\n'
    assert [line for line, _ in _read(folder / "d.csv", data, 16)] == [2, 3, 4]


@pytest.mark.parametrize("rest", [b"", b'7,"x, y",z\n'], ids=["to the end", "to the next quote"])
def test_an_unclosed_quote_costs_its_own_line_only(tmp_path, rest):
    file = tmp_path / "d.csv"
    file.write_bytes(b'a,b,c\n1,"two\nlines",3\n4,"open,6\n5,5,5\n6,"6\n6",6\n' + rest)
    source = FileBytes(file)
    assert [*csv_spans(source, ",")[2]] == [1, 2, 4, 5, 6, *([8] if rest else [])]
    source.close()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('4,"open\n5,5\n6,6\n', [2, 3, 4]),
        ('4,"open\n5,5\n6,"6\n6"\n7,7\n', [2, 3, 4, 6]),
        ('"4","open\n"5","x\ny"\n"6","6"\n', [2, 3, 5]),
        ('"1 "2" 3","two\nlines, really"\n', [2]),
        ('4,"open\nmore text, but\nno row\n6,"six"\n7,7\n', [2, 6]),
    ],
)
def test_with_two_columns_only_rows_can_follow_an_unclosed_quote(tmp_path, text, lines):
    file = tmp_path / "d.csv"
    file.write_text(f"a,b\n{text}", newline="")
    with RecordFile(file, mapping={"prompt": "a", "completion": "b"}) as records:
        assert [records.location(index).line for index in range(len(records))] == lines
        error = records.record(0)
    lost = lines[1] - 3 if len(lines) > 1 else 1
    assert (f"{lost} more line" in error.reason) == (lost > 0)
