"""Searching and downloading against a hub on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest
from hub_stub import COMMIT, ID, Hub
from huggingface_hub import constants

from mlxtune.core.errors import MachineError, ModelError
from mlxtune.models import hub
from mlxtune.models.resolve import here, resolve
from mlxtune.runs.locks import hold


def test_a_search_gives_licences_and_asks_for_mlx_only(hub_server: Hub) -> None:
    found = hub.search("tiny")
    assert [(one.id, one.licence, one.downloads, one.gated) for one in found] == [(ID, "apache-2.0", 12, False)]
    assert "filter=mlx" in hub_server.asked[-1][1]
    assert hub.search("nothing like it") == []


def test_a_download_brings_weights_and_no_code_and_says_how_far_it_is(hub_server: Hub, tiny: Path) -> None:
    told: list[tuple[str, float]] = []
    assert hub.cached(ID) is None
    folder = hub.pull(ID, lambda what, share: told.append((what, share)))
    assert folder.name == COMMIT
    assert {file.name for file in folder.iterdir()} == {file.name for file in tiny.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert any("downloading" in what for what, _ in told)
    assert told[-1] == (f"checking {ID}", 1.0)
    assert all(0 <= share <= 1 for _, share in told)


def test_what_is_there_is_not_asked_for_again(hub_server: Hub) -> None:
    assert not here(ID)
    first = resolve(ID)
    hub_server.asked.clear()
    assert resolve(ID) == first
    assert here(ID)
    assert hub_server.asked == []


def test_a_download_that_was_cut_goes_on_where_it_stopped(hub_server: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "BLOCK", 4096)
    data = (tiny / "model.safetensors").read_bytes()
    hub_server.cut["model.safetensors"] = len(data) // 2
    with pytest.raises(MachineError, match="The hub cannot be reached") as stopped:
        hub.pull(ID)
    assert "What was downloaded stays" in stopped.value.mend
    assert hub.cached(ID) is None
    hub_server.cut.clear()
    hub_server.asked.clear()
    folder = hub.pull(ID)
    starts = [start for verb, path, start in hub_server.asked if verb == "GET" and path.endswith("model.safetensors")]
    assert starts == [len(data) // 2 // 4096 * 4096]  # whole blocks are kept
    assert not list(folder.parent.parent.rglob("*.part"))
    assert (folder / "model.safetensors").read_bytes() == data


def test_a_hub_that_cannot_go_on_is_asked_for_the_whole(hub_server: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "BLOCK", 4096)
    hub_server.cut["model.safetensors"] = 9000
    with pytest.raises(MachineError):
        hub.pull(ID)
    hub_server.cut.clear()
    hub_server.ranges = False
    assert (hub.pull(ID) / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()


def test_two_processes_do_not_write_one_file(hub_server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models--mlx-community--tiny"
    with hold(folder / "pull.lock", busy=""), pytest.raises(MachineError, match="is being downloaded by another process"):
        hub.pull(ID)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_named_taken_out_and_fetched_again(hub_server: Hub, name: str) -> None:
    hub_server.damage.add(name)
    with pytest.raises(ModelError, match=f"1 file of {ID} came down damaged: {name}"):
        hub.pull(ID)
    assert hub.cached(ID) is None
    hub_server.damage.clear()
    assert resolve(ID).folder.name == COMMIT


def test_errors_say_what_to_do(hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="The hub has no model a/b") as missing:
        hub.pull("a/b")
    assert "mlxtune models --search" in missing.value.mend
    with pytest.raises(ModelError, match="is no id of a model"):
        hub.pull("a//b")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match=r"The hub cannot be reached for llama: no network, or no such host\."):
        hub.search("llama")
