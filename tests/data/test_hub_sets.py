from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from mlxtune.core.errors import DataError, MachineError
from mlxtune.data import hub


def _answer(kind: type[Exception]) -> Exception:
    """An error of the hub's client, without the response that its constructor asks for."""
    return kind.__new__(kind)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """A hub with one data set; ``files`` are its files, ``fails`` what its download raises."""
    told: dict[str, object] = {"files": ["README.md", "train.jsonl"], "fails": None, "asked": []}

    class Api:
        def dataset_info(self, hub_id: str, *, timeout: float) -> SimpleNamespace:
            if isinstance(told["files"], Exception):
                raise told["files"]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in told["files"]])

    def download(hub_id: str, name: str, *, repo_type: str) -> str:
        told["asked"] += [(hub_id, name, repo_type)]
        if told["fails"]:
            raise told["fails"]
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return told


def test_the_file_of_a_data_set_is_fetched(stub, tmp_path):
    assert hub.fetch("owner/shop") == tmp_path / "train.jsonl"
    assert hub.fetch("owner/shop", "other.csv") == tmp_path / "other.csv"
    assert stub["asked"] == [("owner/shop", "train.jsonl", "dataset"), ("owner/shop", "other.csv", "dataset")]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["data.json", ".gitattributes", "dataset_infos.json"], "data.json"),
        (["data/train.csv", "data/test.csv"], "data/train.csv"),
        (["A.JSONL", "README.md"], "A.JSONL"),
    ],
)
def test_the_file_that_is_meant_is_found(names, chosen):
    assert hub.choose("o/s", names) == chosen


def test_several_files_are_named_and_one_is_asked_for():
    with pytest.raises(DataError) as caught:
        hub.choose("o/s", ["b.jsonl", "a.csv"])
    assert (caught.value.message, caught.value.mend) == ("o/s has several files: a.csv, b.jsonl.", "Name one: --file NAME")
    with pytest.raises(DataError, match=r"train-1\.jsonl, train-2\.jsonl"):
        hub.choose("o/s", ["train-1.jsonl", "train-2.jsonl", "test.jsonl"])


def test_a_data_set_of_other_kinds_says_which():
    with pytest.raises(DataError, match=r"no file of the kinds \.jsonl, \.json, \.csv, only \.parquet\."):
        hub.choose("o/s", ["data/train-0.parquet", "README.md"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_answer(RepositoryNotFoundError), "The hub has no data set owner/shop"),
        (RuntimeError("no route"), "cannot be reached"),
        (OSError("no route"), "cannot be reached"),
    ],
)
def test_what_the_hub_does_not_give_is_said(stub, error, words):
    stub["files"] = error
    with pytest.raises(MachineError if "reached" in words else DataError, match=words):
        hub.fetch("owner/shop")


@pytest.mark.parametrize(
    ("error", "words"),
    [(_answer(EntryNotFoundError), "has no file gone.csv"), (LocalEntryNotFoundError("no"), "cannot be reached")],
)
def test_a_file_that_is_not_there_is_said(stub, error, words):
    stub["fails"] = error
    with pytest.raises(MachineError if "reached" in words else DataError, match=words):
        hub.fetch("owner/shop", "gone.csv")


def test_an_id_has_an_owner_and_a_name():
    assert hub.is_id("owner/data-set_1.0")
    assert not hub.is_id("file.jsonl")
    assert not hub.is_id("a/b/c")
    assert not hub.is_id("data/rows.jsonl")
    assert not hub.is_id("./data")
