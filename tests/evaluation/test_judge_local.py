from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.evaluation.judge.local import TOGETHER, Local
from mlxtune.evaluation.judge.rubric import DEFAULT, grading
from mlxtune.runs.locks import hold, lease_path

ASKED = grading(DEFAULT.questions[0], (Message("user", "Where is it? \u2028 “é”"),), "Near.\nVery \ud800 near.", "mark")


def test_one_model_answers_greedily_and_ends_with_its_caller(tiny, tmp_path):
    with Local(tiny, tmp_path) as judge:
        assert "computed in" in judge.path or "native" in judge.path
        first, second = judge(ASKED), judge(ASKED)
        assert isinstance(first, str)
        assert first == second
        worker = judge._worker
    assert worker.returncode == 0
    with hold(lease_path(), busy="the accelerator was not given back"):
        pass


def test_questions_from_several_threads_are_answered_in_batches_as_they_are_alone(tiny, tmp_path):
    asked = [
        grading(DEFAULT.questions[0], (Message("user", f"Where is {at}?"),), "Near. " * (at % 4), f"mark{at}") for at in range(8)
    ]
    with Local(tiny, tmp_path) as judge:
        batches = []
        answered = judge._answered
        judge._answered = lambda batch: batches.append(len(batch)) or answered(batch)
        with ThreadPoolExecutor(TOGETHER) as pool:
            together = list(pool.map(judge, asked))
        assert sum(batches) == 8
        assert max(batches) > 1
        assert together == [judge(messages) for messages in asked]


def test_a_worker_that_dies_is_said_with_its_last_words(tiny, tmp_path):
    with Local(tiny, tmp_path) as judge:
        judge._worker.kill()
        judge._worker.wait()
        (tmp_path / "worker.log").write_text("first\nlibc++abi: terminating\n")
        with pytest.raises(MachineError, match=r"ended without a reply: libc\+\+abi: terminating"):
            judge(ASKED)


def test_a_folder_without_a_model_is_bad_input(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError):
        Local(tmp_path, tmp_path)


def test_accelerator_in_use_is_said(tiny, tmp_path):
    with (
        hold(lease_path(), busy="", note="20261124-1412-shop"),
        pytest.raises(MachineError, match="in use by 20261124-1412-shop"),
    ):
        Local(tiny, tmp_path)


def test_asking_side_imports_no_mlx():
    code = "import sys, mlxtune.cli.judge; sys.exit(any(name.partition('.')[0] == 'mlx' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
