"""Batched greedy outputs compared with mlx-lm's outputs for one prompt at a time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import tiny_architectures
from exhaustive import cases
from mlx_lm import stream_generate
from mlx_lm.utils import load as load_stock
from mlx_lm.utils import load_model, load_tokenizer

from mlxtune.core.errors import MlxtuneError
from mlxtune.models import generate as generation
from mlxtune.models import likelihood, prefix_cache
from mlxtune.models.cpu import streams
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.generate import GenerationSettings, TokenSampler
from mlxtune.models.grammar import Grammar
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import resolve


def generate(*args, **options) -> list[tuple[str, str]]:
    """Return each answer's text and why it ended."""
    events = {name: options.pop(name) for name in ("progress", "on_batch") if name in options}
    *loaded, prompts = args
    request = generation.PromptGroup(prompts, prefix=options.pop("prefix", None), settings=GenerationSettings(**options))
    return [(answer.text, answer.ended) for answer in generation.generate(*loaded, [request], **events)]


def alone(model, tokenizer, prompt: list[int], max_tokens: int) -> str:
    tokens = [part.token for part in stream_generate(model, tokenizer, prompt, max_tokens=max_tokens)]
    return tokenizer.decode([token for token in tokens if token not in tokenizer.eos_token_ids])


def full_nll(model, prompt: list[int], answer: list[int]) -> float:
    """Return the negative log-likelihood of ``answer`` from one forward pass without a cache."""
    logits = np.array(model(mx.array([[*prompt, *answer]]))[0].astype(mx.float32), np.float64)
    logps = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -sum(logps[len(prompt) - 1 + index, token] for index, token in enumerate(answer))


@pytest.fixture(scope="module")
def stock(tiny: Path) -> tuple[Any, Any]:
    return load_stock(str(tiny))


@pytest.fixture
def model(stock: tuple[Any, Any]) -> Any:
    """The tiny model, which all tests share."""
    return stock[0]


@pytest.fixture
def tokenizer(stock: tuple[Any, Any]) -> Any:
    return stock[1]


@pytest.mark.slow
def test_batched_tokens_equal_single_prompts(model: Any, tokenizer: Any) -> None:
    tails = [[70, 71, 72], [73], [74, 75, 76, 77, 78, 79, 80], [81, 82]]
    for prompts in (tails, [[90, 91, 92, 93, 94, *tail] for tail in tails]):
        results = generate(model, tokenizer, prompts, max_tokens=20, stops=frozenset(tokenizer.eos_token_ids), batch_size=3)
        assert [text for text, _ in results] == [alone(model, tokenizer, prompt, 20) for prompt in prompts]
        assert {ended for _, ended in results} <= {"stop", "length"}


@pytest.mark.slow
def test_decoding_ahead_on_a_gpu_does_not_change_answers(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tokens are computed before the last ones are read. Rows end at different steps, and free buffers are released."""
    prompts = [[90, 91, 92, *tail] for tail in ([70, 71, 72], [73], [74, 75, 76, 77], [81, 82])]
    options = {"max_tokens": 30, "batch_size": 4}
    greedy = [[part.token for part in stream_generate(model, tokenizer, prompt, max_tokens=30)] for prompt in prompts]
    options["stops"] = frozenset({greedy[0][3], greedy[1][9]})
    expected, cleared = generate(model, tokenizer, prompts, **options), []
    assert len({len(text) for text, _ in expected}) >= 2
    monkeypatch.setattr(generation, "on_gpu", lambda: True)
    monkeypatch.setattr(generation, "CLEAR_EVERY", 4)
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(True))
    assert generate(model, tokenizer, prompts, **options) == expected
    assert cleared


@pytest.mark.slow
def test_lanes_of_a_batch_decode_to_the_same_answers(model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On several cores, a batch is decoded in lanes, which end at different steps. A grammar follows the rows of each lane."""
    prompts = [[90, 91, 92, *tail] for tail in ([70, 71, 72], [73], [74, 75, 76, 77], [81, 82], [83, 84, 85, 86, 87])]
    greedy = [[part.token for part in stream_generate(model, tokenizer, prompt, max_tokens=30)] for prompt in prompts]
    options = {"max_tokens": 30, "batch_size": 4, "stops": frozenset({greedy[0][3], greedy[1][9]})}
    grammar = Grammar(tokenizer, {"enum": ["a", "bcd", 12345]}, frozenset(tokenizer.eos_token_ids))
    constrained = {**options, "stops": frozenset(tokenizer.eos_token_ids), "grammar": grammar}
    expected = [generate(model, tokenizer, prompts, **given) for given in (options, constrained)]
    pool = StreamPool(3)
    monkeypatch.setattr(generation, "thread_pool", lambda: pool)
    monkeypatch.setattr(generation, "MIN_LANE_ROWS", 1)
    done: list[int] = []
    assert generate(model, tokenizer, prompts, progress=lambda ended, total: done.append(ended), **options) == expected[0]
    assert generate(model, tokenizer, prompts, **constrained) == expected[1]
    assert done == sorted(done)
    assert done[-1] == len(prompts)


WINDOWED = ("ministral3", "gemma3_text", "gemma3", "gemma4_text", "gpt_oss")


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(WINDOWED, "gemma3_text"))
def test_sliding_windows_share_prefixes_and_equal_single_prompts(name: str, tmp_path: Path) -> None:
    folder = tiny_architectures.make(tmp_path / name, name, bits=0)
    model, _ = load_model(folder)
    tokenizer = load_tokenizer(folder)
    window = tiny_architectures.WINDOW
    for prefix_length in (0, window // 2, 2 * window + 3):
        prefix = [90 + at % 7 for at in range(prefix_length)]
        prompts = [[*prefix, *range(60, 60 + length)] for length in (1, 2, 9, window, 30, 30)]
        assert prefix_cache.PrefixCache(model)(prompts) is not None
        stops = frozenset(tokenizer.eos_token_ids)
        expected = [alone(model, tokenizer, prompt, window + 4) for prompt in prompts]
        for batch_size in (1, 4):  # without and with padding
            results = generate(model, tokenizer, prompts, max_tokens=window + 4, stops=stops, batch_size=batch_size)
            assert [text for text, _ in results] == expected
        pairs = [(prompt, [*range(100, 100 + length)]) for prompt, length in zip(prompts, (1, 30, 3, 2, 5, 9), strict=True)]
        likelihoods = negative_log_likelihoods(model, pairs, batch_size=4)
        assert likelihoods == pytest.approx([full_nll(model, *pair) for pair in pairs], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text"])
def test_requests_with_different_prefixes_and_grammars_share_a_batch(name: str, tmp_path: Path) -> None:
    folder = tiny_architectures.make(tmp_path / name, name, bits=0)
    model, _ = load_model(folder)
    tokenizer = load_tokenizer(folder)
    cache, stops, window = prefix_cache.PrefixCache(model), frozenset(tokenizer.eos_token_ids), tiny_architectures.WINDOW
    schema = Grammar(tokenizer, {"enum": ["a", "bcd", 12345]}, stops)
    limits = GenerationSettings(max_tokens=window + 4, stops=stops, batch_size=8)
    requests = [
        generation.PromptGroup(prompts, replace(limits, max_tokens=most, grammar=grammar), cache(prompts))
        for start, lengths, most, grammar in (
            ([], (5, 1), window + 4, None), ([90, 91, 92] * window, (1, 2, 9), 9, None), ([80, 81], (2, 1, window), 30, schema),
        )
        for prompts in [[[*start, *range(60, 60 + length)] for length in lengths]]
    ]  # fmt: skip
    ended: dict[int, str] = {}
    together = generation.generate(model, tokenizer, requests, on_answer=lambda row, answer: ended.update({row: answer.text}))
    expected = [answer for one in requests for answer in generation.generate(model, tokenizer, [one])]
    assert together == expected
    assert [ended[row] for row in range(len(expected))] == [answer.text for answer in expected]


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it(model: Any, tokenizer: Any) -> None:
    ((whole, _),) = generate(model, tokenizer, [[70, 71]], max_tokens=6, stops=frozenset(), batch_size=1)
    first = generate(model, tokenizer, [[70, 71]], max_tokens=1, stops=frozenset(), batch_size=1)
    token = int(mx.argmax(model(mx.array([[70, 71]]))[0, -1]))
    assert generate(model, tokenizer, [[70, 71]], max_tokens=6, stops=frozenset({token}), batch_size=1) == [("", "stop")]
    assert whole.startswith(first[0][0])


@pytest.mark.parametrize("plain", [True, False])
def test_progress_is_reported_and_counts_every_prompt(tiny: Path, monkeypatch, plain: bool) -> None:
    model, tokenizer = load_stock(str(tiny))
    if not plain:
        monkeypatch.setattr(prefix_cache, "KVCache", type("Other", (), {}))
    updates: list[tuple[int, int]] = []
    options = {"max_tokens": 3, "stops": frozenset(), "batch_size": 2, "progress": lambda *counts: updates.append(counts)}
    generate(model, tokenizer, [[70], [71, 72], [73]], **options)
    assert updates == sorted(updates)
    assert len(updates) >= 3
    assert (updates[0], updates[-1]) == ((0, 3), (3, 3))


def test_a_model_with_another_cache_uses_mlx_lm(tiny: Path, monkeypatch) -> None:
    model, tokenizer = load_stock(str(tiny))
    expected = [alone(model, tokenizer, prompt, 5) for prompt in ([70, 71], [72])]
    monkeypatch.setattr(prefix_cache, "KVCache", type("Other", (), {}))
    results = generate(model, tokenizer, [[70, 71], [72]], max_tokens=5, stops=frozenset(), batch_size=2)
    assert [text for text, _ in results] == expected


def test_batching_with_mlx_lm_is_tried_once_per_model(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = []
    monkeypatch.setattr(prefix_cache, "KVCache", type("Other", (), {}))
    monkeypatch.setattr(generation, "_batches_correctly", lambda model: bool(trials.append(model)))
    for _ in range(2):
        model, tokenizer = load_stock(str(tiny))
        for _ in range(2):
            generate(model, tokenizer, [[70, 71]], max_tokens=1, stops=frozenset(), batch_size=2)
    assert len(trials) == 2


def test_nans_raise_an_error(tiny: Path) -> None:
    model, tokenizer = load_stock(str(tiny))
    model.model.norm.weight = model.model.norm.weight * float("nan")
    with pytest.raises(MlxtuneError, match="produced NaNs"):
        generate(model, tokenizer, [[70, 71]], max_tokens=2, stops=frozenset(), batch_size=1)


def test_prompts_that_wait_for_another_batch_are_reported(model: Any, tokenizer: Any) -> None:
    waiting: list[int] = []
    prompts = [[70, 71], [70, 72], [70, 73]]
    generate(model, tokenizer, prompts, max_tokens=2, stops=frozenset(), batch_size=2, on_batch=waiting.append)
    assert waiting == [1, 0]


def test_batches_cover_every_tail_within_the_limits(monkeypatch) -> None:
    monkeypatch.setattr(prefix_cache, "MAX_POSITIONS", 40)
    monkeypatch.setattr(prefix_cache, "LAST_POSITIONS", 50)
    batches = list(prefix_cache.batches([5, 1, 9, 3, 50], 3, extra=6))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4]
    assert batches == [[1, 3, 0], [2], [4]]
    assert list(prefix_cache.batches([1, 1, 2, 4], 9, extra=8)) == [[0, 1, 2, 3]]  # 48 positions
    assert list(prefix_cache.batches([1, 1, 2, 5], 9, extra=8)) == [[0, 1, 2], [3]]  # 52 positions
    monkeypatch.setattr(prefix_cache, "MAX_POSITIONS", 1000)
    assert list(prefix_cache.batches([5, 1, 9, 3, 50], 9, max_computed=12)) == [
        [1, 3],
        [0],
        [2],
        [4],
    ]  # 3 and 3, but not 5, 5 and 5


@pytest.mark.slow
def test_prefill_in_steps_and_parts_does_not_change_answers(model: Any, tokenizer: Any, monkeypatch) -> None:
    prompts = [[90, 91, *range(60, 60 + length)] for length in (1, 2, 9, 3, 30, 30, 4)]
    expected = [alone(model, tokenizer, prompt, 8) for prompt in prompts]
    for name in ("STEP", "CPU_PART"):
        monkeypatch.setattr(prefix_cache, name, 7)
    for batch_size in (2, 7):
        results = generate(model, tokenizer, prompts, max_tokens=8, stops=frozenset(tokenizer.eos_token_ids), batch_size=batch_size)
        assert [text for text, _ in results] == expected


@pytest.mark.parametrize(("dtype", "rounding"), [(mx.float32, 1e-4), (mx.float16, 0.1), (mx.bfloat16, 0.2)])
def test_rounding_is_distinguished_from_wrong_logits(dtype: mx.Dtype, rounding: float) -> None:
    """The rounding is what plain code shows with 30 layers. Wrong logits are those of other keys, or of another token."""
    mx.random.seed(2)
    logits, noise = (mx.random.normal((4, 500)) for _ in range(2))
    assert prefix_cache.same_logits((logits + 0.9 * rounding * noise).astype(dtype), logits.astype(dtype))
    assert not prefix_cache.same_logits((logits + 0.3 * noise).astype(dtype), logits.astype(dtype))
    assert not prefix_cache.same_logits(mx.where(noise > 3, mx.nan, logits), logits)
    assert prefix_cache.same_logits(logits, mx.where(noise > 3, mx.nan, logits))


@pytest.mark.slow
def test_a_prefix_reuses_the_previous_one(model: Any, tokenizer: Any, monkeypatch) -> None:
    read: list[int] = []
    reading = prefix_cache.forward_in_steps

    def recording(parts, tokens, caches, *step):
        read.extend([tokens.shape[1]] * (tokens.shape[0] == 1))  # a prefix, not two tails
        return reading(parts, tokens, caches, *step)

    monkeypatch.setattr(prefix_cache, "forward_in_steps", recording)
    shared = prefix_cache.PrefixCache(model)
    for begin in ([*range(60, 72)], [*range(60, 75)], [60, 61, 90], [], [60, 61], [60, 61]):
        prompts = [[*begin, 95], [*begin, 96]]
        results = generate(model, tokenizer, prompts, max_tokens=6, stops=frozenset(), batch_size=2, prefix=shared(prompts))
        assert [text for text, _ in results] == [alone(model, tokenizer, prompt, 6) for prompt in prompts]
    assert read == [12, 3, 1, 2]


SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["order", "other"]}, "sure": {"type": "boolean"}},
    "required": ["kind", "sure"],
    "additionalProperties": False,
}


@pytest.mark.slow
def test_a_random_model_with_a_grammar_matches_the_schema(model: Any, tokenizer: Any) -> None:
    schema = {**SCHEMA, "x-guidance": {"whitespace_flexible": False}}
    prompts = [[70, 71, 72], [73], [74, 75]]
    options = {"max_tokens": 80, "stops": frozenset(tokenizer.eos_token_ids), "batch_size": 3}
    results = generate(model, tokenizer, prompts, grammar=Grammar(tokenizer, schema, options["stops"]), **options)
    assert [ended for _, ended in results] == ["stop"] * 3
    assert [set(json.loads(text)) for text, _ in results] == [{"kind", "sure"}] * 3
    assert json.loads(results[0][0])["kind"] in ("order", "other")
    unconstrained = generate(model, tokenizer, prompts, **options)
    assert unconstrained != results


@pytest.mark.parametrize("plain", [True, False])
def test_likelihoods_equal_a_full_forward_pass(model: Any, monkeypatch, plain: bool) -> None:
    pairs = [([70, 71, 72], [80, 81]), ([70, 71, 73, 74], [90]), ([70, 71], [95, 96, 97, 98])]
    pairs += [([70, 71, 72], [80, 82, 83, 84]), ([70, 71, 72], [80, 82]), ([70, 71], [99]), ([70, 71, 73, 74], [90])]
    if not plain:
        monkeypatch.setattr(prefix_cache, "KVCache", type("Other", (), {}))
    pairs += [([70, 71, 72], [80, 85, token]) for token in range(60, 65)]
    results = negative_log_likelihoods(model, pairs, batch_size=2)
    assert results == pytest.approx([full_nll(model, *pair) for pair in pairs], rel=1e-4)


@pytest.mark.real
def test_the_bundled_model_knows_the_capital_of_france(real: LoadedModel) -> None:
    prompt = real.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True
    )
    ((text, ended),) = generate(
        real.model, real.tokenizer, [prompt], max_tokens=20, stops=frozenset(real.tokenizer.eos_token_ids), batch_size=1
    )
    assert (text, ended) == ("The capital of France is Paris.", "stop")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2", "mistral3", "qwen3", "cohere"])
@pytest.mark.parametrize("prompts", [[[5, 6, 7], [5, 6, 7, 8, 9]], [[5, 6, 7], [6, 6, 7, 8, 9]]], ids=["shared", "apart"])
def test_other_architectures_give_the_same_answers_in_a_batch(tmp_path: Path, name: str, prompts: list[list[int]]) -> None:
    folder = tiny_architectures.make(tmp_path / name, name)
    model, tokenizer = load_model(folder)[0], load_tokenizer(folder)
    options = {"max_tokens": 6, "stops": frozenset(), "batch_size": 2}
    together = generate(model, tokenizer, prompts, **options)
    for prompt, (text, _) in zip(prompts, together, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(mx.argmax(model(mx.array([tokens]))[0, -1]).item()))
        assert text == tokenizer.decode(tokens[len(prompt) :])


def test_a_gpu_error_in_a_trial_is_raised(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would pass for an incompatible architecture, and generation would silently become slower."""
    message = (
        "[METAL] Command buffer execution failed: Caused GPU Timeout Error (00000002:kIOGPUCommandBufferCallbackErrorTimeout)."
    )
    model, _ = load_model(tiny)

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("mlxtune.models.prefix_cache.SharedPrefix.prefill", fail)
    with pytest.raises(RuntimeError, match="CallbackErrorTimeout"):
        prefix_cache.PrefixCache(model)([[1, 2, 3], [1, 2, 4]])
    monkeypatch.setattr("mlxtune.models.generate._single_steps", fail)
    with pytest.raises(RuntimeError, match="CallbackErrorTimeout"):
        generation._batches_correctly(model)


@pytest.mark.parametrize(("size", "order"), [(1, [4, 0, 3, 1, 2]), (2, [1, 2, 3, 4, 0])])
def test_long_and_short_answers_are_scored_in_turn(monkeypatch: pytest.MonkeyPatch, size: int, order: list[int]) -> None:
    monkeypatch.setattr(likelihood, "thread_pool", lambda: StreamPool(size))
    batches = [[index] for index in range(5)]
    assert list(likelihood._alternating(batches)) == [[index] for index in order]


PROBABILITIES = [0.5, 0.3, 0.2]


def _tokens(seeds: list[int], steps: int) -> list[list[int]]:
    """Return ``steps`` samples for each seed, from rows that are chosen together."""
    sampler, logits = TokenSampler(seeds), mx.log(mx.array([PROBABILITIES] * len(seeds)))
    return np.array([np.array(sampler(logits, range(len(seeds)))) for _ in range(steps)]).T.tolist()


@pytest.mark.slow
def test_samples_follow_the_distribution_and_the_seed() -> None:
    first, second, other, greedy = _tokens([3, 3, 4, 0], 2000)
    assert first == second != other
    for samples in (first, other):
        assert np.abs(np.bincount(samples, minlength=3) / 2000 - PROBABILITIES).max() < 0.04
    assert set(greedy) == {0}
    first_tokens = [row[0] for row in _tokens(list(range(1, 2001)), 1)]
    assert np.abs(np.bincount(first_tokens, minlength=3) / 2000 - PROBABILITIES).max() < 0.04


def test_samples_do_not_depend_on_the_other_rows() -> None:
    together = _tokens([5, 0, 9], 20)
    assert together == [_tokens([seed], 20)[0] for seed in (5, 0, 9)]


@pytest.mark.parametrize("mlx_lm", [False, True])
def test_sampled_answers_do_not_depend_on_the_batch_or_the_number_of_cores(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, mlx_lm: bool
) -> None:
    loaded = load(resolve(str(tiny)))
    prompts = [[5 + row, *range(9, 9 + row % 3)] for row in range(20)]
    if mlx_lm:
        monkeypatch.setattr(generation, "PrefixCache", lambda model: lambda prompts: None)

    def answers(batch_size: int, cores: int) -> list[str]:
        monkeypatch.setattr(streams._local, "pool", streams.StreamPool(cores), raising=False)
        settings = GenerationSettings(max_tokens=8, stops=frozenset({0}), batch_size=batch_size)
        request = generation.PromptGroup(prompts, settings, seeds=[row % 4 and row for row in range(20)])
        outputs = generation.generate(loaded.model, loaded.tokenizer, [request])
        return [output.text for output in outputs]

    assert answers(20, 2) == answers(20, 1) == answers(3, 1)
