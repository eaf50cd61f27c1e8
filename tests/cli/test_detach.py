"""Ctrl-C while a run is followed: the run continues, and the commands to return to it are printed."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from mlxtune.cli import follow
from mlxtune.data import check_cache
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.recipe import dump, parse
from mlxtune.runs import launch
from mlxtune.runs.registry import Run
from mlxtune.workspace import control

RECIPE = 'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'


@pytest.fixture
def run(cwd: Path) -> Run:
    folder = cwd / "runs" / "20261126-0900-shop"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text(dump(parse(RECIPE)))
    (cwd / "shop.toml").write_text(RECIPE)
    return Run(folder)


def _detached(run: Run) -> list[str]:
    commands = [f"  mlxtune runs {verb} {run.id}" for verb in ("attach", "stop")]
    return [f"■ Detached from {run.id}; it continues.", *commands]


def test_each_command_has_its_own_line(cli, run, monkeypatch):
    monkeypatch.setattr(follow, "watch", Mock(side_effect=KeyboardInterrupt))
    result = cli("runs", "attach", "last")
    assert (result.code, result.err.splitlines()[1:]) == (0, _detached(run))


def test_eval_does_not_read_a_report_that_is_not_written_yet(ok, run, monkeypatch):
    monkeypatch.setattr(control, "evaluate", lambda *_, **__: run)
    monkeypatch.setattr(follow, "watch", Mock(side_effect=KeyboardInterrupt))
    result = ok("eval", "shop.toml")
    assert f"{run.id}   press Ctrl-C to detach; the evaluation continues" in result.err
    assert result.err.splitlines()[-3:] == _detached(run)


def test_eval_returns_as_soon_as_the_evaluation_has_started(refused, cli, run, monkeypatch):
    monkeypatch.setattr(control, "evaluate", lambda *_, **__: run)
    assert cli("eval", "shop.toml", "--detach").out == f"{run.id}\n"
    assert cli("eval", "shop.toml", "--detach", "--json").json == {"run": run.id, "folder": str(run.folder)}
    refused(("eval", "shop.toml", "--detach", "--gate"), "--detach and --gate cannot be combined.")


def test_the_run_is_named_even_while_its_worker_starts(ok, run, monkeypatch):
    monkeypatch.setattr(control, "train", Mock(side_effect=launch.DetachedEarly(run)))
    result = ok("train", "shop.toml")
    assert result.err.splitlines()[-3:] == _detached(run)


def test_more_seeds_are_not_trained(ok, run, monkeypatch):
    monkeypatch.setattr(control, "train", lambda *_, **__: run)
    monkeypatch.setattr("mlxtune.cli.evaluate.trained_seeds", lambda *_: {})
    monkeypatch.setattr(follow, "watch", Mock(side_effect=KeyboardInterrupt))
    result = ok("eval", "shop.toml", "--seeds", "2")
    assert "When it has finished, run the same command again." in result.err


def test_train_says_that_the_rows_should_be_fixed_first(cli, run, cwd, monkeypatch):
    monkeypatch.setattr(control, "train", lambda *_, **__: run)
    source, recipe = cwd / "d.jsonl", parse(RECIPE, folder=cwd)
    source.write_text("{}\n")
    warning = "See: mlxtune data check shop.toml"
    assert warning not in cli("train", "shop.toml", "--detach").err
    check_cache.save(source, CheckOutcome("blocked", 1, 1, check_cache.rules_hash(recipe)))
    assert f"! 1 of 1 row blocked. {warning}" in " ".join(cli("train", "shop.toml", "--detach").err.split())
    changed = " ".join(cli("train", "shop.toml", "--detach", "--set", "data.max_tokens=9").err.split())
    assert f"! Not checked since the recipe changed. {warning}" in changed


def test_a_process_beside_the_run_logs_its_metrics_also_after_it_is_resumed(ok, refused, run, monkeypatch):
    started = []

    def start(_workspace, kind, _recipe, request) -> Run:
        launch.write_record(run, kind, request)
        return run

    monkeypatch.setattr(launch, "start", start)
    monkeypatch.setattr(launch, "resume", lambda one: one)
    monkeypatch.setattr("mlxtune.training.preflight.preflight", lambda _workspace, recipe, _progress: recipe)
    monkeypatch.setattr(control, "start_detached", lambda command, *_: started.append(command[3:]))
    ok("train", "shop.toml", "--detach", "--track", "csv")
    ok("runs", "resume", run.id, "--detach")
    assert started == [["mlxtune", "runs", "export", run.id, "--to", "csv", "--live"]] * 2
    refused(("train", "shop.toml", "--track", "wandbb"), "Did you mean wandb?")
    refused(("train", "shop.toml", "--track", "csv", "--online"), "--online cannot be used with csv")
