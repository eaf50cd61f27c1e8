import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import pytest

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.evaluation.judge.local import BATCH_SIZE, LocalJudge
from mlxtune.evaluation.judge.rubric import REPLY_SCHEMA, grading_messages, load_rubric
from mlxtune.runs.locks import accelerator_lease, accelerator_lock, file_lock

pytestmark = pytest.mark.slow

ASKED = grading_messages(
    load_rubric().questions[0], (Message("user", "Where is it? \u2028 “é”"),), "Near.\nVery \ud800 near.", "mark"
)


def test_local_judge_answers_greedily_and_exits_with_caller(tiny, tmp_path):
    with LocalJudge(tiny, tmp_path) as judge:
        assert "computed in" in judge.path or "native" in judge.path
        first, second = judge(ASKED), judge(ASKED)
        assert first == second
        pytest.importorskip("llguidance")
        assert jsonschema.Draft202012Validator(REPLY_SCHEMA).is_valid(json.loads(first)), "a grammar constrains the replies"
        worker = judge.process
    assert worker.returncode == 0
    with file_lock(accelerator_lock(), busy="the accelerator was not given back"):
        pass


@pytest.mark.exhaustive
def test_batched_answers_equal_single_answers(tiny, tmp_path):
    prompts = [
        grading_messages(load_rubric().questions[0], (Message("user", f"Where is {at}?"),), "Near. " * (at % 4), f"mark{at}")
        for at in range(8)
    ]
    with LocalJudge(tiny, tmp_path) as judge:
        with ThreadPoolExecutor(BATCH_SIZE) as pool:
            together = list(pool.map(judge, prompts))
        assert together == [judge(messages) for messages in prompts]


def test_crashed_worker_is_reported_with_its_last_output(tiny, tmp_path):
    with LocalJudge(tiny, tmp_path) as judge:
        (tmp_path / "worker.log").write_text("first\nlibc++abi: terminating\n")
        judge.process.kill()
        with pytest.raises(MachineError, match=r"The judge process was killed by signal 9: libc\+\+abi: terminating"):
            judge(ASKED)


def test_folder_without_model_is_input_error(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError):
        LocalJudge(tmp_path, tmp_path)


def test_busy_accelerator_is_reported(tiny, tmp_path):
    with (
        accelerator_lease("train", Path("shop"), "20261124-1412-shop"),
        pytest.raises(MachineError, match="in use by the training run 20261124-1412-shop"),
    ):
        LocalJudge(tiny, tmp_path)
