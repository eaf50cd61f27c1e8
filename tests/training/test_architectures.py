"""Every supported architecture as a tiny 4-bit model: our training computation against the plain one."""

from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import pytest
from exhaustive import cases
from families import PREFIX, ROWS
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from test_sft import assert_equal, plain_loss_and_gradients
from tiny_architectures import ARCHITECTURES, make

from mlxtune.models import lora
from mlxtune.models.head import split_head
from mlxtune.models.load import Compute, load
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection
from mlxtune.training import checkpoint, sft
from mlxtune.training.layer_stack import LayerStack

TRAINED = sum(int(row.trained.sum()) for row in ROWS)
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("uncompiled")]
every_architecture = pytest.mark.parametrize("name", cases(ARCHITECTURES, "smollm2", "gemma4", "qwen3_5", "gpt_oss"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the folder of an architecture's model, written once."""
    return cache(lambda name: make(tmp_path_factory.mktemp("architectures") / name, name))


def adapted(folder: Path, compute: Compute, **section: Any) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model with a nonzero adapter and the adapter's configuration."""
    model = load(resolve(str(folder)), compute).model
    config = lora.add(model, AdapterSection(rank=4, alpha=8, **section), seed=3)
    mx.random.seed(4)
    arrays = [(name, array + mx.random.normal(array.shape) * 0.05) for name, array in lora.adapter_arrays(model).items()]
    model.load_weights(arrays, strict=False)
    model.train()
    return model, config


def own(stack: LayerStack, prefix: int) -> tuple[float, Any]:
    """Return the loss over the trained tokens of ``ROWS`` and its gradients from the training loop's parts, with a shared prefix."""
    arrays = sft.collate(ROWS, range(len(ROWS)), prefix).arrays()
    value, gradients = nn.value_and_grad(stack.model, lambda: sft.loss_sum(stack, arrays) / TRAINED)()
    return value.item(), gradients


def assert_plain(stack: LayerStack) -> tuple[float, Any]:
    """Assert that our loss and gradients match the plain ones with and without a shared prefix; return both."""
    expected = plain_loss_and_gradients(stack.model, ROWS)
    for prefix in (0, PREFIX) if stack.can_share_prefix() else (0,):
        loss, gradients = own(stack, prefix)
        assert_equal((loss, dict(tree_flatten(gradients))), expected, 1e-4)
    return loss, gradients


@pytest.mark.parametrize("compute", ["float32", "native"])
@every_architecture
def test_gradients_match_plain_computation_and_step_lowers_loss(folder, name, compute):
    model, _ = adapted(folder(name), compute)
    parts = split_head(model)
    assert parts.is_split
    assert not parts.has_unusual_head
    assert "fused_logp" in parts.logp.__qualname__
    stack = LayerStack(model, parts)
    assert stack.can_share_prefix() == ARCHITECTURES[name].shares_prefix
    loss, gradients = assert_plain(stack)
    optim.SGD(1e-3 * TRAINED).update(model, gradients)
    assert own(stack, 0)[0] < loss


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("llama", "lora", "lm_head"),
        ("llama", "dora", "lm_head"),
        ("smollm2", "lora", "embed_tokens"),
        ("gemma2", "lora", "embed_tokens"),
    ],
)
def test_trained_head_gets_plain_gradients(folder, name, kind, target):
    model, _ = adapted(folder(name), "native", kind=kind, targets=["q_proj", target])
    parts = split_head(model)
    assert parts.is_split
    assert not parts.has_unusual_head
    assert_plain(LayerStack(model, parts))


@every_architecture
def test_checkpoints_and_adapters_round_trip(folder, name, tmp_path):
    model, config = adapted(folder(name), "native")
    optimizer = optim.AdamW(1e-2)
    optimizer.update(model, model.trainable_parameters())
    checkpoint.save(tmp_path, model, optimizer, config, {"step": 1, "best": {"step": 1}}, 1)
    saved = checkpoint.newest(tmp_path)
    arrays, state = lora.adapter_arrays(model), dict(tree_flatten(optimizer.state))

    other, _ = adapted(folder(name), "native")
    fresh = optim.AdamW(1e-2)
    checkpoint.restore(saved, other, fresh)
    for one, two in ((arrays, lora.adapter_arrays(other)), (state, dict(tree_flatten(fresh.state)))):
        assert one.keys() == two.keys()
        assert all(mx.array_equal(array, two[at]) for at, array in one.items())

    stock = load_adapters(load_model(folder(name))[0], str(saved.folder))
    model.eval(), stock.eval()
    tokens = mx.array(ROWS[0].tokens)[None]
    assert mx.array_equal(stock(tokens), model(tokens))
