"""Adapters by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.serving import shelf


def put(folder: Path, *, base: str = "tiny", fingerprint: str | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "adapters.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text(json.dumps({"model": base}))
    if fingerprint:
        (folder / "mlxtune.json").write_text(json.dumps({"base": base, "base_fingerprint": fingerprint}))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    put(tmp_path / "adapters" / "mine")
    for minute, name in enumerate(("shop", "shop-voice")):
        run = tmp_path / "runs" / f"20261124-141{minute}-{name}"
        put(run / "adapter", fingerprint=f"f{minute}")
        (run / "recipe.toml").write_text("")
    (tmp_path / "runs" / "20261124-1500-nothing").mkdir()
    (tmp_path / "adapters" / "empty").mkdir()
    return tmp_path


def test_library_comes_first_then_runs_newest_first(workspace: Path) -> None:
    found = shelf.adapters(workspace)
    assert [one.name for one in found] == ["mine", "20261124-1411-shop-voice", "20261124-1410-shop"]
    assert found[0].base == "tiny"
    assert [one.name for one in shelf.adapters(workspace, "f0")] == ["mine", "20261124-1410-shop"]


def test_a_name_a_part_of_it_last_and_a_folder_are_found(workspace: Path) -> None:
    assert shelf.find(workspace, "mine").folder == workspace / "adapters" / "mine"
    assert shelf.find(workspace, "voice").name == "20261124-1411-shop-voice"
    assert shelf.find(workspace, "last").name == "20261124-1411-shop-voice"
    assert shelf.find(workspace, str(workspace / "runs" / "20261124-1410-shop")).fingerprint == "f0"


@pytest.mark.parametrize(
    ("named", "message"), [("shop", "could be any of"), ("mien", "no adapter mien"), ("x" * 5000, "no adapter"), ("", "no adapter")]
)
def test_what_is_not_there_is_said(workspace: Path, named: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shelf.find(workspace, named)


def test_an_empty_workspace_has_none(tmp_path: Path) -> None:
    assert shelf.adapters(tmp_path) == []
    with pytest.raises(InputError):
        shelf.find(tmp_path, "last")


def test_a_base_is_called_as_it_can_be_resolved(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    made = {
        "alias": ("smollm2-135m", str(tmp_path / "model")),
        "relative": ("../model", str(tmp_path / "model")),
        "gone": ("org/name", "/no/where"),
    }
    made["hub"] = ("org/name", "/cache/models--org--name/snapshots/1")
    for name, (called, folder) in made.items():
        put(tmp_path / "adapters" / name, base=called, fingerprint="f")
        (tmp_path / "adapters" / name / "adapter_config.json").write_text(json.dumps({"model": folder}))
    found = {one.name: one.base for one in shelf.adapters(tmp_path)}
    assert found == {"alias": "smollm2-135m", "relative": str(tmp_path / "model"), "gone": "org/name", "hub": "org/name"}
