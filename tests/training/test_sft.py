"""The loop's loss and gradients against a plain computation: mlx-lm's model call and nn.losses.cross_entropy over the mask."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from mlxtune.data.rows import Conversation, Message, Place
from mlxtune.models import lora
from mlxtune.models.head import split
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate, Encoded
from mlxtune.recipe import AdapterSection
from mlxtune.training import batches, sft
from mlxtune.training.prefix import can_share


def plain_loss_and_gradients(model: nn.Module, rows: list[Encoded]) -> tuple[float, dict[str, mx.array]]:
    """Mean cross-entropy over trained tokens, rows padded on the right, full logits: nothing of ours but the mask."""
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


def own_loss_and_gradients(model: nn.Module, rows: list[Encoded], prefix: int) -> tuple[float, dict[str, mx.array]]:
    """The same through the loop's pieces, in two micro-batches, divided by the trained tokens of both."""
    parts = split(model)
    assert not parts.warning
    half = len(rows) // 2
    total, trained, gradients = 0.0, 0, None
    for some in (rows[:half], rows[half:]):
        batch = batches.collate(some, prefix)
        value, new = nn.value_and_grad(model, lambda batch: sft.loss_sum(model, parts, batch))(batch)
        total, trained = total + value.item(), trained + batch.trained
        flat = dict(tree_flatten(new))
        gradients = flat if gradients is None else {name: gradients[name] + flat[name] for name in flat}
    assert gradients is not None
    return total / trained, {name: array / trained for name, array in gradients.items()}


def assert_equal(own: tuple[float, dict[str, mx.array]], plain: tuple[float, dict[str, mx.array]], tolerance: float) -> None:
    assert own[0] == pytest.approx(plain[0], rel=tolerance)
    assert own[1].keys() == plain[1].keys()
    for name, expected in plain[1].items():
        size = mx.linalg.norm(expected.flatten()).item()
        assert mx.linalg.norm((own[1][name] - expected).flatten()).item() <= tolerance * max(size, 1e-3), name


def shaken(model: nn.Module, section: AdapterSection) -> None:
    """An adapter with B away from zero, so that every gradient is alive."""
    lora.add(model, section, seed=3)
    mx.random.seed(4)
    arrays = [(name, array + mx.random.normal(array.shape) * 0.02) for name, array in lora.weights(model).items()]
    model.load_weights(arrays, strict=False)


def conversations(tokenizer, system: str) -> list[Encoded]:
    template = ChatTemplate(tokenizer)
    made = []
    for at, (asked, answer) in enumerate(
        [("Is it wet?", "Yes, a bit."), ("Why?", "Rain."), ("How long does it rain here?", "All day."), ("Oh", "So it is.")]
    ):
        turns = [("system", system), ("user", asked), ("assistant", answer)]
        if at % 2:
            turns += [("user", "Go on."), ("assistant", "That is all.")]
        made.append(
            template.encode(Conversation(Place(Path("rows"), at), {}, tuple(Message(role, text) for role, text in turns)), 500)
        )
    return made


def test_loss_and_gradients_equal_the_plain_computation_on_the_tiny_model(tiny: Path) -> None:
    from mlx_lm.utils import load_tokenizer

    model, _ = load_model(tiny)
    rows = conversations(load_tokenizer(tiny), "Be kind and brief.")
    shaken(model, AdapterSection(rank=4, alpha=8))
    plain = plain_loss_and_gradients(model, rows)
    shared = batches.shared_prefix(rows)
    assert shared > 20
    assert can_share(model, split(model))
    assert_equal(own_loss_and_gradients(model, rows, 0), plain, 1e-5)
    assert_equal(own_loss_and_gradients(model, rows, shared), plain, 1e-5)


@pytest.mark.real
def test_loss_and_gradients_equal_the_plain_computation_on_the_bundled_model(real: LoadedModel) -> None:
    from mlxtune.models.load import load

    loaded = load(real.source)  # its own copy: adapters would stay on the shared one
    rows = conversations(loaded.tokenizer, "You answer in one short sentence and never say more than you know about the weather.")
    shaken(loaded.model, AdapterSection(rank=8, layers=8))
    plain = plain_loss_and_gradients(loaded.model, rows)
    shared = batches.shared_prefix(rows)
    assert shared >= 16
    assert_equal(own_loss_and_gradients(loaded.model, rows, shared), plain, 1e-5)
