"""Generating the answers of an arm: its prompts, the cache, and the time that an answer takes alone."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.core.errors import DataError, Interrupted, MlxtuneError
from mlxtune.data.rows import Conversation, Location, Message, Preference
from mlxtune.evaluation import outputs
from mlxtune.evaluation.answers import ArmAnswers
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.outputs import AnswerOptions, Latency, generate_answers, measure_latency
from mlxtune.models import lora
from mlxtune.models.generate import GenerationSettings, Progress, PromptGroup, generate
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.prefix_cache import PrefixCache
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings
from mlxtune.models.thoughts import GeneratedAnswer
from mlxtune.recipe import AdapterSection

PLACE = Location(Path("d.jsonl"), 1)
ROWS = [Conversation(PLACE, {}, (Message("user", f"Question {at}?"), Message("assistant", "ok " * (at + 1)))) for at in range(5)]


@pytest.fixture
def loaded(tiny: Path) -> LoadedModel:
    return load(resolve(str(tiny)))


def _answer(loaded: LoadedModel, cache: Path, arm: Arm = Arm("base"), rows=ROWS, max_tokens: int = 6, **options: Any) -> ArmAnswers:
    return generate_answers(
        arm, loaded, rows, _options(cache, max_tokens), **{"tell": lambda of: lambda done, total: None, **options}
    )


def _options(cache: Path, max_tokens: int = 6, batch_size: int = 2) -> AnswerOptions:
    return AnswerOptions(TemplateSettings(), max_tokens, 8, batch_size, cache)


def counted(monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any]) -> list[int]:
    """Return a list that gets the number of prompts or pairs whenever ``outputs`` calls ``function``."""
    lengths: list[int] = []

    def counting(*args: Any, **options: Any) -> Any:
        lengths.append(sum(len(request.prompts) for request in args[2]) if function is generate else len(args[1]))
        return function(*args, **options)

    monkeypatch.setattr(outputs, function.__name__, counting)
    return lengths


def test_each_row_is_prompted_as_its_arm_requires(loaded, tmp_path):
    arm = Arm("base+kshot", prompt="Be brief.", shots=(Message("user", "One?"), Message("assistant", "Two.")))
    template = ChatTemplate(loaded.tokenizer)
    prompts = [template.prompt(arm.prompt_for(row)) for row in ROWS]
    settings = GenerationSettings(max_tokens=6, stops=template.stop_tokens, batch_size=9)
    expected = generate(loaded.model, loaded.tokenizer, [PromptGroup(prompts, settings)])
    answers = _answer(loaded, tmp_path, arm)
    assert [(out.id, out.output, out.ended) for out in answers.answers] == [
        (row.id, answer.text, answer.ended) for row, answer in zip(ROWS, expected, strict=True)
    ]
    assert (answers.name, answers.cached) == ("base+kshot", False)


def test_answers_cached_without_their_time_are_only_timed(loaded, tmp_path, monkeypatch):
    untimed = _answer(loaded, tmp_path)
    assert {out.seconds for out in untimed.answers} == {None}
    sizes: list[int] = []
    monkeypatch.setattr(
        outputs, "generate", lambda *args, **options: sizes.append(len(args[2][0].prompts)) or generate(*args, **options)
    )
    timed = _answer(loaded, tmp_path, timed=True)
    assert timed.cached
    assert sizes == [1, 1, 1]  # the answers themselves were not generated again
    assert [replace(out, seconds=None) for out in timed.answers] == list(untimed.answers)
    assert all(out.seconds for out in timed.answers)
    assert _answer(loaded, tmp_path, timed=True).answers == timed.answers
    assert len(sizes) == 3


def test_reference_likelihood_covers_trained_tokens(loaded, tmp_path):
    template = ChatTemplate(loaded.tokenizer)
    for out, row in zip(_answer(loaded, tmp_path).answers, ROWS, strict=True):
        (encoded,) = template.encode(row, 10_000)
        logits = np.array(loaded.model(mx.array([encoded.tokens.tolist()]))[0], np.float64)
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        places = np.flatnonzero(encoded.trained)
        assert out.tokens == len(places)
        assert out.nats == pytest.approx(-sum(logps[at - 1, encoded.tokens[at]] for at in places), rel=1e-4)


def test_both_answers_of_pair_get_likelihood(loaded, tmp_path):
    question = (Message("user", "Where?"),)
    rows = [Preference(PLACE, {}, question, "here " * (at + 1), "there" * (3 - at)) for at in range(3)]
    template = ChatTemplate(loaded.tokenizer)
    arm = Arm("base+prompt", prompt="Be brief.")

    def mean(row: Preference, answer: str) -> float:
        span = template.answer((*arm.prompt_for(row), Message("assistant", answer)), (), PLACE)
        prompt, tokens = span.tokens[: span.start], span.tokens[span.start : span.end]
        logits = np.array(loaded.model(mx.array([[*prompt, *tokens]]))[0], np.float64)[len(prompt) - 1 : -1]
        logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return float(np.mean([logps[at, token] for at, token in enumerate(tokens)]))

    how = {"options": _options(tmp_path, batch_size=9), "tell": lambda of: lambda done, total: None}
    compared = frozenset(row.id for row in rows[1:])
    for _ in range(2):  # generated first, then read from the cache
        first, *others = generate_answers(arm, loaded, rows, compared=compared, **how).answers
        assert first.margin is None
        for out, row in zip(others, rows[1:], strict=True):
            assert out.margin == pytest.approx(mean(row, row.chosen) - mean(row, row.rejected), abs=1e-3)


def test_comparable_pairs_fit_window_and_differ(loaded):
    template = ChatTemplate(loaded.tokenizer)
    short, long = (Preference(PLACE, {}, (Message("user", text),), "here", "there") for text in ("Where?", "Where? " * 99))
    assert outputs.comparable_pairs(template, [short, long, ROWS[0]], 64) == {short.id}
    with pytest.raises(DataError, match="are identical"):
        outputs.comparable_pairs(template, [Preference(PLACE, {}, short.prompt, "here", "here ")], 64)


def test_progress_names_current_work(loaded, tmp_path):
    progress: list[tuple[str, int, int]] = []
    how = {"options": _options(tmp_path, 2, 9), "tell": lambda of: lambda done, total: progress.append((of, done, total))}
    generate_answers(Arm("base"), loaded, ROWS, **how)
    assert list(dict.fromkeys(of for of, *_ in progress)) == ["token", "waiting_row", "held_out_row", "reference"]
    assert {("held_out_row", 5, 5), ("reference", 5, 5)} <= set(progress)
    assert {total for of, _, total in progress if of == "token"} == {2}, "the model does not think"
    assert max(done for of, done, _ in progress if of == "token") == 2
    progress.clear()
    generate_answers(Arm("base"), loaded, ROWS, **how, of="off-task prompt")
    assert progress == [("off-task prompt", 5, 5), ("reference", 5, 5)]  # from the cache
    progress.clear()
    generate_answers(Arm("base"), loaded, ROWS, **how, score_references=False)
    assert progress
    assert "reference" not in {of for of, *_ in progress}


def test_repeated_prompt_is_answered_from_cache(loaded, tmp_path, monkeypatch):
    first = _answer(loaded, tmp_path)
    for name in ("generate", "negative_log_likelihoods"):
        monkeypatch.setattr(outputs, name, lambda *_, **__: pytest.fail("asked again"))
    again = _answer(loaded, tmp_path)
    assert again.cached
    assert again.answers == first.answers


@pytest.mark.parametrize("supports_prefix", [True, False])
def test_interrupted_arm_keeps_the_answers_that_have_ended(loaded, tmp_path, monkeypatch, supports_prefix):
    if not supports_prefix:
        monkeypatch.setattr(PrefixCache, "__call__", lambda *_: None)
    whole = _answer(loaded, tmp_path / "whole")
    cache, kept, reported = tmp_path / "cache", [], []

    def stop(done: int, total: int) -> None:
        if 0 < done < total:
            kept.append(done)
            raise Interrupted(0)

    with pytest.raises(Interrupted):
        _answer(loaded, cache, tell=lambda of: stop if of == "held_out_row" else lambda done, total: None)
    asked = counted(monkeypatch, generate)
    (answers,) = cache.iterdir()
    saved = [json.loads(line) for line in answers.read_text().splitlines()]
    saved = [record | {"seconds": 1000.0 / len(saved)} for record in saved]
    answers.write_text("".join(json.dumps(record) + "\n" for record in saved))
    continued = _answer(loaded, cache, tell=lambda of: lambda done, total: reported.append((of, done, total)))
    assert asked == [len(ROWS) - kept[0]]
    assert reported[0] == ("held_out_row", kept[0], len(ROWS)), "known before the model reads the first prompt"
    assert reported[-1][1:] == (5, 5)
    assert [(one.id, one.output, one.ended, one.answer_tokens) for one in continued.answers] == [
        (one.id, one.output, one.ended, one.answer_tokens) for one in whole.answers
    ]
    assert 1000 < continued.seconds < 2000


def test_more_rows_reuse_the_answers_to_the_first(loaded, tmp_path, monkeypatch):
    whole = _answer(loaded, tmp_path / "whole")
    asked, scored = counted(monkeypatch, generate), counted(monkeypatch, negative_log_likelihoods)
    first = _answer(loaded, tmp_path / "cache", rows=[ROWS[3], ROWS[1]])
    more = _answer(loaded, tmp_path / "cache")
    assert asked == scored == [2, len(ROWS) - 2]
    assert not more.cached
    assert [(one.id, one.output, one.ended) for one in more.answers] == [(one.id, one.output, one.ended) for one in whole.answers]
    assert [one.nats for one in more.answers] == pytest.approx([one.nats for one in whole.answers], rel=1e-4)
    assert [more.answers[3], more.answers[1]] == list(first.answers)
    _answer(loaded, tmp_path / "cache", max_tokens=7)
    assert asked[2:] == [len(ROWS)], "a longer limit changes the answers"
    assert not scored[2:], "but not the likelihoods of references"


@pytest.mark.parametrize("supports_prefix", [True, False])
def test_interrupted_arm_keeps_likelihoods(loaded, tmp_path, monkeypatch, supports_prefix):
    if not supports_prefix:
        monkeypatch.setattr(PrefixCache, "__call__", lambda *_: None)
    whole = _answer(loaded, tmp_path / "whole")
    kept: list[int] = []

    def stop(done: int, total: int) -> None:
        kept.append(done)
        raise Interrupted(0)

    with pytest.raises(Interrupted):
        _answer(loaded, tmp_path / "cache", tell=lambda of: stop if of == "reference" else lambda done, total: None)
    scored = counted(monkeypatch, negative_log_likelihoods)
    continued = _answer(loaded, tmp_path / "cache")
    assert scored == [len(ROWS) - kept[0]]
    assert [one.nats for one in continued.answers] == pytest.approx([one.nats for one in whole.answers], rel=1e-4)


@pytest.mark.slow
def test_any_deciding_change_invalidates_cache(loaded, tmp_path):
    _answer(loaded, tmp_path)
    other_reference = Conversation(PLACE, {}, (ROWS[0].messages[0], Message("assistant", "No.")))
    for changed in (
        {"max_tokens": 5},
        {"rows": [other_reference, *ROWS[1:]]},
        {"arm": Arm("base+prompt", prompt="Be kind.")},
        {"arm": Arm("base+kshot", shots=(Message("user", "a"), Message("assistant", "b")))},
        {"arm": Arm("base+grammar", schema={"type": "integer"})},
    ):
        assert not _answer(loaded, tmp_path, **changed).cached
    assert not _answer(LoadedModel(**{**vars(loaded), "description": "elsewhere"}), tmp_path).cached


def test_changed_adapter_weights_or_scale_invalidate_cache(loaded, tmp_path):
    config = lora.add(loaded.model, AdapterSection(rank=2), 1)
    for name in ("one", "two", "three"):
        lora.save(tmp_path / name, lora.adapter_arrays(loaded.model), config)
    (tmp_path / "two" / lora.CONFIG).write_text((tmp_path / "two" / lora.CONFIG).read_text().replace("scale", "scale "))
    assert not _answer(loaded, tmp_path / "cache", Arm("tuned", tmp_path / "one")).cached
    assert _answer(loaded, tmp_path / "cache", Arm("tuned", tmp_path / "three")).cached
    assert not _answer(loaded, tmp_path / "cache", Arm("tuned", tmp_path / "two")).cached


def test_damaged_records_of_the_cache_are_computed_again(loaded, tmp_path):
    first = _answer(loaded, tmp_path)
    for file in tmp_path.iterdir():
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([*lines[:2], '{"input": 5}\n', lines[3][:-9]]))
    again = _answer(loaded, tmp_path)
    assert not again.cached
    nats = [answer.nats for answer in first.answers]
    assert [answer.nats for answer in again.answers] == pytest.approx(nats), "other batches round differently"
    assert [replace(answer, nats=None) for answer in again.answers] == [replace(answer, nats=None) for answer in first.answers]


def test_non_finite_model_fails_and_caches_nothing(loaded, tmp_path):
    loaded.model.model.norm.weight = loaded.model.model.norm.weight * float("nan")
    with pytest.raises(MlxtuneError, match="NaNs"):
        _answer(loaded, tmp_path)
    assert not any(file.stat().st_size for file in tmp_path.iterdir())


def test_template_that_hides_reference_skips_only_perplexity(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    changed = load(resolve(str(tmp_path / "model")))
    changed.tokenizer.chat_template = changed.tokenizer.chat_template.replace(
        "<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>{% endif %}"
    )
    answers = _answer(changed, tmp_path / "cache")
    assert "opens a thinking block" in answers.no_likelihood_reason
    assert {(out.nats, out.tokens) for out in answers.answers} == {(0.0, 0)}
    assert all(math.isfinite(len(out.output)) for out in answers.answers)


def test_times_of_first_and_further_tokens_are_medians_of_single_answers(monkeypatch):
    clock, lengths = [0.0], []
    monkeypatch.setattr(outputs.time, "perf_counter", lambda: clock[0])

    def answer(prompt: Sequence[int], most: int, progress: Progress) -> GeneratedAnswer:
        lengths.append(len(prompt))
        clock[0] += 0.5 * len(prompt)
        progress(0, 1)  # prefill
        for _ in range(4):  # two tokens of reasoning, one of the answer, and the stop token
            clock[0] += 0.25
            progress(0, 1)
        return GeneratedAnswer("a", "stop", "b c", 2, 1)

    measured = measure_latency([[1] * length for length in (9, 1, 3, 5, 7, 2)], answer)
    assert lengths == [2, 5, 9]
    assert (measured.first, measured.further) == pytest.approx((0.5 * 5 + 0.25, 0.25))
    assert measured.seconds(5) == pytest.approx(2.75 + 4 * 0.25)


def test_single_row_and_single_token_are_enough():
    def answer(prompt: Sequence[int], most: int, progress: Progress) -> GeneratedAnswer:
        progress(1, 1)
        return GeneratedAnswer("", "stop")

    measured = measure_latency([[1, 2]], answer)
    assert measured.first >= 0
    assert measured.further == 0


def test_answer_without_tokens_takes_as_long_as_its_first_token():
    assert Latency(2.0, 1.0).seconds(0) == 2.0
