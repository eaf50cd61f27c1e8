from dataclasses import replace
from pathlib import Path

import pytest
from hub_stub import ID, Repo
from huggingface_hub import constants

from mlxtune.cli import models
from mlxtune.models import catalog
from mlxtune.planning.machine import mac_with


@pytest.fixture(autouse=True)
def machine_with_32_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "this_machine", lambda: mac_with(32))


@pytest.mark.slow
def test_every_model_is_listed_with_its_license_and_whether_it_trains(ok, cli, monkeypatch):
    monkeypatch.setattr(models, "is_local", lambda id: id == "smollm2-135m")
    result = ok("models")
    for base in catalog.models():
        line = next(line for line in result.out.splitlines() if base.id in line)
        assert base.license in line
        fits = base.fit(mac_with(32))[0]
        assert line.count("✓") == (base.id == "smollm2-135m") + (fits == "go")  # downloaded, and fits
        assert (" ! " in line) == (fits == "warn")
        assert f"thinking {base.thinking}" in line or base.thinking in ("none", "always")
        assert ("no tools" in line) != base.tools
        assert f" {base.checked} " in line
    assert models.CHECKED in result.out
    assert "not commercial" in next(line for line in result.out.splitlines() if "Qwen2.5-3B" in line)
    known = cli("models", "--json").json["known"]
    assert {model["fit"]["word"] for model in known} == {"go", "warn"}
    assert {model["id"]: (model["thinking"], model["tools"], model["checked"]) for model in known}["mlx-community/Qwen3.5-4B-MLX-4bit"] == (
        "on", True, "template",
    )  # fmt: skip
    monkeypatch.setattr(models, "this_machine", lambda: replace(mac_with(8), limit=2**24))
    assert {model["fit"]["word"] for model in cli("models", "--json").json["known"]} == {"refuse"}


def test_a_search_covers_the_catalog_and_the_hub(ok, cli, hub_server):
    hub_server.repos["evil/\x1b[2Jtiny"] = Repo()
    result = ok("models", "--search", "tiny")
    assert ID in result.out
    assert "apache-2.0" in result.out
    assert "\x1b" not in result.out
    assert "Known models" not in result.out
    assert [model["id"] for model in cli("models", "--search", "gemma", "--json").json["known"]] == [
        base.id for base in catalog.models() if "gemma" in base.id
    ]


def test_a_model_is_downloaded_once(ok, cli, hub_server):
    result = ok("models", "pull", ID)
    assert ID in result.out
    assert "downloading" in result.err
    document = cli("models", "pull", ID, "--json").json
    assert Path(document["folder"], "model.safetensors").is_file()


def test_an_unknown_model_is_bad_input(refused, cli, hub_server):
    refused(("models", "pull", "nobody/nothing"), "The Hub has no model nobody/nothing")
    assert "Did you mean smollm2-135m?" in cli("models", "pull", "smollm2").err


@pytest.mark.parametrize("command", [("--search", "qwen"), ("pull", "a/b")])
def test_without_a_network_it_is_a_machine_error_with_a_hint(cli, hub_server, monkeypatch, command):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    result = cli("models", *command)
    assert result.code == 4
    assert "no network, or unknown host." in result.err
    assert "offline, use a model that `mlxtune models` marks as downloaded." in result.err
