"""KTO on the pair pipeline against the plain computation: single full sequences and the paper's formula in numpy."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, load_tokenizer
from test_pairs import plain_logp, random_pairs
from test_sft import assert_equal, padded_shapes, shaken, summed

from mlxtune.core.errors import DataError, TemplateError, TooLongError
from mlxtune.data.rows import Location, Message, Preference, Unpaired
from mlxtune.models.cpu import exp
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.encoded import EncodedPair
from mlxtune.models.head import split_head
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import AdapterSection, MethodSection
from mlxtune.training.layer_stack import LayerStack
from mlxtune.training.preference.losses import KTOObjective

BY = MethodSection(kind="kto", beta=0.3, desirable=1.2, undesirable=0.7)


def labelled(seed: int = 4) -> list[EncodedPair]:
    return [replace(pair, label=at % 3 != 1) for at, pair in enumerate(random_pairs(seed, prefix=20))]


def plain(model: nn.Module, rows: list[EncodedPair]) -> tuple[float, dict[str, mx.array]]:
    """Return the mean loss over rows from equation 7 with TRL's estimate of the reference point."""
    far = [plain_logp(model, pair.prompt, pair.rejected).item() - pair.reference_logps[1] for pair in rows]
    point = max(0.0, sum(far) / len(far))

    def loss(model: nn.Module) -> mx.array:
        values = []
        for pair in rows:
            ratio = plain_logp(model, pair.prompt, pair.chosen) - pair.reference_logps[0]
            sign, weight = (1, BY.desirable) if pair.label else (-1, BY.undesirable)
            values.append(weight * (1 - 1 / (1 + mx.exp(-sign * BY.beta * (ratio - point)))))
        return mx.stack(values).mean()

    value, gradients = nn.value_and_grad(model, loss)(model)
    return value.item(), dict(tree_flatten(gradients))


@pytest.fixture(scope="module")
def small(tiny: Path) -> tuple[nn.Module, list[EncodedPair], Any]:
    model, _ = load_model(tiny)
    shaken(model, AdapterSection(rank=4, alpha=8, layers=1))
    near = []
    for pair in labelled():  # keep the reference near the policy so that no sigmoid saturates
        both = [plain_logp(model, pair.prompt, answer).item() for answer in (pair.chosen, pair.rejected)]
        near.append(replace(pair, reference_logps=(both[0] + 0.7, both[1] - 0.4)))
    exp.uninstall()
    return model, near, plain(model, near)


@pytest.mark.parametrize(
    ("lanes", "shared", "prefix", "padded"),
    [(1, True, 0, False), (2, True, 20, False), (2, True, 20, True), (1, False, 0, False), (1, False, 0, True)],
)
def test_loss_and_gradients_match_plain_computation(small, lanes, shared, prefix, padded):
    model, rows, expected = small
    exp.install()
    objective, stack = KTOObjective(BY, shared, prefix, lanes), LayerStack(model, split_head(model), StreamPool(lanes))
    shapes = padded_shapes(objective, rows, [range(len(rows))]) if padded else {}
    result, sums = summed(stack, objective, objective.collate(rows, [range(len(rows))], range(len(rows)), shapes))
    assert_equal(result, expected, 1e-5)

    means = objective.means(sums.tolist(), len(rows))
    wanted = [plain_logp(model, pair.prompt, pair.chosen).item() for pair in rows if pair.label]
    assert means["logps/chosen"] == pytest.approx(sum(wanted) / len(wanted), rel=1e-4)
    assert means["rewards/chosen"] == pytest.approx(-0.7 * BY.beta, rel=1e-3)
    assert means["rewards/margins"] == pytest.approx(0.0, abs=1e-3)
    assert means["kl"] == pytest.approx(0.4, rel=1e-3)


def test_only_own_completion_counts_as_trained():
    rows = labelled()
    (batch,) = KTOObjective(BY, True).collate(rows, [range(3)], range(3))
    assert batch.counts == {at: (len(rows[at].tokens), len(rows[at].chosen)) for at in range(3)}
    assert all(int(row.trained.sum()) == len(row.chosen) for row in rows)


def test_single_label_batch_has_no_margin():
    objective = KTOObjective(BY, True)
    means = objective.means([2.0, 0.0, 1.0, 0.0, -8.0, 0.0, 0.2], 2)
    assert (means["rewards/chosen"], means["rewards/rejected"], means["rewards/margins"]) == (
        0.5,
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(math.nan, nan_ok=True),
    )
    assert math.isclose(means["kl"], 0.1)


def test_rows_are_encoded_with_mismatched_completion(tiny):
    template = ChatTemplate(load_tokenizer(tiny))
    first, second = (
        Unpaired(Location(Path("rows"), at), {}, (Message("user", f"Question {at}?"),), f"Answer {at}.", at == 1) for at in (1, 2)
    )
    encoded = template.encode_unpaired(first, second, 200)
    alone = template.encode_unpaired(second, first, 200)
    assert encoded.label
    assert not alone.label
    assert encoded.chosen.tolist() == alone.rejected.tolist()
    assert encoded.rejected.tolist() == alone.chosen.tolist()
    with_tools = replace(first, tools=({"type": "function", "function": {"name": "find", "parameters": {}}},))
    with pytest.raises(TemplateError, match="does not render the list of tools"):  # the tools reach the template
        template.encode_unpaired(with_tools, second, 200)
    with pytest.raises(TooLongError, match="fills the window"):
        template.encode_unpaired(first, second, 10)
    with pytest.raises(DataError, match="KTO trains on unpaired rows only"):
        template.encode_unpaired(Preference(Location(Path("rows"), 3), {}, first.prompt, "a", "b"), second, 200)
