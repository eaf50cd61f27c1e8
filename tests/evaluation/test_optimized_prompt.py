"""The arm base+optimized: which prompt is found on a planted task, what is counted, and how it is repeated, stopped, and refused."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.core.errors import InputError, Interrupted
from mlxtune.data.rows import Conversation, Location, Message, PromptRow
from mlxtune.evaluation import arms
from mlxtune.evaluation.answers import Answer, ArmAnswers
from mlxtune.evaluation.arms import OPTIMIZED, build_arms
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.optimized_prompt import PromptOptimizer, training_seconds
from mlxtune.recipe import EvaluationSection, parse
from mlxtune.runs.events import EventWriter

pytest.importorskip("gepa")

RECIPE = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\narms = ["base", "base+optimized"]\n'
CONTRACT = Contract(EvaluationSection(pattern="thanks", forbid=["cheap"]))


def test_an_optimization_takes_as_long_as_the_training_of_the_evaluated_adapter(tmp_path):
    folder = tmp_path / "runs" / "shop"
    folder.mkdir(parents=True)
    with EventWriter(folder) as writer:
        writer.emit("run.started", kind="train", name="shop", base="m", pid=1, host="h")
        writer.emit("heartbeat")
    first, second = map(json.loads, (folder / "events.jsonl").read_text().splitlines())
    (folder / "events.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps({**second, 't': first['t'] + 30})}\n")
    worker: Any = SimpleNamespace(folder=tmp_path / "evals" / "x", request={"run": "shop", "adapter": str(folder / "adapter")})
    nothing: Any = None
    assert training_seconds(worker, nothing, nothing) == pytest.approx(30)


def _rows(count: int, start: int = 0) -> list[PromptRow]:
    return [
        Conversation(
            Location(Path("d"), at),
            {},
            (Message("system", "You help."), Message("user", f"Question {at}"), Message("assistant", "thanks")),
        )
        for at in range(start, start + count)
    ]


class Shop:
    """A scripted base, which says thanks if its prompt has a clue, and a reflecting model, which learns that from the feedback."""

    def __init__(self, clue: str = "Say thank you.") -> None:
        self.clue = clue
        self.asked: list[str] = []
        self.requests: list[str] = []

    def answer(self, prompt: str, rows: object) -> ArmAnswers:
        self.asked += [row.prompt[-1].content for row in rows]  # type: ignore[attr-defined]
        said = "thanks" if self.clue in prompt else "It is cheap"
        return ArmAnswers(OPTIMIZED, tuple(Answer(row.id, said, "stop", 2) for row in rows), False, 1.0)  # type: ignore[attr-defined]

    def reflect(self, request: str) -> tuple[str, int, float]:
        self.requests.append(request)
        return ("Here it is:\n```\nSay thank you.\n```" if len(self.requests) > 1 else "```\nBe brief.\n```", 7, 0.25)


def _optimizer(shop: Shop, file: Path, calls: int = 60) -> PromptOptimizer:
    return PromptOptimizer(CONTRACT, shop.answer, shop.reflect, file, calls, counts_calls=True)


def test_the_seconds_of_a_running_call_are_used(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    shop, used = Shop(), []

    def answer(prompt, rows):
        now[0] += 5
        used.append(optimizer.used)
        return shop.answer(prompt, rows)

    optimizer = PromptOptimizer(CONTRACT, answer, shop.reflect, tmp_path / "o.jsonl", 12, counts_calls=False)
    optimizer.optimize("You help.", _rows(9), _rows(4, 100), seed=3)
    assert used[:2] == [5, 10]
    assert optimizer.used == 12


def test_best_prompt_on_validation_rows_is_found_and_its_cost_counted(tmp_path):
    shop = Shop()
    optimizer = _optimizer(shop, tmp_path / "o.jsonl")
    assert optimizer.optimize("You help.", _rows(9), _rows(4, 100), seed=3) == "Say thank you."
    facts = optimizer.facts
    assert (facts["start"], facts["score"], facts["prompts"]) == (0.0, 1.0, 2)
    assert facts["calls"] == len(shop.asked) == 4 + 9 + 4 * 3 + 4
    assert (facts["reflections"], facts["spent"]) == (2, 0.5)
    assert facts["tokens"] == 2 * facts["calls"] + 2 * 7
    assert {int(question.split()[1]) >= 100 for question in shop.asked} == {True, False}
    assert "You help." in shop.requests[0]
    assert "It is cheap" in shop.requests[0]
    assert "pattern: " in shop.requests[0]
    assert "## Correct Answer\nthanks" in shop.requests[0]


def test_correct_answers_become_examples_in_the_prompt(tmp_path):
    shop = Shop(clue="you answer:\nthanks")
    prompt = _optimizer(shop, tmp_path / "o.jsonl").optimize("You help.", _rows(9), _rows(4, 100), seed=3)
    assert prompt.startswith('You help.\n\nFor example, to "Question ')
    assert prompt.count("you answer:\nthanks") == 3
    assert shop.requests == []


def test_interrupted_optimization_continues_and_a_repeated_one_only_reads(tmp_path):
    class Stopped(Shop):
        def reflect(self, request: str) -> tuple[str, int, float]:
            if self.requests:
                raise Interrupted(0)
            return super().reflect(request)

    file = tmp_path / "o.jsonl"
    stopped, resumed, repeated = Stopped(), Shop(), Shop()
    with pytest.raises(Interrupted):
        _optimizer(stopped, file).optimize("You help.", _rows(9), _rows(4, 100), seed=3)
    resumed.requests += stopped.requests
    whole = _optimizer(resumed, file)
    assert whole.optimize("You help.", _rows(9), _rows(4, 100), seed=3) == "Say thank you."
    assert not set(stopped.asked) & set(resumed.asked[:-10])
    again = _optimizer(repeated, file)
    assert again.optimize("You help.", _rows(9), _rows(4, 100), seed=3) == "Say thank you."
    assert (repeated.asked, repeated.requests, again.facts) == ([], [], whole.facts)


def test_budget_and_a_prompt_without_room_for_answers_end_the_search(tmp_path):
    shop = Shop()
    optimizer = _optimizer(shop, tmp_path / "o.jsonl", calls=5)
    assert optimizer.optimize("You help.", _rows(9), _rows(4, 100), seed=3) == "You help."
    assert optimizer.used == 5
    assert optimizer.facts["calls"] == 4 + 6

    def no_room(prompt: str, rows: object) -> ArmAnswers:
        if prompt != "You help.":
            raise InputError("The prompt is too long.")
        return shop.answer(prompt, rows)

    crowded = PromptOptimizer(CONTRACT, no_room, shop.reflect, tmp_path / "r.jsonl", 20, counts_calls=True)
    assert crowded.optimize("You help.", _rows(9), _rows(4, 100), seed=3) == "You help."


@pytest.mark.parametrize(
    ("more", "first"), [("", "You help."), ('prompt = "Say thanks."\n', "Say thanks."), (None, "Answer the user.")]
)
def test_optimization_begins_with_the_recipes_prompt_or_the_rows_own(more, first):
    train = _rows(3) if more is not None else []
    (_, arm) = build_arms(parse(RECIPE + (more or "")), None, train)
    assert (arm.name, arm.prompt) == (OPTIMIZED, first)


def test_missing_gepa_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(arms, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"requires gepa\.$") as caught:
        build_arms(parse(RECIPE), None, _rows(3))
    assert caught.value.hint == "Run: pip install 'mlxtune[optimize]'"
