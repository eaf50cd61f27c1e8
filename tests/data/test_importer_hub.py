from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError

from mlxtune.core.errors import DataError, MachineError
from mlxtune.data import importer


def _hub_error(kind: type[Exception]) -> Exception:
    """Return an error of the Hub client without the response that its constructor requires."""
    return kind.__new__(kind)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, object]:
    """Replace the Hub by one with a single dataset of ``files``; ``error`` is raised by downloads."""
    hub: dict[str, object] = {"files": ["README.md", "train.jsonl"], "error": None, "requests": []}

    class Api:
        def dataset_info(self, hub_id: str, *, timeout: float) -> SimpleNamespace:
            if isinstance(hub["files"], Exception):
                raise hub["files"]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in hub["files"]])

    def download(hub_id: str, name: str, *, repo_type: str) -> str:
        hub["requests"] += [(hub_id, name, repo_type)]
        if hub["error"]:
            raise hub["error"]
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return hub


def test_the_file_of_a_dataset_is_downloaded(stub, tmp_path):
    assert importer.download("owner/shop") == [tmp_path / "train.jsonl"]
    assert importer.download("owner/shop", "other.csv") == [tmp_path / "other.csv"]
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
    assert importer.choose_files("o/s", names) == [chosen]


def test_several_data_files_are_listed():
    with pytest.raises(DataError) as caught:
        importer.choose_files("o/s", ["b.jsonl", "a.csv"])
    assert (caught.value.message, caught.value.hint) == ("o/s has several files: a.csv, b.jsonl.", "Choose one with --file NAME.")
    with pytest.raises(DataError, match=r"train-1\.jsonl, train-2\.jsonl"):
        importer.choose_files("o/s", ["train-1.jsonl", "train-2.jsonl", "test.jsonl"])


def test_unsupported_file_types_are_listed():
    with pytest.raises(DataError, match=r"has no \.jsonl, \.json, \.csv, or \.parquet file, only \.arrow\."):
        importer.choose_files("o/s", ["data/train-0.arrow", "README.md"])


@pytest.mark.parametrize(
    ("reply", "error", "words"),
    [
        ("files", _hub_error(RepositoryNotFoundError), "There is no public dataset owner/shop"),
        ("files", RuntimeError("no route"), "cannot be reached"),
        ("files", OSError("no route"), "cannot be reached"),
        ("error", _hub_error(EntryNotFoundError), "has no file missing.csv"),
        ("error", LocalEntryNotFoundError("no"), "cannot be reached"),
    ],
)
def test_hub_errors_are_reported(stub, reply, error, words):
    stub[reply] = error
    with pytest.raises(MachineError if "reached" in words else DataError, match=words):
        importer.download("owner/shop", "missing.csv" if reply == "error" else "")


def test_a_hub_id_is_owner_and_name():
    assert importer.is_hub_id("owner/data-set_1.0")
    assert not importer.is_hub_id("file.jsonl")
    assert not importer.is_hub_id("a/b/c")
    assert not importer.is_hub_id("data/rows.jsonl")
    assert not importer.is_hub_id("./data")
