from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.source import read_source
from mlxtune.evaluation.holdout.contamination import Contamination, check
from mlxtune.recipe import dump, parse


def _source(place: Path, name: str, questions: list[str]) -> Path:
    lines = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"{name}"}]} for text in questions]
    (place / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return place / name


def _run(workspace: Path, id: str, source: Path, train: slice, valid: slice, parent: str = "") -> Path:
    folder = workspace / "runs" / id
    (folder / "adapter").mkdir(parents=True)
    text = f'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "{source}"\n[adapter]\nparent = "{parent}"\n'
    (folder / "recipe.toml").write_text(dump(parse(text)))
    rows = read_source(source).rows
    record = {"train": [{"id": row.id} for row in rows[train]], "valid": [row.id for row in rows[valid]]}
    (folder / "data.json").write_text(json.dumps(record))
    return folder / "adapter"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _source(tmp_path, "shop.jsonl", [f"Question {word}?" for word in "abcdefghij"])


def test_rows_unseen_by_lineage_are_reported_as_untouched(tmp_path: Path, source: Path) -> None:
    parent = _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    adapter = _run(tmp_path, "two", source, slice(4, 6), slice(0, 0), str(parent))
    assert check(tmp_path, adapter, read_source(source).rows[6:]) == Contamination("unseen", "adapter", 6)
    assert check(tmp_path, None, read_source(source).rows) is None


@pytest.mark.parametrize("row", [0, 3, 4])
def test_rows_used_by_adapter_or_its_parent_are_refused(tmp_path: Path, source: Path, row: int) -> None:
    parent = _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    adapter = _run(tmp_path, "two", source, slice(4, 6), slice(0, 0), str(parent))
    with pytest.raises(InputError, match=rf"on 1 of the 2 rows .* shop\.jsonl, line {row + 1}\.") as caught:
        check(tmp_path, adapter, [read_source(source).rows[row], read_source(source).rows[9]])
    assert caught.value.message.startswith("two" if row == 4 else "one")


def test_duplicate_prompt_is_refused_while_source_exists(tmp_path: Path, source: Path) -> None:
    adapter = _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    other = _source(tmp_path, "other.jsonl", ["QUESTION  b?", "Something else?"])
    with pytest.raises(InputError, match=r"on 1 of the 2 rows .* other\.jsonl, line 1\."):
        check(tmp_path, adapter, read_source(other).rows)
    rows = read_source(source).rows[:1]
    source.unlink()
    assert check(tmp_path, adapter, read_source(other).rows).code == "unseen"
    with pytest.raises(InputError):
        check(tmp_path, adapter, rows)


def test_adapter_without_local_run_is_reported_as_unknown(tmp_path: Path, source: Path) -> None:
    _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    copied = tmp_path / "adapters" / "mine"
    copied.mkdir(parents=True)
    rows = read_source(source).rows
    assert check(tmp_path, copied, rows[5:]) == Contamination("unknown", "mine")
    (copied / "mlxtune.json").write_text('{"run": "one"}')
    assert check(tmp_path, copied, rows[5:]).code == "unseen"
    with pytest.raises(InputError):
        check(tmp_path, copied, rows[:1])
    (copied / "mlxtune.json").write_text('{"run": "gone"}')
    assert check(tmp_path, copied, rows[5:]).code == "unknown"


def test_copies_of_a_row_are_counted(tmp_path: Path) -> None:
    source = _source(tmp_path, "twins.jsonl", ["Is it warm?", "Is it warm?", "Is it cold?", "Is it new?"])
    adapter = _run(tmp_path, "one", source, slice(0, 2), slice(2, 3))
    assert check(tmp_path, adapter, read_source(source).rows[3:]).rows == 3
