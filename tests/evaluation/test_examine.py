"""Checking a source in a process of its own: the same as in this one, and nothing is lost with it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError, MachineError
from mlxtune.data.checks.checked import Checked
from mlxtune.evaluation.examine import Examination, examine
from mlxtune.recipe import load

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


def test_the_process_finds_what_the_function_finds(workspace: Path) -> None:
    path = workspace / "recipes" / "tiny.toml"
    recipe = load(path)
    heard: list[tuple[str, float]] = []
    found = Examination({"recipe": str(path)}).follow(lambda what, share: heard.append((what, share)))
    assert found is not None
    assert found.write() == Checked.of(examine(recipe.source, recipe.data, recipe)).write()
    assert len(found.tokens) == 40
    assert (found.tokens > 0).all()
    assert sum(found.shares.values()) == 40
    assert not found.skipped
    assert heard[0] == ("counting tokens", 0.0)
    assert heard[-1] == ("checking chat.jsonl", 1.0)


def test_a_source_alone_is_checked_without_contract_and_tokens(tmp_path: Path) -> None:
    found = Examination({"source": str(SAMPLES / "support-dirty.jsonl")}).follow(lambda what, share: None)
    assert found is not None
    assert found.facts.tier == "too few"
    assert set(found.skipped) == {"contract", "tokens", "split"}
    assert {one.check for one in found.findings if one.rows == (13,)} == {"secret"}


def test_what_is_wrong_with_the_source_is_raised_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is no data at") as caught:
        Examination({"source": str(tmp_path / "none.jsonl")}).follow(lambda what, share: None)
    assert "Check data.source" in caught.value.mend


def test_a_stopped_check_finds_nothing_and_says_nothing(workspace: Path) -> None:
    check = Examination({"recipe": str(workspace / "recipes" / "tiny.toml")})
    check.stop()
    assert check.follow(lambda what, share: None) is None


def test_a_process_that_dies_is_an_error_with_a_sentence(workspace: Path) -> None:
    check = Examination({"recipe": str(workspace / "recipes" / "tiny.toml")})
    os.kill(check._process.pid, signal.SIGKILL)
    with pytest.raises(MachineError, match="The process that checks the rows died"):
        check.follow(lambda what, share: None)


def test_no_model_is_fetched_where_none_shall_be(workspace: Path) -> None:
    path = workspace / "recipes" / "tiny.toml"
    path.write_text(path.read_text().replace("../tiny", "no-such/model-on-this-machine"))
    found = Examination({"recipe": str(path), "fetch": False}).follow(lambda what, share: None)
    assert found is not None
    assert found.skipped["tokens"] == "no-such/model-on-this-machine is not on this machine."


def test_without_a_model_the_rest_is_checked(workspace: Path) -> None:
    recipe = load(workspace / "recipes" / "tiny.toml")
    recipe = replace(recipe, model=replace(recipe.model, base=str(workspace / "gone")))
    report = examine(recipe.source, recipe.data, recipe)
    assert "There is no model called" in report.skipped["tokens"]
    assert report.tokens == ()
    assert set(report.shares) == {"train", "valid", "test"}
