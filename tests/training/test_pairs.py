"""Shared prompts, streams, checkpointing and caches against the plain computation: single full sequences, full logits, no padding."""

import itertools
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import test_sft
from exhaustive import cases
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from test_sft import assert_equal, padded_shapes, shaken, summed
from tiny_architectures import ARCHITECTURES, make

from mlxtune.data.batching import group_pairs, pair_batch_widths
from mlxtune.data.rows import Location
from mlxtune.models.cpu import exp
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.encoded import EncodedPair
from mlxtune.models.head import split_head
from mlxtune.models.load import load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection, MethodSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.preference import batches as pair_batches
from mlxtune.training.preference import losses
from mlxtune.training.preference.forward import PairCache, can_share_prompts, logps

BOTH = MethodSection(loss=["sigmoid", "sft"], weights=[1.0, 0.3], beta=0.3, label_smoothing=0.1)


def cost(some: Any, shared: bool) -> int:
    return len(some) * sum(pair_batch_widths(pair_batches.sides(some), shared=shared))


def random_pairs(seed: int, count: int = 7, *, vocabulary: int = 300, longest: int = 45, prefix: int = 0) -> list[EncodedPair]:
    """Return pairs of varied lengths, including one-token prompts and one-token completions.

    All prompts start with the same ``prefix`` tokens. In every second pair both completions share some or all of the shorter
    completion's tokens.
    """
    dice = random.Random(seed)
    beginning = np.array([dice.randrange(vocabulary) for _ in range(prefix)], np.int32)
    lengths = [
        (1, 5, 3),
        (12, 1, 9),
        *((dice.randint(1, longest), dice.randint(1, 20), dice.randint(1, 20)) for _ in range(count - 2)),
    ]
    pairs = []
    for at, each in enumerate(lengths):
        prompt, chosen, rejected = (np.array([dice.randrange(vocabulary) for _ in range(length)], np.int32) for length in each)
        if at % 2:
            both = min(len(chosen), len(rejected), 99 if at % 4 == 1 else dice.randint(0, 5))
            rejected[:both] = chosen[:both]
        reference = (-5.0 * len(chosen) - dice.random(), -5.5 * len(rejected) - dice.random())
        prompt = np.concatenate([beginning, prompt])
        pairs.append(EncodedPair(str(at), Location(Path("rows"), at), prompt, chosen, rejected, (each[1], each[2]), reference))
    return pairs


def plain_logp(model: nn.Module, prompt: Any, answer: Any) -> mx.array:
    """Return the log-probability of ``answer`` after ``prompt`` using MLX's cross-entropy on the full sequence."""
    whole = mx.array(np.concatenate([prompt, answer]))
    each = nn.losses.cross_entropy(model(whole[None, :-1])[0].astype(mx.float32), whole[1:])
    return -each[len(prompt) - 1 :].sum()


def plain_loss_and_gradients(
    model: nn.Module, rows: list[EncodedPair], by: MethodSection = BOTH
) -> tuple[float, dict[str, mx.array]]:
    """Return the mean loss over pairs and its gradients, one sequence at a time; loss formulas have their own tests."""
    mean = sum(len(pair.chosen) for pair in rows) / len(rows)

    def loss(model: nn.Module) -> mx.array:
        values = []
        for pair in rows:
            answer_logps = [plain_logp(model, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
            known = [*pair.reference_logps, len(pair.chosen), len(pair.rejected)]
            scores = losses.PairScores(
                *(value[None] for value in answer_logps), *(mx.array([float(value)]) for value in known), mx.array(mean)
            )
            values.append(losses.loss(scores, by)[0])
        return mx.stack(values).mean()

    value, gradients = nn.value_and_grad(model, loss)(model)
    return value.item(), dict(tree_flatten(gradients))


@dataclass(frozen=True)
class Ways(test_sft.Ways):
    prefix: int = 0
    shared: bool = True


EACH = [Ways(shared=False), Ways(), Ways(lanes=2), Ways(checkpointed=True), Ways(frozen=True), Ways(padded=True)]
TOGETHER = [
    Ways(lanes=2, checkpointed=True, frozen=True),
    Ways(checkpointed=True, compiled=True),
    Ways(lanes=3, frozen=True),
    Ways(frozen=True, compiled=True),
    Ways(shared=False, lanes=2, checkpointed=True),
    Ways(shared=False, lanes=2, padded=True),
]


def own_loss_and_gradients(
    model: nn.Module, rows: list[EncodedPair], ways: Ways, folder: Path, by: MethodSection = BOTH
) -> tuple[float, dict[str, mx.array]]:
    """Return the same from the training loop's parts in three batches of one step, divided by the number of pairs."""
    stack = LayerStack(model, split_head(model), StreamPool(ways.lanes), checkpointed=ways.checkpointed)
    assert can_share_prompts(stack)
    assert stack.can_skip_frozen() or not ways.frozen
    cache = PairCache(stack, rows, ways.prefix, budget=20_000, folder=folder) if ways.frozen else None
    objective = losses.PreferenceObjective(by, ways.shared, ways.prefix, ways.lanes)
    groups = [range(3), [3], range(4, len(rows))]
    shapes = padded_shapes(objective, rows, groups) if ways.padded else {}
    batches = objective.collate(rows, groups, range(len(rows)), shapes)
    assert sum(len(batch.counts) for batch in batches) == len(rows)
    result, _ = summed(stack, objective, batches, cache, compiled=ways.compiled)
    if cache:
        cache.close()
    return result


def prepared(tiny: Path, prefix: int) -> tuple[nn.Module, list[EncodedPair], tuple[float, dict[str, mx.array]]]:
    """Return the tiny model with an adapter on its upper layer, pairs, and their plain loss and gradients."""
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, layers=1))
    rows = random_pairs(1, prefix=prefix)
    exp.uninstall()
    return model, rows, plain_loss_and_gradients(model, rows)


@pytest.fixture(scope="module")
def small(tiny):
    return prepared(tiny, 0)


@pytest.fixture(scope="module")
def alike(tiny):
    """Pairs whose prompts all start with the same 20 tokens."""
    return prepared(tiny, 20)


@pytest.mark.parametrize("ways", cases([*EACH, *TOGETHER], *map(str, [*EACH, TOGETHER[0]])))
def test_every_optimization_matches_plain_loss_and_gradients(small, ways, tmp_path):
    model, rows, plain = small
    exp.install()
    assert_equal(own_loss_and_gradients(model, rows, ways, tmp_path), plain, 1e-5)


PREFIXED = [
    Ways(prefix=20),
    Ways(prefix=20, lanes=2, frozen=True),
    Ways(prefix=20, checkpointed=True),
    Ways(prefix=20, lanes=2, checkpointed=True, frozen=True),
    Ways(prefix=20, frozen=True, compiled=True),
    Ways(prefix=20, lanes=2, frozen=True, padded=True),
]


@pytest.mark.parametrize("ways", cases(PREFIXED, str(PREFIXED[0]), str(PREFIXED[3])))
@pytest.mark.parametrize("grouped", [4096, 1], ids=["cached together", "cached apart"])
def test_shared_prefix_is_computed_once_with_same_result(alike, ways, grouped, tmp_path, monkeypatch):
    model, rows, plain = alike
    monkeypatch.setattr(pair_batches, "GROUP_TOKENS", grouped)
    assert pair_batches.shared_prefix(rows) == 20
    exp.install()
    assert_equal(own_loss_and_gradients(model, rows, ways, tmp_path), plain, 1e-5)


def test_prefix_is_shared_only_when_worthwhile():
    assert pair_batches.shared_prefix(random_pairs(1, prefix=15)) == 0
    assert pair_batches.shared_prefix(random_pairs(1, 1, prefix=15)[:1]) == 0
    same = [replace(pair, prompt=np.arange(18, dtype=np.int32)) for pair in random_pairs(1)]
    assert pair_batches.shared_prefix(same) == 17


@pytest.mark.slow
def test_a_loss_that_depends_on_lengths_matches_plain_gradients(small, tmp_path):
    model, rows, _ = small
    by = MethodSection(loss=["ipo"], beta=0.3)
    exp.install()
    assert_equal(own_loss_and_gradients(model, rows, Ways(lanes=2), tmp_path, by), plain_loss_and_gradients(model, rows, by), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seed", cases(range(2, 8), "3", "6"))
def test_shared_prompts_are_exact_over_random_lengths(tiny, seed, tmp_path):
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, kind="dora" if seed % 2 else "lora"))
    rows = random_pairs(seed, longest=120)
    exp.install()
    ways = Ways(checkpointed=seed % 3 == 0, lanes=1 + seed % 2)
    assert_equal(own_loss_and_gradients(model, rows, ways, tmp_path), plain_loss_and_gradients(model, rows), 1e-5)


@pytest.mark.parametrize(
    "name",
    cases(
        ["llama", "smollm3", "gemma2", "gemma3_text", "qwen3_moe", "phi3", "cohere", "granite", "qwen3_5"],
        "llama",
        "gemma2",
        "gemma3_text",
        "qwen3_5",
    ),
)
def test_architecture_shares_prompts_only_when_exact(name, tmp_path):
    mx.disable_compile()  # mlx-lm compiles activations, which takes seconds per architecture
    model = load(resolve(str(make(tmp_path, name))), "float32").model
    shaken(model, AdapterSection(rank=4, alpha=8))
    stack = LayerStack(model, split_head(model))
    shared = can_share_prompts(stack)
    assert shared == (ARCHITECTURES[name].shares_prefix and name != "gemma2")  # its attention takes one mask for all rows
    rows = random_pairs(11, longest=40)
    model.eval()
    (batch,) = pair_batches.collate(rows, [range(len(rows))], share_prompts=shared)
    (values,) = logps(stack, batch.arrays())
    expected = [plain_logp(model, pair.prompt, pair.chosen) for pair in rows]
    expected += [plain_logp(model, pair.prompt, pair.rejected) for pair in rows]
    mx.enable_compile()
    assert values.tolist() == pytest.approx([value.item() for value in expected], rel=1e-4)


def test_probe_restores_model_mode(small):
    model = small[0]
    for mode in (True, False):
        model.train(mode)
        assert can_share_prompts(LayerStack(model, split_head(model)))
        assert model.training is mode


def test_metrics_are_pair_sums_of_plain_computation(small):
    model, rows, _ = small
    stack = LayerStack(model, split_head(model), StreamPool(2))
    model.eval()
    (batch,) = pair_batches.collate(rows, [range(len(rows))], share_prompts=True, streams=2)
    _, sums = losses.PreferenceObjective(BOTH, share_prompts=True)(stack, batch.arrays())
    metrics = dict(zip(losses.metric_names(BOTH), sums.tolist(), strict=True))
    chosen = np.array([plain_logp(model, pair.prompt, pair.chosen).item() for pair in rows])
    rejected = np.array([plain_logp(model, pair.prompt, pair.rejected).item() for pair in rows])
    before = np.array([pair.reference_logps for pair in rows])
    gained = 0.3 * (chosen - before[:, 0]), 0.3 * (rejected - before[:, 1])
    expected = {
        "rewards/chosen": gained[0].sum(), "rewards/rejected": gained[1].sum(), "rewards/margins": (gained[0] - gained[1]).sum(),
        "rewards/accuracies": (gained[0] > gained[1]).sum(), "logps/chosen": chosen.sum(), "logps/rejected": rejected.sum(),
        "lengths/chosen": sum(len(pair.chosen) for pair in rows), "lengths/rejected": sum(len(pair.rejected) for pair in rows),
        "drift/chosen": (chosen - before[:, 0]).sum(), "drift/rejected": (rejected - before[:, 1]).sum(),
    }  # fmt: skip
    assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-3)
    assert 0 < expected["rewards/accuracies"] < len(rows)


@pytest.mark.exhaustive
@pytest.mark.real
def test_matches_plain_computation_on_bundled_model(lowest_layers, tmp_path):
    rows = random_pairs(9, 5, vocabulary=40_000)
    shaken(lowest_layers, AdapterSection(rank=8, layers=2))
    exp.uninstall()
    plain = plain_loss_and_gradients(lowest_layers, rows)
    exp.install()
    assert_equal(own_loss_and_gradients(lowest_layers, rows, TOGETHER[0], tmp_path), plain, 1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_groups_cover_every_pair_within_bound(shared):
    rows = random_pairs(6, 60, longest=200)
    groups = group_pairs(pair_batches.sides(rows), range(60), shared=shared, batch_tokens=900, batch_size=0)
    assert sorted(at for some in groups for at in some) == list(range(60))
    for some, following in itertools.pairwise([*groups, []]):
        (batch,) = pair_batches.collate(rows, [some], share_prompts=shared)
        assert batch.computed_positions == cost([rows[at] for at in some], shared)
        assert batch.computed_positions <= 900 or len(some) == 1
        assert not following or cost([rows[at] for at in (*some, following[0])], shared) > 900
    fixed = group_pairs(pair_batches.sides(rows), range(60), shared=shared, batch_tokens=1, batch_size=8)
    assert [len(some) for some in fixed] == [8] * 7 + [4]


def test_groups_contain_pairs_of_similar_shape():
    rows = random_pairs(8, 200, longest=400)
    groups = group_pairs(pair_batches.sides(rows), range(200), shared=True, batch_tokens=0, batch_size=8)
    drawn = [range(start, start + 8) for start in range(0, 200, 8)]
    sorted_cost, drawn_cost = (sum(cost([rows[at] for at in some], True) for some in ways) for ways in (groups, drawn))
    assert sorted_cost < 1.25 * sum(cost([pair], True) for pair in rows)
    assert sorted_cost < 0.75 * drawn_cost
