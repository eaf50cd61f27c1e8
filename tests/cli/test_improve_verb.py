"""Two rounds from failures on the validation rows to accepted rows and a new adapter, on the tiny model and a stub endpoint."""

import json
import shlex
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from judge_stub import JudgeStub, serve

from mlxtune.data.source import read_source
from mlxtune.runs import registry

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("workers_in_process")]
WORDS = ("moss", "fern", "reed", "heath", "sedge", "larch", "alder", "birch", "rowan", "aspen", "hazel", "maple", "thyme", "sorrel")
SHORT = ("--set", "training.steps=2", "--set", "training.samples=0", "--set", "evaluation.regression=")


@pytest.fixture
def teacher() -> Iterator[JudgeStub]:
    """A teacher that always writes new prompts."""
    numbers = count()

    def answer(messages: list[dict[str, Any]]) -> str:
        if "Write 5 new messages" not in messages[-1]["content"]:
            return json.dumps({"category": "b", "reply": "ok ok"})
        number = next(numbers)
        picked = [WORDS[(number * 5 + at) % len(WORDS)] for at in range(5)]
        return json.dumps([f"Is the {word} number {number * 31} in bloom?" for word in picked])

    with serve() as stub:
        stub.answer = answer
        yield stub


def _adapter(ok: Callable[..., Any], workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train an adapter for rows with one correct answer, in the workspace."""
    monkeypatch.chdir(workspace)
    recipe = workspace / "recipes" / "tiny.toml"
    changes = {'forbid = ["Northpeak"]': 'correct = ["answer"]', "max_tokens = 256": "max_tokens = 256\nvalidation = 0.2"}
    for old, new in changes.items():
        recipe.write_text(recipe.read_text().replace(old, new))
    ok("train", "recipes/tiny.toml", *SHORT)


def test_an_adapter_does_not_answer_again_where_one_answer_is_correct(
    ok: Callable[..., Any], cli: Callable[..., Any], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another answer could not be proposed. The classes of failures are shown all the same."""
    _adapter(ok, workspace, monkeypatch)
    result = cli("improve", "last")
    assert result.code == 2
    assert "validation rows" in result.out
    assert "only one correct answer" in result.err
    assert "--local" in result.err
    assert not (workspace / "generations").exists()


def test_two_rounds_use_only_validation_rows(
    ok: Callable[..., Any], workspace: Path, teacher: JudgeStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    _adapter(ok, workspace, monkeypatch)
    sizes = [len(read_source(workspace / "chat.jsonl").rows)]
    for _ in range(2):
        shown = ok("improve", "last", "--model", "writer", "--url", teacher.url, "--rows", "4", "-k", "1")
        assert "improve last --train" in shown.out, shown
        review = next(line.split("mlxtune ")[1] for line in shown.out.splitlines() if "mlxtune data review" in line)
        ok(*shlex.split(review), "--accept", "--all", "--yes")
        sizes.append(len(read_source(workspace / "chat.jsonl").rows))
        compared = ok("improve", "last", "--train").out
        last, *earlier = registry.list_runs(workspace)
        assert f"Tuned of {last.id} over tuned of {earlier[0].id}" in " ".join(compared.split())
    assert sizes[0] < sizes[1] < sizes[2]
    assert len(registry.list_runs(workspace)) == 3
    assert not list((workspace / "evals").glob("ledger.jsonl"))
