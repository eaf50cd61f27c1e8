from __future__ import annotations

import json

import pytest

from mlxtune.core.errors import DataError
from mlxtune.data.source import read_file, read_source

ROW = {"prompt": "q", "completion": "a"}


def _lines(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_json_file_must_be_an_array(tmp_path):
    (tmp_path / "o.json").write_text(json.dumps(ROW, indent=2))
    with pytest.raises(DataError, match="must contain an array"):
        read_file(tmp_path / "o.json")
    (tmp_path / "b.json").write_text("[")
    with pytest.raises(DataError, match=r"b\.json is not valid JSON"):
        read_file(tmp_path / "b.json")


def test_a_folder_defines_its_own_splits(tmp_path):
    _lines(tmp_path / "train.jsonl", ROW, {**ROW, "prompt": "r"})
    _lines(tmp_path / "test.jsonl", {**ROW, "prompt": "s"})
    source = read_source(tmp_path)
    assert {part: len(rows) for part, rows in source.parts.items()} == {"train": 2, "test": 1}
    assert len(source.rows) == 3


def test_a_folder_without_train_is_refused(tmp_path):
    _lines(tmp_path / "test.jsonl", ROW)
    with pytest.raises(DataError, match=r"no train\.jsonl"):
        read_source(tmp_path)


def test_a_folder_of_documents_is_to_be_converted(tmp_path):
    (tmp_path / "notes.md").write_text("# Notes")
    with pytest.raises(DataError, match=r"no train\.jsonl") as caught:
        read_source(tmp_path)
    assert f"mlxtune data import {tmp_path} --out {tmp_path.name}.jsonl" in caught.value.hint


@pytest.mark.parametrize("text", ["", "\n\n  \n"])
def test_an_empty_file_is_refused(tmp_path, text):
    (tmp_path / "d.jsonl").write_text(text)
    with pytest.raises(DataError, match="has no rows"):
        read_source(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [(['{"prompt": '], "line 2: not valid JSON"), ([{"bad": 1}] * 8, "lines 2, 3, 4, 5, 6, and 3 more: no known format")],
)
def test_bad_rows_are_counted_and_each_reason_is_given_once_with_five_places(tmp_path, bad, reason):
    with pytest.raises(DataError) as caught:
        read_file(_lines(tmp_path / "d.jsonl", ROW, *bad))
    text = str(caught.value)
    assert text.startswith(f"{len(bad)} of {len(bad) + 1} rows cannot be used:\n  d.jsonl, {reason}")
    assert len(text.splitlines()) == 2
    assert caught.value.hint


def test_bad_rows_are_counted_for_each_file(tmp_path):
    for name, bad in (("train", 2), ("valid", 1)):
        _lines(tmp_path / f"{name}.jsonl", ROW, *[{"bad": number} for number in range(bad)])
    with pytest.raises(DataError) as caught:
        read_source(tmp_path)
    text = str(caught.value)
    assert "train.jsonl, lines 2, 3: " in text
    assert "valid.jsonl, line 2: " in text
