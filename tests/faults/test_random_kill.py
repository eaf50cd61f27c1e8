"""SIGKILL of an export and of a generation at random moments: each is whole or absent, nothing is lost, and nothing is asked twice."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter

import pytest
from judge_stub import serve
from waiting import PATIENCE, wait_until

from mlxtune.adapters import library
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.start import MODEL
from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.files import read_json
from mlxtune.core.journal import read
from mlxtune.data.generate.worker import CALLS, REFUSED
from mlxtune.data.source import read_file
from mlxtune.data.source_files import generated_path
from mlxtune.evaluation.judge.paid_calls import read_calls
from mlxtune.recipe import load
from mlxtune.runs import events, launch, registry
from mlxtune.runs.registry import Run

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]

KILLS = 20
SMALL = ("training.epochs=0", "training.steps=2", "evaluation.regression=", "evaluation.max_tokens=2", "evaluation.rows=2")


def kill_worker(run: Run, seconds: float) -> None:
    """Kill the worker of ``run``, with its children, some ``seconds`` after it has started, and wait until its lock is free."""
    wait_until(lambda: run.state().pid or run.state().ended, interval=0.01)
    time.sleep(seconds)
    if pid := run.state().pid:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: run.status() not in registry.ALIVE)


def weights(run: Run) -> bytes:
    """Return the exported weights."""
    return (run.folder / MODEL / "model.safetensors").read_bytes()


def test_a_killed_export_is_whole_or_absent(workspace):
    recipe = load(workspace / "recipes/tiny.toml", SMALL)
    trained = launch.start(workspace, "train", recipe)
    wait_until(lambda: trained.state().ended)
    entry = library.find_usable(workspace, "last")
    unharmed = exports.start(workspace, entry, "fused", recipe=recipe)
    wait_until(lambda: unharmed.state().ended)
    times = [event["t"] for event in events.read_all(unharmed.folder)]
    chance, killed, tries = random.Random(7), 0, 0
    while killed < KILLS:
        tries += 1
        run = exports.start(workspace, entry, "fused", recipe=recipe)
        kill_worker(run, chance.uniform(0, times[-1] - times[0]))
        finished = run.status() == "finished"
        killed += not finished
        exports.remove_unfinished(run)
        left = {path.name for path in run.folder.iterdir() if path.is_dir()} - {"cache"}
        assert left == {MODEL} or (not left and not finished)  # it may be killed between its last file and its last event
        assert not left or weights(run) == weights(unharmed)
        registry.remove(run)
    print(f"{killed} of {tries} exports were killed before they ended")


def test_a_killed_generation_asks_nothing_twice(workspace, monkeypatch):
    """Questions may have been billed, so each reaches the teacher at most once."""
    monkeypatch.chdir(workspace)
    prompts = [f"What about item {number * 1234567}, which is {'abcdefghijklmnop'[number % 16] * 12}?" for number in range(300)]
    (workspace / "prompts.txt").write_text("\n".join(prompts))

    def reply(messages: list[dict[str, str]]) -> str:
        time.sleep(0.4)
        return f"The answer to {messages[-1]['content']}"

    with serve() as stub:
        stub.answer = reply
        teacher = ("--url", stub.url, "--model", "teacher-1", "--price-in", "1", "--price-out", "1", "--cap", "9")
        options = ("recipes/tiny.toml", "--detach", "--json", "--prompts", "prompts.txt", "--candidates", "1", *teacher)
        command = python_command("mlxtune", "data", "generate", *options)
        started = subprocess.run(command, env=python_environment(), stdout=subprocess.PIPE, timeout=PATIENCE, check=True)
        run = registry.find_run(workspace, json.loads(started.stdout)["run"], "generate")
        wait_until(lambda: run.state().pid, run, interval=0.01)
        before = time.monotonic()
        wait_until(lambda: read_calls(run.folder / CALLS).replies, run)
        seconds = time.monotonic() - before  # until the worker has the first reply
        chance, during = random.Random(7), 0
        replies: dict[str, object] = {}
        for number in range(KILLS):
            if number % 2:
                wait_until(lambda before=len(replies): len(read_calls(run.folder / CALLS).replies) > before, run)
            kill_worker(run, chance.uniform(0, 1 if number % 2 else seconds))
            now = read_calls(run.folder / CALLS).replies
            assert {key: now[key] for key in replies} == replies  # nothing that was saved is lost
            during += len(now) > len(replies)
            replies = now
            assert run.status() == "crashed"
            launch.resume(run)
        wait_until(lambda: run.state().ended, run)
    assert run.status() == "finished"
    calls = read_calls(run.folder / CALLS)
    print(f"{KILLS} kills, {during} of them while it asked; {len(calls.replies)} replies, {len(calls.lost)} lost in flight")
    assert during >= KILLS / 2
    assert {*Counter(body["messages"][-1]["content"] for body in stub.bodies).values()} == {1}
    asked = read_json(run.folder / "stage-prompts.json")["subjects"]  # without prompts that repeat others
    assert len(calls.replies) + len(calls.lost) == len(asked) > 250
    proposed = [row.id for row in read_file(generated_path(workspace / "chat.jsonl"))]
    refused = len(read(run.folder / REFUSED))
    assert len({*proposed}) == len(proposed) == len(prompts) - refused
