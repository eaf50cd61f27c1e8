"""Which adapters can be put on a base, and which base an adapter belongs to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mlxtune.adapters import library
from mlxtune.core.errors import InputError, ModelError
from mlxtune.serving import shelf


@pytest.fixture
def workspace(tmp_path: Path, tiny_adapters: dict[str, Path]) -> Path:
    """Adapters of one base, of another, of an unknown one, and one that cannot be read."""
    for name, told in {"mine": {"base_fingerprint": "f1"}, "other": {"base_fingerprint": "f2"}, "stray": {}, "broken": {}}.items():
        folder = shutil.copytree(tiny_adapters["all"], tmp_path / "adapters" / name)
        (folder / "mlxtune.json").write_text(json.dumps({"base": "somewhere", **told}))
    (tmp_path / "adapters" / "broken" / "adapters.safetensors").write_bytes(b"\x80\x05pickle")
    return tmp_path


def test_only_those_that_may_fit_are_offered(workspace: Path) -> None:
    assert {entry.name for entry in shelf.fitting(workspace, "f1")} == {"mine", "stray"}


def test_one_of_another_base_is_refused_by_name(workspace: Path) -> None:
    assert shelf.find(workspace, "mine", "f1").name == "mine"
    assert shelf.find(workspace, "stray", "f1").name == "stray"
    with pytest.raises(ModelError, match="other belongs to other weights"):
        shelf.find(workspace, "other", "f1")
    with pytest.raises(InputError, match="cannot be used"):
        shelf.find(workspace, "broken", "f1")
    with pytest.raises(InputError, match="no adapter"):
        shelf.find(workspace, "mien", "f1")


def test_a_base_is_called_as_it_can_be_loaded(workspace: Path, tmp_path: Path) -> None:
    here = tmp_path / "model"
    here.mkdir()

    def base(called: str, made_on: str) -> str:
        folder = workspace / "adapters" / "mine"
        (folder / "mlxtune.json").write_text(json.dumps({"base": called}))
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"model": made_on}))
        return shelf.base_of(library.find(workspace, "mine"))

    assert base("smollm2-135m", str(here)) == "smollm2-135m"
    assert base("../model", str(here)) == str(here)
    assert base("org/name", "/cache/models--org--name/snapshots/1") == "org/name"
    assert base("org/name", "/no/where") == "org/name"
    with pytest.raises(InputError, match="does not say which base"):
        base("", "")
