"""Every fast path in 16 bits on 4-bit weights: as close to float32 as mlx-lm's plain code in the same 16 bits.

``models.load`` provides both compute paths of one model. The rows continue prompts with the model's own greedy tokens, so that it is
as confident as a trained model.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
import pytest
import test_drift
import test_kto
import test_pairs
import test_sft
from exhaustive import cases
from tiny_architectures import make

from mlxtune.data.rows import Location
from mlxtune.models import lora
from mlxtune.models.cpu import exp
from mlxtune.models.encoded import Encoded, EncodedPair
from mlxtune.models.head import split_head
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.load import load
from mlxtune.models.prefix_cache import PrefixCache
from mlxtune.models.resolve import resolve
from mlxtune.recipe import AdapterSection, MethodSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.optimizer import Stepper
from mlxtune.training.preference import losses
from mlxtune.training.preference.batches import collate
from mlxtune.training.preference.losses import KTOObjective
from mlxtune.training.preference.reference import ReferenceKL, reference_logps

pytestmark = pytest.mark.slow

PREFIX = 20  # tokens that all prompts begin with
SFT = [
    test_sft.Ways(),
    test_sft.Ways(prefix=True, checkpointed=True, frozen=True),
    test_sft.Ways(prefix=True, checkpointed=True, frozen=True, compiled=True),
]
DPO = [
    test_pairs.Ways(shared=False),
    test_pairs.Ways(prefix=PREFIX, checkpointed=True, frozen=True),
    test_pairs.Ways(prefix=PREFIX, checkpointed=True, frozen=True, compiled=True),
]
Result = tuple[float, dict[str, mx.array]]  # a loss and its gradients


@dataclass(frozen=True)
class Bits16:
    """A model with a nonzero adapter, in float32 and natively in ``dtype``, with rows and pairs."""

    dtype: mx.Dtype
    exact: nn.Module
    native: nn.Module
    rows: list[Encoded]
    pairs: list[EncodedPair]

    def require_accurate(self, result: Any, plain: Any, expected: Any) -> None:
        """Assert that ``result`` is at most twice as far from ``expected`` as ``plain`` is, or within a rounding of ``dtype``."""
        result, plain, expected = (np.array(array, np.float64).flatten() for array in (result, plain, expected))
        size = np.linalg.norm(expected)
        error, plain_error = (np.linalg.norm(array - expected) / size for array in (result, plain))
        assert error <= 2 * plain_error + mx.finfo(self.dtype).eps / 8

    def require_accurate_gradients(self, result: Result, plain: Result, expected: Result) -> None:
        self.require_accurate(result[0], plain[0], expected[0])
        assert result[1].keys() == plain[1].keys() == expected[1].keys()
        self.require_accurate(
            *(np.concatenate([np.array(one[1][name]).flatten() for name in expected[1]]) for one in (result, plain, expected))
        )


def continued(model: nn.Module, prompt: Sequence[int], count: int) -> list[int]:
    """Return ``count`` greedy tokens after ``prompt``."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(mx.argmax(model(mx.array([tokens]))[0, -1])))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module", params=cases([mx.bfloat16, mx.float16], "bf16", name={mx.bfloat16: "bf16", mx.float16: "f16"}.get))
def bits16(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bits16:
    dtype = request.param
    source = resolve(str(make(tmp_path_factory.mktemp("native"), "smollm2", dtype=str(dtype).split(".")[-1], num_hidden_layers=3)))
    exact, native = (load(source, compute).model for compute in ("float32", "native"))
    exp.uninstall()
    for model in (exact, native):
        model.model.norm.weight = model.model.norm.weight * 6  # logits of a trained model's size
        test_sft.shaken(model, AdapterSection(rank=4, alpha=8, layers=2))
        model.eval()
    dice = random.Random(5)
    beginning = [dice.randrange(300) for _ in range(PREFIX)]
    rows, pairs = [], []
    for number in range(5):
        prompt = [*beginning, *(dice.randrange(300) for _ in range(dice.randint(1, 12)))]
        chosen = continued(exact, prompt, dice.randint(4, 9))
        rejected = [*chosen[: number % 3], *(dice.randrange(300) for _ in range(dice.randint(1, 6)))]
        location = Location(Path("rows"), number)
        tokens = [*prompt, *chosen]
        rows.append(Encoded(str(number), location, np.array(tokens, np.int32), np.arange(len(tokens)) >= len(prompt), len(tokens)))
        arrays = (np.array(part, np.int32) for part in (prompt, chosen, rejected))
        pairs.append(EncodedPair(str(number), location, *arrays, (len(chosen), len(rejected)), label=number != 1))
    near = [(logps[0] + 0.7, logps[1] - 0.4) for logps in plain_logps(exact, pairs)]
    return Bits16(dtype, exact, native, rows, [replace(pair, reference_logps=both) for pair, both in zip(pairs, near, strict=True)])


def plain_logps(model: nn.Module, pairs: Sequence[EncodedPair]) -> list[list[float]]:
    return [[test_pairs.plain_logp(model, pair.prompt, answer).item() for answer in (pair.chosen, pair.rejected)] for pair in pairs]


@pytest.fixture(scope="module")
def plain_sft(bits16: Bits16) -> tuple[Result, Result]:
    """Return the plain loss and gradients, natively and in float32."""
    return tuple(test_sft.plain_loss_and_gradients(model, bits16.rows) for model in (bits16.native, bits16.exact))


@pytest.fixture(scope="module")
def plain_dpo(bits16: Bits16) -> tuple[Result, Result]:
    return tuple(test_pairs.plain_loss_and_gradients(model, bits16.pairs) for model in (bits16.native, bits16.exact))


@pytest.mark.parametrize("ways", cases(SFT, str(SFT[0]), str(SFT[-2])))
def test_supervised_gradients(bits16, plain_sft, ways):
    bits16.require_accurate_gradients(test_sft.own_loss_and_gradients(bits16.native, bits16.rows, ways), *plain_sft)


@pytest.mark.parametrize("ways", cases(DPO, str(DPO[0]), str(DPO[-2])))
def test_preference_gradients(bits16, plain_dpo, ways, tmp_path):
    bits16.require_accurate_gradients(test_pairs.own_loss_and_gradients(bits16.native, bits16.pairs, ways, tmp_path), *plain_dpo)


def test_kto_gradients(bits16):
    objective = KTOObjective(test_kto.BY, share_prompts=True, prefix=PREFIX)
    stack = LayerStack(bits16.native, split_head(bits16.native))
    result, _ = test_sft.summed(stack, objective, objective.collate(bits16.pairs, [range(5)], range(5)))
    plain, expected = (test_kto.plain(model, bits16.pairs) for model in (bits16.native, bits16.exact))
    bits16.require_accurate_gradients(result, plain, expected)


def test_reference_and_likelihoods(bits16, tmp_path, monkeypatch):
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    plain, expected = (plain_logps(model, bits16.pairs) for model in (bits16.native, bits16.exact))
    stack = LayerStack(bits16.native, split_head(bits16.native))
    scored = reference_logps(stack, bits16.pairs, "native", share_prompts=True)
    bits16.require_accurate([pair.reference_logps for pair in scored], plain, expected)
    answers = [(pair.prompt.tolist(), answer.tolist()) for pair in bits16.pairs for answer in (pair.chosen, pair.rejected)]
    nlls = np.array(negative_log_likelihoods(bits16.native, answers, batch_size=4))
    bits16.require_accurate(-nlls, plain, expected)


def test_kl_to_the_reference(bits16):
    """KL divergence to the reference after the adapter has moved."""
    before = {name: dict(lora.adapter_arrays(model)) for name, model in (("native", bits16.native), ("exact", bits16.exact))}
    distance = ReferenceKL(LayerStack(bits16.native, split_head(bits16.native)), bits16.pairs, share_prompts=True, prefix=PREFIX)
    assert distance() == 0
    results = []
    for name, model in (("native", bits16.native), ("exact", bits16.exact)):
        old = [test_drift.logps(model, pair) for pair in bits16.pairs]
        model.load_weights([(key, array + 0.02) for key, array in before[name].items()], strict=False)
        new = [test_drift.logps(model, pair) for pair in bits16.pairs]
        results.append(np.concatenate([(np.exp(b) * (b - a)).sum(axis=-1) for a, b in zip(old, new, strict=True)]).mean())
    result = distance()
    for name, model in (("native", bits16.native), ("exact", bits16.exact)):
        model.load_weights(list(before[name].items()), strict=False)
    bits16.require_accurate(result, *results)


def test_generation(bits16):
    """Logits after a shared prefix, left padding and a step of decoding; keys and values are stored in the model's dtype."""
    prompts = [pair.prompt.tolist() for pair in bits16.pairs]
    for tails in (prompts, [prompt[5 * number :] for number, prompt in enumerate(prompts)]):  # with and without a shared prefix
        prefix = PrefixCache(bits16.native)(tails)
        hidden, caches = prefix.prefill([tail[len(prefix) :] for tail in tails])
        logits = prefix.head.logits(prefix.head.backbone(mx.array([[7]] * 5), caches)[:, -1])
        plain, expected = (
            mx.stack([model(mx.array([[*tail, 7]]))[0, -1] for tail in tails]).astype(mx.float32)
            for model in (bits16.native, bits16.exact)
        )
        bits16.require_accurate(logits.astype(mx.float32), plain, expected)
        assert {array.dtype for cache in caches for array in cache.arrays} == {hidden.dtype} == {bits16.dtype}


@pytest.mark.parametrize("compiled", cases([False, True], "False"))
def test_policy_equals_reference_before_the_first_step(bits16, compiled, tmp_path, monkeypatch):
    """The margin is exactly 0 in the reference's own batch; in other batches, whose sums differ in order, within plain rounding."""
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path))
    plain, expected = (plain_logps(model, bits16.pairs) for model in (bits16.native, bits16.exact))
    rounding = np.abs(np.array(plain) - np.array(expected)).max()
    method, stack = MethodSection(beta=1.0), LayerStack(bits16.native, split_head(bits16.native))
    pairs = reference_logps(stack, bits16.pairs, "native", share_prompts=True)
    stepper = Stepper(stack, optim.SGD(0.0), losses.PreferenceObjective(method, share_prompts=True), clip=0.0, compiled=compiled)
    for group in ([0, 1, 2, 3, 4], [0], [4, 2]):
        (batch,) = collate(pairs, [group], share_prompts=True, prefix=PREFIX)
        (_, sums), _ = stepper.add(batch.arrays())
        margin = dict(zip(losses.metric_names(method), sums.tolist(), strict=True))["rewards/margins"]
        assert abs(margin) <= (0 if len(group) == 5 else len(group) * rounding)


@pytest.mark.exhaustive
@pytest.mark.real
def test_supervised_gradients_of_the_bundled_model(real, monkeypatch):
    monkeypatch.setattr(mx, "quantized_matmul", exp.quantized_matmul)  # MLX's own would take minutes
    exact, native = (load(real.source, compute).model for compute in ("float32", "native"))
    rows = test_sft.conversations(real.tokenizer, test_sft.SYSTEM)[:2]
    for model in (exact, native):
        test_sft.shaken(model, AdapterSection(rank=8, layers=2))
        model.eval()
    exp.uninstall()
    plain, expected = (test_sft.plain_loss_and_gradients(model, rows) for model in (native, exact))
    exp.install()
    bits16 = Bits16(mx.float16, exact, native, rows, [])
    assert PrefixCache(native)([[1, 2, 3], [1, 2, 4]])  # not rejected because of rounding
    result = test_sft.own_loss_and_gradients(native, rows, SFT[-1])
    bits16.require_accurate_gradients(result, plain, expected)
