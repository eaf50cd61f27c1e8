"""Pushing to and pulling from a local stub hub: private by default, resumable, and never leaking the token."""

import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hub_stub import Hub, Repo, serve
from safetensors.numpy import save

from mlxtune.adapters import hub, library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import InputError, MachineError, MlxtuneError, ModelError
from mlxtune.core.hashing import sha256_file
from mlxtune.models.hub import redact
from mlxtune.present.card import adapter_card, export_card
from mlxtune.recipe.parent import CONFIG, WEIGHTS

CANARY = "hf_canary7f3a9dQq"
REPO = "someone/support-json"


@pytest.fixture(autouse=True)
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure the hub client with a canary token, no user login, and plain HTTP instead of Xet."""
    from huggingface_hub import constants

    for name in ("HF_TOKEN_PATH", "HF_STORED_TOKENS_PATH"):
        monkeypatch.setattr(constants, name, str(tmp_path / "no-login"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", CANARY)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve(Hub(token=CANARY)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def entry(empty_workspace: Path, shop) -> AdapterEntry:
    shop("20261124-1412-shop")
    return library.find(empty_workspace, "last")


def test_adapter_round_trips_through_private_repository(empty_workspace: Path, tiny: Path, stub: Hub, entry: AdapterEntry) -> None:
    done = hub.push_adapter(entry, REPO, adapter_card)
    repo = stub.repos[REPO]
    assert (done.private, repo.private, done.url) == (True, True, f"{stub.url}/{REPO}")
    assert done.commit == repo.sha
    assert set(repo.files) == set(done.files) == {WEIGHTS, "README.md", CONFIG, "chat_template.jinja", "mlxtune.json"}
    assert repo.files[WEIGHTS] == entry.weights.read_bytes()
    pulled = hub.pull(empty_workspace, REPO, "back", str(tiny))
    assert sha256_file(pulled.weights) == entry.sha256()
    assert (pulled.name, pulled.origin) == ("back", f"{REPO} at {repo.sha[:12]}")
    assert (pulled.base_hash, pulled.run, pulled.data_hash) == (entry.base_hash, entry.run, entry.data_hash)
    assert [item.name for item in (empty_workspace / "adapters").iterdir() if item.name.startswith(".pull")] == []


def test_no_local_paths_are_uploaded(empty_workspace: Path, tiny: Path, stub: Hub, shop) -> None:
    folder = shop(
        "20261124-1412-shop", parent={"folder": "/home/me/secret", "sha256": "3" * 64, "lineage": {"run": "r", "base": "/home/me"}}
    )
    lineage = json.loads((folder / "mlxtune.json").read_text())
    (folder / "mlxtune.json").write_text(json.dumps(lineage | {"origin": "/home/me/elsewhere", "note": "/home/me"}))
    hub.push_adapter(library.find(empty_workspace, "last"), REPO, adapter_card)
    texts = [data.decode() for name, data in stub.repos[REPO].files.items() if name != WEIGHTS]
    assert not any(word in text for text in texts for word in ("/home/me", str(empty_workspace), str(tiny.parent)))
    lineage = json.loads(stub.repos[REPO].files["mlxtune.json"])
    assert lineage["parent"] == {"sha256": "3" * 64, "run": "r"}
    assert lineage["base"] == tiny.name


def test_second_push_uploads_only_changes(stub: Hub, entry: AdapterEntry) -> None:
    hub.push_adapter(entry, REPO, adapter_card)
    sent = stub.count("PUT /lfs")
    again = hub.push_adapter(entry, REPO, adapter_card)
    assert (sent, stub.count("PUT /lfs")) == (1, 1)
    assert again.commit == stub.repos[REPO].sha
    assert stub.repos[REPO].commits == 1


def export(folder: Path) -> Path:
    from mlxtune.adapters.export import fidelity
    from mlxtune.adapters.export.fidelity import ComparedAnswers, Fidelity, LogitDistance

    folder.mkdir()
    for at in (1, 2):
        (folder / f"model-0000{at}-of-00002.safetensors").write_bytes(save({"x": np.full((3, 5), at, np.float32)}))
    (folder / "config.json").write_text("{}")
    change, loss = LogitDistance(5, 1, 0.5, 0.4, 10), LogitDistance(0.1, 0.01, 0.001, 1.0, 10)
    fidelity.save(Fidelity("hf", change, loss, ComparedAnswers(20, 19, ())), folder)
    adapter = {"rank": 8, "scale": 4.0, "run": "r", "origin": "/home/me"}
    lineage = {"v": 1, "export": "hf", "base": "smollm2-135m", "adapter": adapter}
    (folder / "mlxtune.json").write_text(json.dumps(lineage))
    return folder


def test_interrupted_push_resumes(empty_workspace: Path, stub: Hub) -> None:
    folder = export(empty_workspace / "model")
    stub.refuse["PUT /lfs"] = [400]
    with pytest.raises(InputError, match="The Hub rejected"):
        hub.push_export(folder, REPO, export_card)
    assert stub.repos[REPO].files == {}
    assert len(stub.blobs) == 1
    hub.push_export(folder, REPO, export_card)
    assert stub.count("PUT /lfs") == 3  # one was refused, one was already uploaded
    assert set(stub.repos[REPO].files) == {"README.md", *(file.name for file in folder.iterdir())}
    text = stub.repos[REPO].files["README.md"].decode()
    assert all(fact in text for fact in ("| fidelity | faithful |", "| effect lost | 1.0% |", "| identical answers | 19 of 20 |"))
    assert "/home/me" not in text + stub.repos[REPO].files["mlxtune.json"].decode()


def test_interrupted_download_resumes(empty_workspace: Path, tiny: Path, stub: Hub, entry: AdapterEntry, monkeypatch) -> None:
    hub.push_adapter(entry, REPO, adapter_card)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 500)
    stub.cut[WEIGHTS] = [2000]
    pulled = hub.pull(empty_workspace, REPO, "back", str(tiny))
    assert sha256_file(pulled.weights) == entry.sha256()
    assert [start for _, _, start in stub.requests if start] == [2000]


def test_public_repository_requires_public_flag(stub: Hub, entry: AdapterEntry) -> None:
    stub.repos[REPO] = Repo()
    with pytest.raises(InputError, match="already exists and is public") as caught:
        hub.push_adapter(entry, REPO, adapter_card)
    assert "--public" in caught.value.hint
    assert stub.repos[REPO].files == {}
    assert not hub.push_adapter(entry, REPO, adapter_card, public=True).private


def test_missing_login_sends_no_request(stub: Hub, entry: AdapterEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="You are not logged in"):
        hub.push_adapter(entry, REPO, adapter_card)
    assert stub.requests == []


@pytest.mark.parametrize("repo", ["", "name", "a/b/c", "../x", "a/..", "a/.b", "https://huggingface.co/a/b", "a b/c", "a/b\x1b[2J"])
def test_invalid_repository_name_is_refused(empty_workspace: Path, entry: AdapterEntry, repo: str) -> None:
    for ask in (lambda: hub.push_adapter(entry, repo, adapter_card), lambda: hub.pull(empty_workspace, repo)):
        with pytest.raises(InputError, match="is not a valid Hub repository ID") as caught:
            ask()
        assert "\x1b" not in caught.value.message


@pytest.mark.parametrize("url", ["http://hub.example", "ftp://127.0.0.1", "http://me:secret@127.0.0.1", "nonsense"])
def test_token_is_not_sent_over_plain_http(entry: AdapterEntry, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", url)
    with pytest.raises(InputError, match=r"unencrypted|must be an address") as caught:
        hub.push_adapter(entry, REPO, adapter_card)
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("files", "error", "why"),
    [
        ({}, ModelError, "contains no adapter"),
        ({"README.md": b"x"}, ModelError, "contains no adapter"),
        ({"adapter_model.bin": b"x", CONFIG: b"{}"}, ModelError, "in a pickle file, adapter_model.bin"),
        ({"../../adapters.safetensors": b"x"}, ModelError, "contains no adapter"),
        ({WEIGHTS: b"\x80\x05pickle", CONFIG: b'{"num_layers": 2}'}, ModelError, "invalid header"),
        ({WEIGHTS: b"x", CONFIG: b"{"}, ModelError, "is not a JSON object"),
        ({WEIGHTS: b"x"}, ModelError, "There is no file adapter_config.json"),
    ],
)
def test_hub_repository_without_adapter_is_refused_and_leaves_no_files(
    empty_workspace: Path, tiny: Path, stub: Hub, files: dict[str, bytes], error: type[MlxtuneError], why: str
) -> None:
    stub.repos[REPO] = Repo(files)
    with pytest.raises(error, match=why):
        hub.pull(empty_workspace, REPO, base=str(tiny))
    assert library.all_adapters(empty_workspace) == []
    assert not (empty_workspace.parent / "adapters.safetensors").exists()
    assert not list((empty_workspace / "adapters").glob(".pull*")) if (empty_workspace / "adapters").exists() else True


def test_nothing_is_downloaded_without_its_base_or_enough_disk_space(
    empty_workspace: Path, tiny: Path, stub: Hub, entry: AdapterEntry, monkeypatch
) -> None:
    hub.push_adapter(entry, REPO, adapter_card)
    with pytest.raises(ModelError, match="is not on this machine"):
        hub.pull(empty_workspace, REPO, "back")
    assert stub.count(f"/{WEIGHTS}") == 0
    monkeypatch.setattr(hub, "disk_free", lambda path: 1000)
    with pytest.raises(MachineError, match="is free in"):
        hub.pull(empty_workspace, REPO, "back", str(tiny))
    assert stub.count(f"/{WEIGHTS}") == 0


def test_peft_adapter_is_pulled_and_converted(empty_workspace: Path, tiny: Path, stub: Hub) -> None:
    from .test_importers import peft, peft_tensors

    folder = peft(empty_workspace / "theirs", peft_tensors())
    stub.repos[REPO] = Repo({file.name: file.read_bytes() for file in folder.iterdir()})
    pulled = hub.pull(empty_workspace, REPO, base=str(tiny))
    assert (pulled.name, pulled.rank, pulled.scale) == ("support-json", 4, 1.5)


FAULTS: list[tuple[str, dict[str, list[int]], type[MlxtuneError]]] = [
    ("create", {"POST /api/repos/create": [403]}, InputError),
    ("server", {"POST /api/repos/create": [500]}, MachineError),
    ("commit", {"/commit/main": [422]}, InputError),
    ("upload", {"PUT /lfs": [403]}, InputError),
    ("info", {"GET /api/models": [418]}, InputError),
]


@pytest.mark.parametrize(("name", "refuse", "kind"), FAULTS, ids=[name for name, *_ in FAULTS])
def test_token_is_absent_from_messages_logs_and_tracebacks(
    name: str, refuse: dict[str, list[int]], kind: type[MlxtuneError], stub: Hub, entry: AdapterEntry, caplog, capfd
) -> None:
    caplog.set_level(logging.DEBUG)
    stub.refuse = refuse
    with pytest.raises(kind) as caught:
        hub.push_adapter(entry, REPO, adapter_card)
    messages = "".join(traceback.format_exception(caught.value)) + caught.value.message + caught.value.hint
    captured = capfd.readouterr()
    for text in (messages, caplog.text, captured.out, captured.err):
        assert CANARY not in text


def test_token_is_absent_from_files(
    tmp_path: Path, empty_workspace: Path, tiny: Path, stub: Hub, entry: AdapterEntry, home: Path
) -> None:
    hub.push_adapter(entry, REPO, adapter_card)
    hub.pull(empty_workspace, REPO, "back", str(tiny))
    stub.refuse = {"/commit/main": [422]}
    (empty_workspace / "adapters" / "back" / WEIGHTS).write_bytes(entry.weights.read_bytes())
    for folder in (tmp_path, home):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and ".safetensors" not in file.name:
                assert CANARY.encode() not in file.read_bytes(), file
    assert not any(CANARY.encode() in data for data in stub.repos[REPO].files.values())


def test_token_is_redacted_from_hub_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_other12345")
    assert redact(f"no, Bearer {CANARY} and hf_other12345.") == "no, Bearer [token] and [token]."


def test_a_missing_repository_and_an_unreachable_hub_are_reported(empty_workspace: Path, stub: Hub, monkeypatch) -> None:
    with pytest.raises(InputError, match="The Hub has no repository someone/support-json, or it is private"):
        hub.pull(empty_workspace, REPO)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="cannot be reached") as caught:
        hub.pull(empty_workspace, REPO)
    assert "Run the command again" in caught.value.hint
