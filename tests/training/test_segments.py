"""Gradients of long rows, segment by segment, against those of whole rows."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from listener import Listener
from loops import Ways, make
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model
from test_sft import shaken

from mlxtune.data.rows import Location
from mlxtune.models.encoded import Encoded
from mlxtune.models.head import split_head
from mlxtune.recipe import AdapterSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.segments import segment_gradients
from mlxtune.training.sft import SFTObjective, shared_prefix


def long_rows(count: int, length: int, prefix: int = 0) -> list[Encoded]:
    dice = np.random.default_rng(3)
    rows = []
    for index in range(count):
        tokens = dice.integers(3, 250, length - 9 * index).astype(np.int32)
        tokens[:prefix] = np.arange(prefix) + 5
        trained = (np.arange(len(tokens)) >= prefix + 2) & (dice.random(len(tokens)) < 0.6)
        trained[-1] = trained[prefix + 2] = True
        rows.append(Encoded(str(index), Location("rows", index), tokens, trained, len(tokens)))
    return rows


@pytest.mark.parametrize(
    ("count", "checkpointed", "prefix", "segment"),
    [(1, False, 0, 16), (3, True, 0, 50), (3, False, 20, 50), (3, True, 20, 16), (1, True, 20, 50)],
)
def test_gradients_of_segments_equal_those_of_whole_rows(tiny, count, checkpointed, prefix, segment):
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8))
    assert_equal_gradients(model, long_rows(count, 4 * segment - 3, prefix), segment, checkpointed=checkpointed)


@pytest.mark.real
def test_gradients_of_segments_equal_those_of_whole_rows_on_the_bundled_model(lowest_layers):
    shaken(lowest_layers, AdapterSection(rank=8))
    assert_equal_gradients(lowest_layers, long_rows(1, 64), 16, checkpointed=True)


def assert_equal_gradients(model: nn.Module, rows: list[Encoded], segment: int, *, checkpointed: bool) -> None:
    prefix = shared_prefix(rows)
    objective, stack = SFTObjective(prefix), LayerStack(model, split_head(model), checkpointed=checkpointed)
    (batch,) = objective.collate(rows, [range(len(rows))], range(len(rows)))
    model.train()
    (loss, _), expected = nn.value_and_grad(model, lambda arrays: objective(stack, arrays))(batch.arrays())
    (own_loss, _), own = segment_gradients(stack, batch.arrays(), segment)
    assert own_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for (name, one), (_, other) in zip(tree_flatten(own), tree_flatten(expected), strict=True):
        assert mx.abs(one - other).max().item() <= 1e-4 * mx.abs(other).max().item(), name


def test_a_run_in_segments_ends_with_the_same_adapter(tiny, tmp_path):
    adapters = []
    for segment in (0, 30):
        loop = make(tiny, tmp_path / str(segment), ways=Ways(dropout=0.0))
        loop.segment = segment
        loop.run(Listener())
        adapters.append(dict(tree_flatten(loop.stack.model.trainable_parameters())))
    longest = max(len(row.tokens) for row in loop.train)
    assert longest > 2 * 30
    for name, array in adapters[0].items():
        assert mx.allclose(array, adapters[1][name], rtol=1e-3, atol=1e-5).item(), name
