"""Real searches on the tiny model: rungs are complete runs, killed searches continue, and failed trials are told."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlxtune.core.safetensors import read_header
from mlxtune.evaluation.holdout import ledger
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.locks import is_locked
from mlxtune.runs.registry import Run
from mlxtune.training.search import board as boards
from mlxtune.training.search import leaderboard, search_start

pytestmark = pytest.mark.slow

SMALL = ("training.epochs=0", "training.steps=8", "training.save_every=2", "evaluation.regression=", "search.trials=3")


@pytest.fixture
def workspace(workspace: Path) -> Iterator[Path]:
    """The shared workspace. Searches that a failed test leaves behind are killed, so that they do not block the next test."""
    yield workspace
    for run in registry.list_runs(workspace, None):
        if is_locked(run.lock):
            os.kill(run.state().pid, signal.SIGKILL)


def start(workspace: Path, *overrides: str) -> Run:
    return search_start.start(workspace, load(workspace / "recipes" / "tiny.toml", (*SMALL, *overrides)))


def finish(run: Run, seconds: float = 120) -> Run:
    deadline = time.monotonic() + seconds
    while not run.state().ended:
        assert time.monotonic() < deadline, (run.state(), run.log_tail(20))
        time.sleep(0.05)
    assert run.state().phase == "finished", (run.state().error, run.log_tail(20))
    return run


def weights(folder: Path) -> bytes:
    file = folder / "adapters.safetensors"
    read_header(file)
    return file.read_bytes()


def results(run: Run) -> dict[tuple[int, int], tuple[object, ...]]:
    """Return everything that a search measured, except times."""
    board = boards.read_board(run.folder)
    assert board
    return {key: (result.passed, result.nats, result.tokens) for key, result in board.results.items()}


def test_the_selected_trial_is_a_run_that_is_evaluated_once(workspace: Path) -> None:
    search = finish(start(workspace))
    board = leaderboard.read_leaderboard(search.folder)
    assert board
    assert board.outcome
    run = Run(workspace / "runs" / board.outcome.run)
    assert run.status() == "finished"
    again = launch.start(workspace, "train", run.recipe())  # a rung that continued from checkpoints equals a run from the start
    finish(again)
    assert weights(again.adapter) == weights(run.adapter)
    entries = [
        json.loads(line) for line in ledger.ledger_path(workspace / "evals" / board.outcome.evaluation).read_text().splitlines()
    ]
    assert [(entry["kind"], entry["by"]) for entry in entries] == [("eval", board.outcome.evaluation)]
    valid = json.loads((run.folder / "data.json").read_text())["valid"]
    assert not set(valid) & set(entries[0]["rows"])
    assert board.trained_steps < 3 * 8 * 1.15


def test_a_killed_search_has_the_same_leaderboard(workspace: Path) -> None:
    whole = finish(start(workspace))
    rng = random.Random(4)
    killed = start(workspace)
    for _ in range(3):
        time.sleep(rng.uniform(0.2, 2.5))
        if killed.state().ended:
            break
        os.kill(killed.state().pid, signal.SIGKILL)
        while is_locked(killed.lock):
            time.sleep(0.02)
        launch.resume(killed)
    finish(killed)
    assert results(killed) == results(whole)
    first, second = (leaderboard.read_leaderboard(run.folder) for run in (whole, killed))
    assert first
    assert second
    assert first.entries == second.entries


def test_a_trial_with_nan_fails_alone(workspace: Path) -> None:
    search = finish(start(workspace, "search.learning_rate=[0.9, 0.99]", "training.optimizer=lion", "training.clip=0"))
    assert np.isfinite([value for result in results(search).values() for value in result[1:]]).all()  # type: ignore[arg-type]
    board = leaderboard.read_leaderboard(search.folder)
    assert board
    kinds = {event["type"] for event in events.read_all(search.folder)}
    assert "search.decided" in kinds
