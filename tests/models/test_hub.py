"""Search and download, using a local stub of the Hub."""

from pathlib import Path
from typing import Any, NoReturn

import pytest
from hub_stub import COMMIT, ID, Hub
from huggingface_hub import constants

from mlxtune.core.errors import MachineError, ModelError
from mlxtune.models import hub
from mlxtune.models.resolve import is_local, resolve
from mlxtune.runs.locks import file_lock


def test_a_search_returns_licenses_of_mlx_models(hub_server: Hub) -> None:
    results = hub.search("tiny")
    assert [(one.id, one.license, one.downloads, one.gated) for one in results] == [(ID, "apache-2.0", 12, False)]
    assert "filter=mlx" in hub_server.requests[-1][1]
    assert hub.search("nothing like it") == []


def test_a_download_has_weights_but_no_code_and_reports_progress(hub_server: Hub, tiny: Path) -> None:
    progress: list[tuple[str, float]] = []
    assert hub.cached(ID) is None
    folder = hub.pull(ID, lambda what, share: progress.append((what, share)))
    assert folder.name == COMMIT
    assert {file.name for file in folder.iterdir()} == {file.name for file in tiny.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert any("downloading" in what for what, _ in progress)
    assert progress[-1] == (f"checking {ID}", 1.0)
    assert all(0 <= share <= 1 for _, share in progress)


def test_complete_files_are_not_downloaded_again(hub_server: Hub) -> None:
    assert not is_local(ID)
    first = resolve(ID)
    hub_server.requests.clear()
    assert resolve(ID) == first
    assert is_local(ID)
    assert hub_server.requests == []


@pytest.mark.parametrize("ranges", [True, False], ids=["resumed", "whole"])
def test_an_interrupted_download_resumes_if_the_server_can(
    hub_server: Hub, tiny: Path, monkeypatch: pytest.MonkeyPatch, ranges: bool
) -> None:
    monkeypatch.setattr(hub, "BLOCK", 4096)
    data = (tiny / "model.safetensors").read_bytes()
    hub_server.cut["model.safetensors"] = [len(data) // 2] * 99
    with pytest.raises(MachineError, match="The Hub cannot be reached") as stopped:
        hub.pull(ID)
    assert "what was transferred is kept" in stopped.value.hint
    assert hub.cached(ID) is None
    hub_server.cut.clear()
    hub_server.requests.clear()
    hub_server.ranges = ranges
    folder = hub.pull(ID)
    starts = [start for verb, path, start in hub_server.requests if verb == "GET" and path.endswith("model.safetensors")]
    assert starts == [len(data) // 2 // 4096 * 4096]  # complete blocks are kept
    assert not list(folder.parent.parent.rglob("*.part"))
    assert (folder / "model.safetensors").read_bytes() == data


def test_only_one_process_downloads_a_model(hub_server: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "models--mlx-community--tiny"
    with file_lock(folder / "pull.lock", busy=""), pytest.raises(MachineError, match="is being downloaded by another process"):
        hub.pull(ID)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_is_deleted_and_downloaded_again(hub_server: Hub, name: str) -> None:
    hub_server.damage.add(name)
    with pytest.raises(ModelError, match=f"The download of {ID} has 1 corrupt file: {name}"):
        hub.pull(ID)
    assert hub.cached(ID) is None
    hub_server.damage.clear()
    assert resolve(ID).folder.name == COMMIT


def test_a_search_gives_up_connecting_after_three_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    library, limits = hub._http_library(), []

    class Session:
        def get(self, url: str, *, timeout: Any, **_: object) -> NoReturn:
            limits.append(timeout.connect)
            raise library.ConnectTimeout("no answer")

    monkeypatch.setattr(hub, "_http_library", lambda: library)  # it is the session's module
    monkeypatch.setattr("huggingface_hub.get_session", Session)
    with pytest.raises(MachineError, match="The Hub cannot be reached for llama"):
        hub.search("llama")
    assert limits == [3.0]  # seconds, and one try


def test_errors_have_hints(hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="The Hub has no model a/b") as missing:
        hub.pull("a/b")
    assert "mlxtune models --search" in missing.value.hint
    with pytest.raises(ModelError, match="is not a valid model ID"):
        hub.pull("a//b")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail("A search waits before it retries."))
    with pytest.raises(MachineError, match=r"The Hub cannot be reached for llama: no network, or unknown host\."):
        hub.search("llama")
