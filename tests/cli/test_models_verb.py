"""``mlxtune models`` as a shell sees it: the catalogue, the hub's search, and a download."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hub_stub import ID, Hub
from huggingface_hub import constants

from mlxtune.cli import models
from mlxtune.models import catalog
from mlxtune.planning.machine import mac


@pytest.fixture(autouse=True)
def thirty_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "machine", lambda: mac(32))


def test_every_base_is_listed_with_its_licence_and_whether_it_trains_here(cli, monkeypatch) -> None:
    monkeypatch.setattr(models, "here", lambda id: id == "smollm2-135m")
    ended = cli("models")
    assert ended.code == 0
    for base in catalog.bases():
        line = next(line for line in ended.out.splitlines() if base.id in line)
        assert base.licence in line
        assert line.count("✓") == (2 if base.id == "smollm2-135m" else 1)  # it is here; it fits
    assert "not commercial" in next(line for line in ended.out.splitlines() if "Qwen2.5-3B" in line)
    known = json.loads(cli("models", "--json").out)["known"]
    assert {one["fit"]["word"] for one in known} == {"go"}
    monkeypatch.setattr(models, "machine", lambda: replace(mac(8), limit=2**24))
    assert {one["fit"]["word"] for one in json.loads(cli("models", "--json").out)["known"]} == {"refuse"}


def test_a_search_looks_in_the_catalogue_and_on_the_hub(cli, hub_server: Hub) -> None:
    hub_server.files["evil/\x1b[2Jtiny"] = {}
    ended = cli("models", "--search", "tiny")
    assert ended.code == 0
    assert ID in ended.out
    assert "apache-2.0" in ended.out
    assert "\x1b" not in ended.out
    assert "Known bases" not in ended.out
    assert [one["id"] for one in json.loads(cli("models", "--search", "gemma", "--json").out)["known"]] == [
        base.id for base in catalog.bases() if "gemma" in base.id
    ]


def test_a_base_is_fetched_checked_and_found_again(cli, hub_server: Hub) -> None:
    ended = cli("models", "pull", ID)
    assert ended.code == 0
    assert ID in ended.out
    assert "downloading" in ended.err
    told = json.loads(cli("models", "pull", ID, "--json").out)
    assert Path(told["folder"], "model.safetensors").is_file()


def test_what_cannot_be_fetched_is_bad_input(cli, hub_server: Hub) -> None:
    ended = cli("models", "pull", "nobody/nothing")
    assert (ended.code, ended.out) == (2, "")
    assert "The hub has no model nobody/nothing" in ended.err
    assert "Did you mean smollm2-135m?" in cli("models", "pull", "smollm2").err


@pytest.mark.parametrize("command", [("--search", "qwen"), ("pull", "a/b")])
def test_without_a_network_the_machine_is_to_blame_and_what_works_is_said(cli, hub_server: Hub, monkeypatch, command) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    ended = cli("models", *command)
    assert ended.code == 4
    assert "no network, or no such host." in ended.err
    assert "Offline, the bases work that mlxtune models marks as here." in ended.err
