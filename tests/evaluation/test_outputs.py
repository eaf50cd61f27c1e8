"""Answers of an arm: asked as it asks, kept by all that decides them, never made up."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.core.errors import DataError, MlxtuneError
from mlxtune.data.rows import Conversation, Message, Place, Preference, Text
from mlxtune.evaluation import outputs
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.outputs import Answers, answer, questions
from mlxtune.models import lora
from mlxtune.models.generate import generate
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import AdapterSection, parse

PLACE = Place(Path("d.jsonl"), 1)
ROWS = [Conversation(PLACE, {}, (Message("user", f"Question {at}?"), Message("assistant", "ok " * (at + 1)))) for at in range(5)]


@pytest.fixture
def loaded(tiny: Path) -> LoadedModel:
    return load(resolve(str(tiny)))


def _answer(loaded: LoadedModel, cache: Path, arm: Arm = Arm("base"), rows=ROWS, max_tokens: int = 6) -> Answers:
    return answer(arm, loaded, rows, max_tokens=max_tokens, batch_size=2, cache=cache, tell=lambda of: lambda done, total: None)


def test_each_row_is_answered_as_the_arm_asks_it(loaded: LoadedModel, tmp_path: Path) -> None:
    arm = Arm("base+kshot", prompt="Be brief.", shots=(Message("user", "One?"), Message("assistant", "Two.")))
    template = ChatTemplate(loaded.tokenizer)
    prompts = [template.prompt(arm.ask(row)) for row in ROWS]
    expected = generate(loaded.model, loaded.tokenizer, prompts, max_tokens=6, stops=template.stops, batch_size=9)
    found = _answer(loaded, tmp_path, arm)
    assert [(out.id, out.output, out.ended) for out in found.outputs] == [
        (row.id, *told) for row, told in zip(ROWS, expected, strict=True)
    ]
    assert (found.arm, found.cached) == ("base+kshot", False)


def test_references_have_the_likelihood_of_their_trained_tokens(loaded: LoadedModel, tmp_path: Path) -> None:
    template = ChatTemplate(loaded.tokenizer)
    for out, row in zip(_answer(loaded, tmp_path).outputs, ROWS, strict=True):
        encoded = template.encode(row, 10_000)
        logits = np.array(loaded.model(mx.array([encoded.tokens.tolist()]))[0], np.float64)
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.flatnonzero(encoded.trained)
        assert out.tokens == len(places)
        assert out.nats == pytest.approx(-sum(logps[at - 1, encoded.tokens[at]] for at in places), rel=1e-4)


def test_both_answers_of_a_pair_have_the_likelihood_of_their_tokens(loaded: LoadedModel, tmp_path: Path) -> None:
    asked = (Message("user", "Where?"),)
    rows = [Preference(PLACE, {}, asked, "here " * (at + 1), "there" * (3 - at)) for at in range(3)]
    template = ChatTemplate(loaded.tokenizer)
    arm = Arm("base+prompt", prompt="Be brief.")

    def mean(row: Preference, answer: str) -> float:
        prompt, tokens = template.completion((*arm.ask(row), Message("assistant", answer)), (), PLACE)
        logits = np.array(loaded.model(mx.array([[*prompt, *tokens]]))[0], np.float64)[len(prompt) - 1 : -1]
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return float(np.mean([logps[at, token] for at, token in enumerate(tokens)]))

    how = {"max_tokens": 6, "batch_size": 9, "cache": tmp_path, "tell": lambda of: lambda done, total: None}
    compared = frozenset(row.id for row in rows[1:])
    for _ in range(2):  # from the model, then from the cache
        first, *others = answer(arm, loaded, rows, compared=compared, **how).outputs
        assert first.preferred is None
        for out, row in zip(others, rows[1:], strict=True):
            assert out.preferred is not None
            assert out.preferred.chosen == pytest.approx(mean(row, row.chosen), rel=1e-4)
            assert out.preferred.rejected == pytest.approx(mean(row, row.rejected), rel=1e-4)
    assert not answer(arm, loaded, rows, **how).cached


def test_pairs_that_are_compared_have_something_to_prefer_in_the_window(loaded: LoadedModel) -> None:
    recipe = parse('name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\nmax_tokens = 64\n')
    short, long = (Preference(PLACE, {}, (Message("user", text),), "here", "there") for text in ("Where?", "Where? " * 99))
    assert outputs.comparable(loaded, recipe, [short, long, ROWS[0]]) == {short.id}
    with pytest.raises(DataError, match="say the same"):
        outputs.comparable(loaded, recipe, [Preference(PLACE, {}, short.prompt, "here", "here ")])


def test_progress_says_of_what(loaded: LoadedModel, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    how = {
        "max_tokens": 2,
        "batch_size": 9,
        "cache": tmp_path,
        "tell": lambda of: lambda done, total: told.append((of, done, total)),
    }
    answer(Arm("base"), loaded, ROWS, **how)
    assert list(dict.fromkeys(of for of, *_ in told)) == ["held-out row", "reference"]
    assert {("held-out row", 5, 5), ("reference", 5, 5)} <= set(told)
    told.clear()
    answer(Arm("base"), loaded, ROWS, **how, of="off-task prompt")
    assert told == [("off-task prompt", 5, 5)]  # from the cache


def test_the_same_question_is_answered_from_the_cache(loaded: LoadedModel, tmp_path: Path, monkeypatch) -> None:
    first = _answer(loaded, tmp_path)
    monkeypatch.setattr(outputs, "generate", lambda *_, **__: pytest.fail("asked again"))
    again = _answer(loaded, tmp_path)
    assert again.cached
    assert again.outputs == first.outputs


def test_whatever_decides_an_answer_is_asked_anew(loaded: LoadedModel, tmp_path: Path) -> None:
    _answer(loaded, tmp_path)
    other_reference = Conversation(PLACE, {}, (ROWS[0].messages[0], Message("assistant", "No.")))
    for changed in (
        {"max_tokens": 5},
        {"rows": ROWS[:4]},
        {"rows": [other_reference, *ROWS[1:]]},
        {"arm": Arm("base+prompt", prompt="Be kind.")},
        {"arm": Arm("base+kshot", shots=(Message("user", "a"), Message("assistant", "b")))},
        {"arm": Arm("base+grammar", schema={"type": "integer"})},
    ):
        assert not _answer(loaded, tmp_path, **changed).cached
    assert not _answer(LoadedModel(**{**vars(loaded), "path": "elsewhere"}), tmp_path).cached


def test_an_adapter_with_other_weights_or_another_scale_is_asked_anew(loaded: LoadedModel, tmp_path: Path) -> None:
    config = lora.add(loaded.model, AdapterSection(rank=2), 1)
    for name in ("one", "two", "three"):
        lora.save(tmp_path / name, lora.weights(loaded.model), config)
    (tmp_path / "two" / lora.CONFIG).write_text((tmp_path / "two" / lora.CONFIG).read_text().replace("scale", "scale "))
    assert not _answer(loaded, tmp_path / "cache", Arm("tuned", tmp_path / "one")).cached
    assert _answer(loaded, tmp_path / "cache", Arm("tuned", tmp_path / "three")).cached
    assert not _answer(loaded, tmp_path / "cache", Arm("tuned", tmp_path / "two")).cached


def test_a_cache_that_was_cut_is_not_believed(loaded: LoadedModel, tmp_path: Path) -> None:
    first = _answer(loaded, tmp_path)
    (file,) = tmp_path.glob("*.jsonl")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))
    again = _answer(loaded, tmp_path)
    assert not again.cached
    assert again.outputs == first.outputs


def test_a_model_without_numbers_fails_and_leaves_nothing_in_the_cache(loaded: LoadedModel, tmp_path: Path) -> None:
    loaded.model.model.norm.weight = loaded.model.model.norm.weight * float("nan")
    with pytest.raises(MlxtuneError, match="no numbers"):
        _answer(loaded, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_template_that_hides_the_reference_costs_the_perplexity_and_not_the_answers(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "model")
    changed = load(resolve(str(tmp_path / "model")))
    changed.tokenizer.chat_template = changed.tokenizer.chat_template.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\nHm. {% endif %}"
    )
    found = _answer(changed, tmp_path / "cache")
    assert "renders differently" in found.unproved
    assert {(out.nats, out.tokens) for out in found.outputs} == {(0.0, 0)}
    assert all(math.isfinite(len(out.output)) for out in found.outputs)


def test_only_rows_that_ask_are_questions() -> None:
    pair = Preference(PLACE, {}, (Message("user", "Where?"),), "here", "there")
    assert questions([Text(PLACE, {}, "words"), pair, *ROWS]) == [pair, *ROWS]
    with pytest.raises(DataError, match="no held-out conversations"):
        questions([Text(PLACE, {}, "words")])
