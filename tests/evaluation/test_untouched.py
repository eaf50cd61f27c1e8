import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.rows import PromptRow, prompt_hashes
from mlxtune.data.source import read_source
from mlxtune.evaluation.holdout import contamination
from mlxtune.evaluation.holdout.contamination import Contamination
from mlxtune.recipe import dump, parse


def check(workspace: Path, adapter: Path, rows: Sequence[PromptRow]) -> Contamination:
    return contamination.check(workspace, [adapter], rows)[0]


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
    prompts = [hash for row in (*rows[train], *rows[valid]) for hash in prompt_hashes(row)]
    record = {"train": [{"id": row.id} for row in rows[train]], "valid": [row.id for row in rows[valid]], "prompts": prompts}
    (folder / "data.json").write_text(json.dumps(record))
    return folder / "adapter"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return _source(tmp_path, "shop.jsonl", [f"Question {word}?" for word in "abcdefghij"])


def test_rows_unseen_by_lineage_are_reported_as_untouched(tmp_path, source):
    parent = _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    adapter = _run(tmp_path, "two", source, slice(4, 6), slice(0, 0), str(parent))
    assert check(tmp_path, adapter, read_source(source).rows[6:]) == Contamination("unseen", "adapter", 6)
    assert contamination.check(tmp_path, [], read_source(source).rows) == (None, ())


@pytest.mark.parametrize("row", [0, 3, 4])
def test_rows_used_by_adapter_or_its_parent_are_refused(tmp_path, source, row):
    parent = _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    adapter = _run(tmp_path, "two", source, slice(4, 6), slice(0, 0), str(parent))
    with pytest.raises(InputError, match=rf"on 1 of the 2 rows .* shop\.jsonl, line {row + 1}\.") as caught:
        check(tmp_path, adapter, [read_source(source).rows[row], read_source(source).rows[9]])
    assert caught.value.message.startswith("two" if row == 4 else "one")


def test_duplicate_prompt_is_refused_also_without_the_source(tmp_path, source):
    adapter = _run(tmp_path, "one", source, slice(0, 3), slice(3, 4))
    other = _source(tmp_path, "other.jsonl", ["QUESTION  b?", "Something else?"])
    source.unlink()
    with pytest.raises(InputError, match=r"on 1 of the 2 rows .* other\.jsonl, line 1\."):
        check(tmp_path, adapter, read_source(other).rows)
    assert check(tmp_path, adapter, read_source(other).rows[1:]).code == "unseen"


def test_prompt_inside_a_training_conversation_is_refused(tmp_path):
    texts = ["Is it warm?", "Yes.", "Why?", "Sun."]
    turns = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    (tmp_path / "talks.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    adapter = _run(tmp_path, "one", tmp_path / "talks.jsonl", slice(0, 1), slice(0, 0))
    asked = read_source(_source(tmp_path, "asked.jsonl", ["IS IT  WARM?", "Why?"])).rows
    with pytest.raises(InputError, match=r"on 1 of the 2 rows .* asked\.jsonl, line 1\."):
        check(tmp_path, adapter, asked)
    assert check(tmp_path, adapter, asked[1:]) == Contamination("unseen", "adapter", 1)


def test_adapter_without_local_run_is_reported_as_unknown(tmp_path, source):
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


def test_copies_of_a_row_are_counted(tmp_path):
    source = _source(tmp_path, "twins.jsonl", ["Is it warm?", "Is it warm?", "Is it cold?", "Is it new?"])
    adapter = _run(tmp_path, "one", source, slice(0, 2), slice(2, 3))
    assert check(tmp_path, adapter, read_source(source).rows[3:]).rows == 3
