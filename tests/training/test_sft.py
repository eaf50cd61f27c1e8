"""SFT loss and gradients against a plain computation: mlx-lm's model call and nn.losses.cross_entropy over the mask."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
from exhaustive import cases
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, load_tokenizer

from mlxtune.data.batching import PaddedShapes
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.models import lora
from mlxtune.models.cpu import exp
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.encoded import Encoded
from mlxtune.models.head import split_head
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import AdapterSection
from mlxtune.training import sft
from mlxtune.training.frozen_cache import FrozenCache
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.objective import TrainingBatch
from mlxtune.training.optimizer import Stepper
from mlxtune.training.preference.losses import Objective


def plain_loss_and_gradients(model: nn.Module, rows: list[Encoded]) -> tuple[float, dict[str, mx.array]]:
    """Return the mean cross-entropy over trained tokens and its gradients: right-padded rows, full logits, only the mask is ours."""
    width = max(len(row.tokens) for row in rows)
    tokens, mask = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.float32)
    for at, row in enumerate(rows):
        tokens[at, : len(row.tokens)], mask[at, : len(row.tokens)] = row.tokens, row.trained
    tokens, mask = mx.array(tokens), mx.array(mask)

    def loss(model: nn.Module) -> mx.array:
        each = nn.losses.cross_entropy(model(tokens[:, :-1]).astype(mx.float32), tokens[:, 1:])
        return (each * mask[:, 1:]).sum() / mask[:, 1:].sum()

    value, gradients = nn.value_and_grad(model, loss)(model)
    return value.item(), dict(tree_flatten(gradients))


def padded_shapes(objective: Objective, rows: Sequence[Any], groups: Sequence[Sequence[int]]) -> PaddedShapes:
    """Return shapes that pad each group in every dimension."""
    return {shape: tuple(size + 2 for size in shape) for shape in (objective.batch_shape(rows, group) for group in groups)}


@dataclass(frozen=True)
class Ways:
    """Enabled optimizations."""

    prefix: bool = False
    lanes: int = 1
    checkpointed: bool = False
    frozen: bool = False
    compiled: bool = False
    padded: bool = False


EACH = [Ways(prefix=True), Ways(lanes=2), Ways(checkpointed=True), Ways(frozen=True), Ways(padded=True)]
TOGETHER = [
    Ways(prefix=True, lanes=2, checkpointed=True, frozen=True),
    Ways(prefix=True, checkpointed=True, compiled=True),
    Ways(prefix=True, lanes=3, frozen=True),
    Ways(prefix=True, frozen=True, compiled=True),
    Ways(prefix=True, lanes=3, frozen=True, padded=True),
]
ALL = [Ways(), *EACH, *TOGETHER]


def own_loss_and_gradients(model: nn.Module, rows: list[Encoded], ways: Ways) -> tuple[float, dict[str, mx.array]]:
    """Return the same from the training loop's parts in two batches, divided by the trained tokens of both."""
    parts = split_head(model)
    assert parts.is_split
    assert not parts.has_unusual_head
    stack = LayerStack(model, parts, StreamPool(ways.lanes), checkpointed=ways.checkpointed)
    prefix = sft.shared_prefix(rows) if ways.prefix else 0
    assert prefix >= 16 or not ways.prefix
    assert stack.can_share_prefix()
    assert stack.can_skip_frozen() or not ways.frozen
    objective = sft.SFTObjective(prefix, ways.lanes)
    frozen = FrozenCache(stack, rows, prefix, budget=20_000, folder=Path(tempfile.gettempdir())) if ways.frozen else None
    half = len(rows) // 2
    groups = [part for group in (range(half), range(half, len(rows))) for part in objective.separate(rows, group)]
    batches = objective.collate(rows, groups, range(len(rows)), padded_shapes(objective, rows, groups) if ways.padded else {})
    return summed(stack, objective, batches, frozen, compiled=ways.compiled)[0]


def summed(
    stack: LayerStack, objective: Objective, batches: Sequence[TrainingBatch], cache: FrozenCache | None = None, *, compiled: bool = False
) -> tuple[tuple[float, dict[str, mx.array]], mx.array]:  # fmt: skip
    """Return the loss and gradients of one step of ``batches`` from the training loop's parts, divided by its weight, and the metrics."""
    stepper = Stepper(stack, optim.SGD(0.0), objective, clip=0.0, compiled=compiled)
    sums: Any = None
    stack.model.train()
    for batch in batches:
        sums = stepper.add(batch.arrays(cache), sums)
    mx.eval(sums)
    (loss, metrics), gradients = sums
    weight = sum(objective.weight(batch.counts) for batch in batches)
    return (loss.item() / weight, {name: array / weight for name, array in tree_flatten(gradients)}), metrics


def assert_equal(own: tuple[float, dict[str, mx.array]], plain: tuple[float, dict[str, mx.array]], tolerance: float) -> None:
    assert own[0] == pytest.approx(plain[0], rel=tolerance)
    assert own[1].keys() == plain[1].keys()
    for name, expected in plain[1].items():
        size = mx.linalg.norm(expected.flatten()).item()
        assert mx.linalg.norm((own[1][name] - expected).flatten()).item() <= tolerance * max(size, 1e-3), name


def shaken(model: nn.Module, section: AdapterSection) -> None:
    """Add an adapter with nonzero B, so that every gradient is nonzero."""
    lora.add(model, section, seed=3)
    mx.random.seed(4)
    arrays = [(name, array + mx.random.normal(array.shape) * 0.02) for name, array in lora.adapter_arrays(model).items()]
    model.load_weights(arrays, strict=False)


def conversations(tokenizer, system: str) -> list[Encoded]:
    template = ChatTemplate(tokenizer)
    rows = []
    for at, (question, answer) in enumerate(
        [("Is it wet?", "Yes, a bit."), ("Why?", "Rain."), ("How long does it rain here?", "All day."), ("Oh", "So it is.")]
    ):
        turns = [("system", system), ("user", question), ("assistant", answer)]
        if at % 2:
            turns += [("user", "Go on."), ("assistant", "That is all.")]
        messages = tuple(Message(role, text) for role, text in turns)
        rows += template.encode(Conversation(Location(Path("rows"), at), {}, messages), 500)
    return rows


SYSTEM = "You answer in one short sentence and never say more than you know about the weather."


@pytest.fixture(scope="module")
def small(tiny: Path) -> tuple[nn.Module, list[Encoded], tuple[float, dict[str, mx.array]]]:
    """Return the tiny model with an adapter on its upper layer, rows, and their plain loss and gradients."""
    model, _ = load_model(tiny)
    rows = conversations(load_tokenizer(tiny), SYSTEM)
    shaken(model, AdapterSection(rank=4, alpha=8, layers=1))
    exp.uninstall()
    return model, rows, plain_loss_and_gradients(model, rows)


@pytest.mark.parametrize("ways", cases(ALL, *(str(ways) for ways in ALL if not ways.compiled), str(TOGETHER[3])))
def test_every_optimization_matches_plain_loss_and_gradients(small, ways):
    model, rows, plain = small
    exp.install()
    assert_equal(own_loss_and_gradients(model, rows, ways), plain, 1e-5)


@pytest.mark.parametrize("ways", [Ways(), Ways(prefix=True), TOGETHER[-1]], ids=str)
def test_rows_without_the_prefix_are_computed_apart(tiny, ways):
    model, _ = load_model(tiny)
    tokenizer = load_tokenizer(tiny)
    rows = [*conversations(tokenizer, SYSTEM), *(replace(row, unprefixed=True) for row in conversations(tokenizer, "Be kind."))]
    rows = [rows[index] for index in (0, 4, 1, 5, 6, 2, 3, 7)]
    shaken(model, AdapterSection(rank=4, alpha=8, layers=1))
    assert_equal(own_loss_and_gradients(model, rows, ways), plain_loss_and_gradients(model, rows), 1e-5)


def test_dropout_repeats_under_gradient_checkpointing(tiny):
    """Checkpointed layers repeat their dropout mask: the gradient matches finite differences of the reported loss."""
    model, _ = load_model(tiny)
    rows = conversations(load_tokenizer(tiny), SYSTEM)
    shaken(model, AdapterSection(rank=4, alpha=8, dropout=0.3))
    stack = LayerStack(model, split_head(model), checkpointed=True)
    batch = sft.collate(rows, range(4), 0)
    model.train()

    def at(seed: int) -> Any:
        mx.random.seed(seed)
        return nn.value_and_grad(model, lambda: sft.loss_sum(stack, batch.arrays()))()

    loss, gradients = at(3)
    assert at(4)[0].item() != loss.item()
    before = lora.adapter_arrays(model)
    flat = dict(tree_flatten(gradients))
    size = mx.sqrt(sum(array.square().sum() for array in flat.values()))
    around = []
    for sign in (1, -1):
        model.load_weights([(name, array + sign * 1e-2 * flat[name] / size) for name, array in before.items()], strict=False)
        around.append(at(3)[0].item())
    assert (around[0] - around[1]) / 2e-2 == pytest.approx(size.item(), rel=2e-2)


@pytest.mark.real
def test_matches_plain_computation_on_bundled_model(real, lowest_layers):
    rows = conversations(real.tokenizer, SYSTEM)[:2]
    shaken(lowest_layers, AdapterSection(rank=8, layers=2))
    exp.uninstall()
    plain = plain_loss_and_gradients(lowest_layers, rows)
    exp.install()
    assert_equal(own_loss_and_gradients(lowest_layers, rows, TOGETHER[0]), plain, 1e-5)
