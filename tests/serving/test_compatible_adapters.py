import json
import shutil
from pathlib import Path

import pytest

from mlxtune.adapters import library
from mlxtune.core.errors import InputError, ModelError


@pytest.fixture
def workspace(tmp_path: Path, tiny_adapters: dict[str, Path]) -> Path:
    """A workspace with adapters for one base, another base and an unknown base, and an unreadable adapter."""
    for name, lineage in {
        "mine": {"base_fingerprint": "f1"},
        "other": {"base_fingerprint": "f2"},
        "stray": {},
        "broken": {},
    }.items():
        folder = shutil.copytree(tiny_adapters["all"], tmp_path / "adapters" / name)
        (folder / "mlxtune.json").write_text(json.dumps({"base": "somewhere", **lineage}))
    (tmp_path / "adapters" / "broken" / "adapters.safetensors").write_bytes(b"\x80\x05pickle")
    return tmp_path


def test_only_compatible_adapters_are_listed(workspace: Path) -> None:
    assert {entry.name for entry in library.compatible_adapters(workspace, "f1")} == {"mine", "stray"}


def test_an_adapter_of_another_base_is_refused(workspace: Path) -> None:
    assert library.find_compatible(workspace, "mine", "f1").name == "mine"
    assert library.find_compatible(workspace, "stray", "f1").name == "stray"
    with pytest.raises(ModelError, match="other was trained from different weights"):
        library.find_compatible(workspace, "other", "f1")
    with pytest.raises(InputError, match="cannot be used"):
        library.find_compatible(workspace, "broken", "f1")
    with pytest.raises(InputError, match="no adapter"):
        library.find_compatible(workspace, "mien", "f1")


def test_the_base_is_named_so_that_it_can_be_loaded(workspace: Path, tmp_path: Path) -> None:
    model_folder = tmp_path / "model"
    model_folder.mkdir()

    def base(name: str, path: str) -> str:
        folder = workspace / "adapters" / "mine"
        (folder / "mlxtune.json").write_text(json.dumps({"base": name}))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"model": path}))
        return library.base_of(library.find(workspace, "mine"))

    assert base("smollm2-135m", str(model_folder)) == "smollm2-135m"
    assert base("../model", str(model_folder)) == str(model_folder)
    assert base("org/name", "/cache/models--org--name/snapshots/1") == "org/name"
    assert base("org/name", "/no/where") == "org/name"
    with pytest.raises(InputError, match="does not record its base model"):
        base("", "")
