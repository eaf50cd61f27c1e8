"""Files, hosts, and listings that are made to send, run, or overwrite something that the user did not name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hub_stub
import pytest
from cli.conftest import cli as cli
from cli.conftest import cwd as cwd
from hub_stub import ID
from huggingface_hub import constants

from mlxtune.adapters.export import ollama, start
from mlxtune.cli import generate as verb
from mlxtune.core.errors import DataError, InputError, MlxtuneError, ModelError
from mlxtune.data.generate.documents import read_passages
from mlxtune.data.generate.start import GenerationQuote
from mlxtune.models import hub
from mlxtune.models.resolve import resolve
from mlxtune.training.distributed import launcher

Cli = Callable[..., Any]


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "more.txt").write_text("another secret")
    folder = tmp_path / "documents"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "open.md").write_text("public")
    return folder


@pytest.mark.parametrize("target", ["secret.txt", "private", "nothing"])
def test_links_in_a_folder_of_documents_are_refused(documents, target):
    (documents / "sub" / "link.txt").symlink_to(documents.parent / target)
    with pytest.raises(DataError, match=r"link\.txt is a symbolic link"):
        read_passages(documents)


@pytest.mark.parametrize("name", ["pipe.txt", "pipe.pdf"])
def test_pipes_in_a_folder_of_documents_are_refused(documents, name):
    os.mkfifo(documents / name)
    with pytest.raises(InputError, match="is not a regular file"):
        read_passages(documents)


def test_hidden_files_and_folders_are_not_documents(documents):
    (documents / ".git").mkdir()
    for name in (".git/notes.txt", ".hidden.md"):
        (documents / name).write_text("a secret")
    assert [passage.file for passage in read_passages(documents)] == ["sub/open.md"]


def test_a_folder_of_any_depth_is_read(documents):
    folder = documents / "deep"
    for _ in range(40):
        folder /= "/".join("a" * 30)
        folder.mkdir(parents=True)
    (folder / "last.md").write_text("the last one")
    assert "the last one" in {passage.text for passage in read_passages(documents)}
    (folder / "last.md").unlink()
    while folder != documents:  # which not every Python's rmtree can
        folder.rmdir()
        folder = folder.parent


def test_a_file_that_is_named_is_read_through_its_link(documents):
    link = documents.parent / "link.txt"
    link.symlink_to(documents / "sub" / "open.md")
    assert [passage.text for passage in read_passages(link)] == ["public"]


def test_the_documents_are_listed_before_consent_is_asked(cli, cwd, monkeypatch):
    offer = GenerationQuote(2, 3, 0.1, None, "teacher.example", ("a.md", "sub/b\x1b[2J.pdf"))
    monkeypatch.setattr("mlxtune.data.generate.start.quote", lambda *_: offer)
    monkeypatch.setattr("mlxtune.data.generate.start.start", lambda *_, **__: pytest.fail("started without consent"))
    monkeypatch.setattr(verb, "load", lambda *_: SimpleNamespace())
    result = cli("data", "generate", "r.toml", "--documents", ".", "--model", "m", "--url", "https://teacher.example/v1")
    assert result.code == 2
    shown = " ".join(result.err.split())
    assert shown.index("Text of 2 documents will be sent: a.md, sub/b") < shown.index("needs your consent")
    assert "\x1b[2J" not in shown


@pytest.mark.parametrize(
    "address", ["-oProxyCommand=touch x", "-", "--", "", " -oProxyCommand=x", "mac\0", "mac\nx", "\ud800", "\x1b[2J"]
)
def test_a_host_that_ssh_would_take_for_an_option_is_refused(tmp_path, address):
    hosts = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": address, "ips": ["10.0.0.2"]}]
    (tmp_path / "hosts.json").write_text(json.dumps(hosts))
    with pytest.raises(InputError, match="is not the address of a host"):
        launcher.launch_request(1, tmp_path / "hosts.json")


@pytest.mark.parametrize("address", ["mac.local", "me@10.0.0.2", "fe80::1%en0", "me@[fe80::1]", "mac-2", "studio_größe"])
def test_addresses_of_hosts_are_accepted(address):
    assert launcher.parse_hosts({"hosts": [{"ssh": address}]})[0].ssh == address


@pytest.mark.parametrize("change", [{"hosts": 10**12}, {"hosts": {"a": 1}}, {"envs": 5}, {"envs": [5, None]}, {"hosts": "ab"}, {"backend": ["ring"]}])  # fmt: skip
def test_a_hostfile_of_other_types_is_bad_input_or_ignored(tmp_path, change):
    hosts = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}] * 2
    (tmp_path / "hosts.json").write_text(json.dumps({"hosts": hosts, **change}))
    with suppress(InputError):
        request = launcher.launch_request(1, tmp_path / "hosts.json")
        launcher.rank_configs(launcher.parse_hosts(request), request["backend"], request["envs"])


def test_ssh_gets_the_host_after_its_options(monkeypatch, tmp_path):
    commands: list[list[str]] = []

    class Child:
        def __init__(self, *_: Any, command: list[str], **__: Any) -> None:
            commands.append(command)

        def request(self, *_: Any, **__: Any) -> None: ...

    monkeypatch.setattr(launcher, "ChildProcess", Child)
    launcher.Peer(1, launcher.Host("mac.local"), ["python"], tmp_path / "log")
    assert commands[0][:-1] == [*launcher.SSH, "--", "mac.local"]


@pytest.mark.parametrize(
    "base", ["x\nADAPTER /etc/passwd", "x\rSYSTEM y", "/etc/passwd", "../x", "-x", "", "a b", "x\u2028y", "~/x"]
)
def test_a_base_of_ollama_is_a_name(base):
    assert not ollama.is_model_name(base)


@pytest.mark.parametrize("base", ["llama3.2:3b", "hf.co/owner/name:Q4_K_M", "registry.local:5000/a/b:c", "qwen3"])
def test_names_of_ollama_are_accepted(base):
    assert ollama.is_model_name(base)


def test_an_export_refuses_lines_and_links(tmp_path):
    entry: Any = SimpleNamespace(problem="", name="shop", system="")
    with pytest.raises(InputError, match="is not a model name in Ollama"):
        start.start(tmp_path, entry, "gguf-lora", program="ollama", ollama_base="x\nLICENSE y")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="already exists"):
        start.start(tmp_path, entry, "fused", target=tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()


LISTED: dict[str, dict[str, Any]] = {
    "hash is a path": {"lfs": {"oid": "../../victim", "size": 9, "pointerSize": 1}},
    "hash is not text": {"lfs": {"oid": 5, "size": 9, "pointerSize": 1}},
    "path leads out": {"path": "../../victim.safetensors"},
    "absolute path": {"path": "/victim.safetensors"},
    "size is negative": {"size": -1},
    "size is text": {"size": "9"},
}


@pytest.mark.parametrize("changes", LISTED.values(), ids=LISTED)
def test_an_invalid_listing_is_refused(hub_server, monkeypatch, changes):
    victim = Path(constants.HF_HUB_CACHE) / f"models--{ID.replace('/', '--')}" / "victim.part"
    victim.parent.mkdir(parents=True)
    victim.write_text("kept")
    own = hub_stub._Handler._entry
    changed = {"model.safetensors": changes}
    monkeypatch.setattr(hub_stub._Handler, "_entry", staticmethod(lambda item: own(item) | changed.get(item[0], {})))
    with pytest.raises(ModelError, match="has an invalid entry"):
        hub.pull(ID)
    assert victim.read_text() == "kept"


@pytest.mark.parametrize("config", [b"[" * 100_000, b"[]", b"5", b'{"model_type": [5]}', b"\xff"])
def test_a_configuration_that_is_none_is_a_model_error(hub_server, config):
    hub_server.repos[ID].files["config.json"] = config
    with pytest.raises(ModelError):
        resolve(str(hub.pull(ID)))


@pytest.mark.parametrize("difference", [-1, 1, 10**12])
def test_a_false_size_is_a_corrupt_file(hub_server, monkeypatch, difference):
    monkeypatch.setattr(hub.time, "sleep", lambda _: None)
    own = hub_stub._Handler._entry

    def entry(item: tuple[str, bytes]) -> dict[str, Any]:
        listed = own(item)
        return listed | {"size": listed["size"] + difference} if item[0] == "model.safetensors" else listed

    monkeypatch.setattr(hub_stub._Handler, "_entry", staticmethod(entry))
    with pytest.raises(MlxtuneError):
        hub.pull(ID)
    assert hub.cached(ID) is None


def test_a_server_that_sends_without_end_is_not_read_to_the_end(tmp_path, monkeypatch):
    class Response:
        status_code = 200

        def __enter__(self) -> Response:
            return self

        def __exit__(self, *_: object) -> None: ...

        def iter_bytes(self, size: int) -> Any:
            while True:
                yield b"x" * 1000

    monkeypatch.setattr("huggingface_hub.get_session", lambda: SimpleNamespace(stream=lambda *_, **__: Response()))
    hub._append(ID, "model.safetensors", "main", tmp_path / "x.part", 5000, lambda _: None)
    assert (tmp_path / "x.part").stat().st_size <= 6000
