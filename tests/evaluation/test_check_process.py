"""Checking a data source in a child process gives the same results and errors as checking it in this process."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError, MachineError
from mlxtune.data.checks.report import Skip
from mlxtune.evaluation.check_process import check_source, start_check
from mlxtune.recipe import load

pytestmark = pytest.mark.slow

SAMPLES = Path(__file__).parents[2] / "data" / "samples"


@pytest.mark.usefixtures("rows_in_process")
def test_process_asks_the_base_and_its_result_equals_the_functions(workspace):
    path = workspace / "recipes" / "tiny.toml"
    recipe = load(path)
    heard: list[tuple[str, float]] = []
    result = start_check({"recipe": str(path), "base": True}).result(lambda what, share: heard.append((what, share)))
    assert result.to_json() == check_source(recipe.source, recipe.data, recipe, found=None).to_json()
    assert len(result.tokens) == 40
    assert (result.tokens > 0).all()
    assert sum(result.split_sizes.values()) == 40
    assert result.skipped == {"mismatch": Skip("uninformed")}  # prompts tell a random model nothing
    assert ("counting tokens", 0.0) in heard
    assert heard[-1] == ("checking chat.jsonl", 1.0)


def test_source_is_checked_without_contract_or_tokens(tmp_path):
    result = start_check({"source": str(SAMPLES / "support-dirty.jsonl")}).result()
    assert result.statistics.tier == "too_few"
    assert set(result.skipped) == {"contract", "tokens", "split"}
    assert {one.check for one in result.found if one.rows == (13,)} == {"secret"}


def test_source_error_is_raised_in_caller(tmp_path):
    check = start_check({"source": str(tmp_path / "none.jsonl")})
    with pytest.raises(DataError, match="There is no data at") as caught:
        check.result()
    assert not check._child.alive
    assert "Check data.source" in caught.value.hint


def test_stopped_check_returns_nothing(workspace):
    check = start_check({"recipe": str(workspace / "recipes" / "tiny.toml")})
    check.stop()
    assert check.result() is None


def test_crashed_process_gives_error_message(workspace):
    check = start_check({"recipe": str(workspace / "recipes" / "tiny.toml")})
    os.kill(check._child.process.pid, signal.SIGKILL)
    with pytest.raises(MachineError, match="The check process was killed"):
        check.result()


def test_model_is_not_downloaded_without_permission(workspace):
    path = workspace / "recipes" / "tiny.toml"
    path.write_text(path.read_text().replace("../tiny", "no-such/model-on-this-machine"))
    result = start_check({"recipe": str(path), "fetch": False}).result()
    assert result.skipped == {"tokens": Skip("no_model", "no-such/model-on-this-machine is not on this machine.")}


def test_missing_model_skips_only_token_checks(workspace):
    recipe = load(workspace / "recipes" / "tiny.toml")
    recipe = replace(recipe, model=replace(recipe.model, base=str(workspace / "gone")))
    report = check_source(recipe.source, recipe.data, recipe)
    assert report.skipped["tokens"].code == "no_model"
    assert len(report.tokens) == 0
    assert set(report.splits) == {"train", "valid", "test"}
