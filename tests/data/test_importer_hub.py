from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pyarrow
import pytest
from hub_stub import COMMIT, Repo
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from pyarrow import parquet

from mlxtune.core.errors import DataError, MachineError
from mlxtune.data import hub_source
from mlxtune.data.rows import prompt_text
from mlxtune.data.source import read_source
from mlxtune.recipe.load import parse
from mlxtune.recipe.schema import hub_copy


def _hub_error(kind: type[Exception]) -> Exception:
    """Return an error of the Hub client without the response that its constructor requires."""
    return kind.__new__(kind)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """Replace the Hub by one with a single dataset of ``files``; ``error`` is raised by downloads."""
    hub: dict[str, object] = {"files": ["README.md", "train.jsonl"], "error": None, "requests": []}

    class Api:
        def dataset_info(self, hub_id: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
            if isinstance(hub["files"], Exception):
                raise hub["files"]
            return SimpleNamespace(sha="r1", siblings=[SimpleNamespace(rfilename=name) for name in hub["files"]])

    def download(hub_id: str, name: str, *, repo_type: str, revision: str | None) -> str:
        hub["requests"] += [(hub_id, name, repo_type)]
        if hub["error"]:
            raise hub["error"]
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return hub


def test_the_file_of_a_dataset_is_downloaded(stub, tmp_path):
    assert hub_source.download("owner/shop") == ([tmp_path / "train.jsonl"], "r1")
    assert hub_source.download("owner/shop", "other.csv") == ([tmp_path / "other.csv"], "")
    assert stub["requests"] == [("owner/shop", "train.jsonl", "dataset"), ("owner/shop", "other.csv", "dataset")]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["data.json", ".gitattributes", "dataset_infos.json"], "data.json"),
        (["data/train.csv", "data/test.csv"], "data/train.csv"),
        (["A.JSONL", "README.md"], "A.JSONL"),
    ],
)
def test_the_obvious_data_file_is_chosen(names, chosen):
    assert hub_source.choose_files("o/s", names) == [chosen]


def test_several_data_files_are_listed():
    with pytest.raises(DataError) as caught:
        hub_source.choose_files("o/s", ["b.jsonl", "a.csv"])
    assert (caught.value.message, caught.value.hint) == (
        "o/s has several files: a.csv, b.jsonl.",
        "Choose one with --file NAME, or hf:owner/name:split in a recipe.",
    )
    with pytest.raises(DataError, match=r"train-1\.jsonl, train-2\.jsonl"):
        hub_source.choose_files("o/s", ["train-1.jsonl", "train-2.jsonl", "test.jsonl"])


def test_unsupported_file_types_are_listed():
    with pytest.raises(DataError, match=r"has no \.jsonl, \.json, \.csv, or \.parquet file, only \.arrow\."):
        hub_source.choose_files("o/s", ["data/train-0.arrow", "README.md"])


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ("files", _hub_error(RepositoryNotFoundError), "There is no public dataset owner/shop"),
        ("files", _hub_error(RevisionNotFoundError), "has no such revision"),
        ("files", RuntimeError("no route"), "cannot be reached"),
        ("files", OSError("no route"), "cannot be reached"),
        ("error", _hub_error(EntryNotFoundError), "has no file missing.csv"),
        ("error", LocalEntryNotFoundError("no"), "cannot be reached"),
    ],
)
def test_hub_errors_are_reported(stub, reply, error, words):
    stub[reply] = error
    with pytest.raises(MachineError if "reached" in words else DataError, match=words):
        hub_source.download("owner/shop", "missing.csv" if reply == "error" else "")


def test_a_hub_id_is_owner_and_name():
    assert hub_source.is_hub_id("owner/data-set_1.0")
    assert not hub_source.is_hub_id("file.jsonl")
    assert not hub_source.is_hub_id("a/b/c")
    assert not hub_source.is_hub_id("data/rows.jsonl")
    assert not hub_source.is_hub_id("./data")


def test_a_dataset_is_a_source_in_a_recorded_revision(hub_server, tmp_path):
    hub_server.repos["owner/shop"] = Repo({
        "README.md": b"",
        **{f"{name}/{split}.jsonl": json.dumps({"prompt": f"{name} {split}", "completion": "a"}).encode() + b"\n"
           for name in ("main", "extra") for split in ("train", "test")},
    })  # fmt: skip
    text = 'name = "x"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "hf:owner/shop:main:test"\n'
    recipe = parse(text, folder=tmp_path)
    assert recipe.source == tmp_path / "hf" / "owner--shop--main--test.jsonl"
    (row,) = read_source(recipe.source).rows
    assert prompt_text(row) == "main test"
    lock = json.loads(recipe.source.with_suffix(".hub.json").read_text())
    assert lock == {"v": 1, "dataset": "owner/shop", "revision": COMMIT, "files": ["test.jsonl"]}
    hub_server.requests.clear()
    assert read_source(recipe.source).rows == (row,)
    assert not hub_server.requests
    recipe.source.unlink()
    assert read_source(recipe.source).rows == (row,)
    assert any(f"revision/{COMMIT}" in path for _, path, _ in hub_server.requests)
    for part, words in (
        ("nothing", "no configuration or split nothing"),
        ("test", "has several files: extra/test.jsonl, main/test.jsonl"),
    ):
        with pytest.raises(DataError, match=words):
            read_source(tmp_path / "hf" / f"owner--shop--{part}.jsonl")
    (row,) = read_source(hub_copy(tmp_path, "hf:owner/shop:extra")).rows
    assert prompt_text(row) == "extra train"


def test_parquet_shards_and_tables_are_sources(hub_server, tmp_path):
    files: dict[str, bytes] = {"table.csv": b"prompt,completion\nq,a\n"}
    for number in range(2):
        file = io.BytesIO()
        parquet.write_table(pyarrow.table({"prompt": [f"q {number}"], "completion": ["a"]}), file)
        files[f"data/train-0000{number}-of-00002.parquet"] = file.getvalue()
    hub_server.repos["owner/shards"] = Repo(files)
    assert [prompt_text(row) for row in read_source(hub_copy(tmp_path, "hf:owner/shards:train")).rows] == ["q 0", "q 1"]
    with pytest.raises(DataError, match=r"has a \.csv file"):
        read_source(hub_copy(tmp_path, "hf:owner/shards:table"))
    assert hub_copy(tmp_path, "hf:owner") is hub_copy(tmp_path, "owner/shards") is None
