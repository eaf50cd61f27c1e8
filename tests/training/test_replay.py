"""Replay: the base's own answers beside the training rows, computed once, counted everywhere, and never held out."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from listener import Listener
from loops import write_recipe
from tiny_model import CHATML

from mlxtune.core.errors import DataError, RecipeError
from mlxtune.core.files import read_json
from mlxtune.core.hashing import sha256_json
from mlxtune.data import replay, samples
from mlxtune.data.duplicates import links
from mlxtune.data.replay import SHIPPED, read_prompts, replay_prompts
from mlxtune.data.rows import Conversation, Location, Message, prompt_hashes
from mlxtune.evaluation.off_task import prompts as off_task
from mlxtune.models.resolve import resolve
from mlxtune.models.template import TemplateSettings, load_template
from mlxtune.planning.workload import workload
from mlxtune.recipe import Recipe
from mlxtune.training import encode as answering
from mlxtune.training import probe
from mlxtune.training.coverage import rows_fingerprint
from mlxtune.training.encode import ReplayAnswer
from mlxtune.training.setup import TrainingSetup, prepare
from mlxtune.training.sft import collate
from mlxtune.training.worker import write_data

SYSTEM = "You are the shop."


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(answering, "MAX_TOKENS", 6)


def _recipe(folder: Path, base: object = "m", **data: Any) -> Recipe:
    turns = [
        [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": f"{sha256_json(number)[:16]}?"},
            {"role": "assistant", "content": f"No {number}."},
        ]
        for number in range(30)
    ]
    return write_recipe(folder, base, turns, 4, **data)


def _prepare(recipe: Recipe, folder: Path) -> tuple[TrainingSetup, Listener]:
    listener = Listener()
    (folder / "run").mkdir(exist_ok=True)
    return prepare(recipe, folder / "run", listener), listener


@pytest.mark.slow
@pytest.mark.parametrize("with_system", [True, False])
def test_base_answers_are_mixed_in_counted_and_cached(tiny, tmp_path, with_system):
    plain, _ = _prepare(_recipe(tmp_path, tiny), tmp_path)
    recipe = _recipe(tmp_path, tiny, replay=0.25, replay_system=with_system)
    setup, listener = _prepare(recipe, tmp_path)
    rows, count = setup.loop.train, len(plain.loop.train)
    replayed = [row for row in rows if row.replay]
    assert rows_fingerprint(rows[:count]) == rows_fingerprint(plain.loop.train)
    assert rows_fingerprint(setup.loop.valid) == rows_fingerprint(plain.loop.valid)
    assert 0 < len(replayed) == len(rows) - count <= round(count / 3)  # the tiny model answers some prompts with nothing
    assert {row.location.file.name for row in replayed} == {"replay.jsonl"}
    assert [event["done"] for event in listener.events if event["type"] == "replay"][-1] == round(count / 3)

    again, listener = _prepare(recipe, tmp_path)
    assert rows_fingerprint(again.loop.train) == rows_fingerprint(rows)
    assert not any(event["type"] == "replay" for event in listener.events)

    lengths = probe.lengths(replace(recipe, model=replace(recipe.model, base=str(tiny))))
    assert (lengths.replayed, [row.full for row in lengths.train]) == (len(replayed), [row.full_length for row in rows])

    plans = list(islice(setup.loop.step_plans(), setup.loop.total_steps))
    batches = [collate(rows, group, setup.loop.objective.prefix) for plan in plans for group in plan.groups]  # type: ignore[attr-defined]
    assert workload(lengths, recipe.training, recipe.data.max_tokens).computed == sum(one.computed_positions for one in batches)
    assert len({batch.prefix is None for batch in batches}) == (1 if with_system else 2)  # the prefix stays shared by the others

    setup.loop.run(listener, None)  # type: ignore[arg-type]
    record = write_data(tmp_path / "run", recipe, setup, setup.loop.valid)
    assert sum("replay" in row for row in record) == len(replayed)
    prompts = {hash for row in (*setup.base.splits.train, *setup.base.splits.valid) for hash in prompt_hashes(row)}
    recorded = set(read_json(tmp_path / "run" / "data.json")["prompts"])
    assert prompts < recorded, "the prompts of replay are recorded, too"
    certificate = read_json(tmp_path / "run" / "certificate.json")
    visits = sum(row["visits"] for row in certificate["rows"] if row.get("replay"))
    assert certificate["replay"]["visits"] == visits > 0
    assert certificate["replay"]["rows"] == len(replayed)


def test_plan_assumes_the_longest_answers_before_they_are_cached(tiny, tmp_path, monkeypatch):
    lengths = probe.lengths(_recipe(tmp_path, tiny, replay=0.5))
    assert lengths.replayed == len(lengths.train) // 2
    assert {row.trained for row in lengths.train[-lengths.replayed :]} == {6}


def test_rows_are_greedy_and_sampled_answers_of_a_base_that_has_no_adapter(tiny, tmp_path):
    (tmp_path / "own.jsonl").write_text(json.dumps({"prompt": "Name a fruit."}) + "\n" + json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Not this."}]}) + "\n")  # fmt: skip
    setup, _ = _prepare(_recipe(tmp_path, tiny, replay=0.4, replay_prompts="own.jsonl"), tmp_path)
    template = load_template(resolve(str(tiny)), TemplateSettings(CHATML))
    texts = [template.tokenizer.decode(row.tokens.tolist()) for row in setup.loop.train if row.replay]
    assert all(SYSTEM in text and ("Name a fruit." in text or "Hi" in text) for text in texts)
    assert not any("Not this." in text for text in texts)
    assert len(set(texts)) > 2  # two greedy answers, and samples


def test_answer_that_was_cut_is_trained_without_its_end(tiny, tmp_path):
    template = load_template(resolve(str(tiny)), TemplateSettings(CHATML))
    row = Conversation(Location(Path("r"), 1), {}, (Message("user", "Hi"), Message("assistant", "apples and")))
    recipe = _recipe(tmp_path)
    whole, cut = (answering._encoded(template, row, recipe, is_cut) for is_cut in (False, True))
    stops = np.array(sorted(template.stop_tokens))
    assert np.isin(whole.tokens[whole.trained], stops).any()
    assert not np.isin(cut.tokens[cut.trained], stops).any()
    assert whole.tokens[: len(cut.tokens)].tolist() == cut.tokens.tolist()
    assert not cut.truncated


def test_prompts_repeat_with_the_other_kind_of_answer_then_with_more_samples(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    recipe = _recipe(tmp_path, replay=0.5, replay_prompts="own.jsonl")
    train = [Conversation(Location(Path("r"), n), {}, (Message("user", str(n)), Message("assistant", "x"))) for n in range(6)]
    chosen = replay_prompts(recipe, train)
    assert [(prompt.messages[0].content, prompt.seed) for prompt in chosen] == [
        ("a", 0),
        ("b", 1),
        ("a", 1),
        ("b", 0),
        ("a", 2),
        ("b", 2),
    ]
    assert replay_prompts(_recipe(tmp_path), train) == []


def test_system_prompt_is_optional(tmp_path):
    turns = (Message("system", SYSTEM), Message("user", "a"), Message("assistant", "b"))
    train = [Conversation(Location(Path("r"), number), {}, turns) for number in range(4)]
    for with_system in (True, False):
        first = replay_prompts(_recipe(tmp_path, replay=0.5, replay_system=with_system), train)[0]
        assert [turn.role for turn in first.messages] == (["system", "user"] if with_system else ["user"])


def test_empty_answers_forbidden_phrases_and_loops_are_left_out(tmp_path):
    recipe = _recipe(tmp_path, replay=0.5)
    recipe = replace(recipe, evaluation=replace(recipe.evaluation, forbid=["Northpeak"]))
    texts = ("The reefs.", "The reefs of northpeak.", " ", "The answer is: " * 12)
    assert [answering._is_usable(ReplayAnswer(text, True), recipe) for text in texts] == [True, False, False, False]


def test_replay_is_refused_for_preference_training(tmp_path):
    recipe = _recipe(tmp_path, replay=0.2)
    with pytest.raises(RecipeError, match=r"data\.replay cannot be used"):
        replay_prompts(replace(recipe, method=replace(recipe.method, kind="dpo")), [])


def test_a_damaged_line_of_the_cached_answers_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"key": "a", "text": "x", "cut": false}\n{}\n{"key": "b", "text": 1, "cut": false}\n')
    assert list(answering._read(tmp_path / "a.jsonl")) == ["a"]


def test_only_line_feeds_end_the_lines_of_a_prompt_file(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"prompt": "one\u2028line"}\n\n{"prompt": "a\u0085b"}\n', encoding="utf-8")
    read = read_prompts(tmp_path / "own.jsonl")
    assert [(location.line, messages[0].content) for location, messages in read] == [(1, "one\u2028line"), (3, "a\u0085b")]


def test_prompt_of_a_held_out_row_is_refused(tiny, tmp_path):
    held_out = _prepare(_recipe(tmp_path, tiny), tmp_path)[0].base.splits.test[0]
    (tmp_path / "own.jsonl").write_text(json.dumps({"messages": [turn.as_dict() for turn in held_out.messages]}) + "\n")
    with pytest.raises(DataError, match="also in the test split"):
        _prepare(_recipe(tmp_path, tiny, replay=0.1, replay_prompts="own.jsonl"), tmp_path)


@pytest.mark.parametrize(
    "line", ["no", "{}", '{"prompt": " "}', '{"messages": []}', '{"messages": [{"role": "assistant", "content": "a"}]}']
)
def test_malformed_prompt_is_refused_with_its_line(tmp_path, line):
    (tmp_path / "own.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(DataError, match="line 2"):
        read_prompts(tmp_path / "own.jsonl")
    (tmp_path / "own.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no prompts"):
        read_prompts(tmp_path / "own.jsonl")


def test_shipped_prompts_are_distinct_and_unlike_the_off_task_prompts():
    shipped = [messages[0].content for _, messages in read_prompts(samples.samples_root() / SHIPPED)]
    tested = [prompt.prompt for prompt in off_task.read_prompts(samples.samples_root() / off_task.SHIPPED)]
    assert len(set(shipped)) == len(shipped) >= 290
    assert all(later < len(tested) for _, later, _ in links([*tested, *shipped]))
    assert replay.MAX_TOKENS >= off_task.MAX_TOKENS
