"""Every loss against its formula in ``math`` on fixed numbers, and its gradient against finite differences."""

from collections.abc import Callable
from math import exp, log, nan
from typing import Any

import mlx.core as mx
import pytest

from mlxtune.recipe import MethodSection
from mlxtune.training.preference import losses
from mlxtune.training.preference.losses import LOSSES, PairScores

# chosen, rejected, both under the reference, lengths: a won pair, a lost pair, an extreme pair, a nearly certain pair
PAIRS = [
    (-12.5, -20.25, -14.0, -18.5, 6, 9),
    (-31.0, -8.5, -25.5, -9.75, 14, 5),
    (-2.0, -190.0, -60.0, -40.0, 3, 30),
    (-0.125, -0.5, -0.25, -0.375, 4, 2),
]
MEAN = sum(pair[4] for pair in PAIRS) / len(PAIRS)
BETA, WRONG, GAMMA = 0.3, 0.1, 0.5


def log_sigmoid(x: float) -> float:
    return -log(1 + exp(-x)) if x > 0 else x - log(1 + exp(x))


def smoothed(x: float) -> float:
    return -(1 - WRONG) * log_sigmoid(x) - WRONG * log_sigmoid(-x)


def odds(logp: float) -> float:
    return log(exp(logp) / (1 - exp(logp)))


EXPECTED: dict[str, Callable[..., float]] = {
    "sigmoid": lambda c, r, rc, rr, lc, lr: smoothed(BETA * ((c - r) - (rc - rr))),
    "robust": lambda c, r, rc, rr, lc, lr: (
        (-(1 - WRONG) * log_sigmoid(BETA * ((c - r) - (rc - rr))) + WRONG * log_sigmoid(-BETA * ((c - r) - (rc - rr)))) / (1 - 2 * WRONG)
    ),
    "ipo": lambda c, r, rc, rr, lc, lr: ((c - rc) / lc - (r - rr) / lr - 1 / (2 * BETA)) ** 2,
    "hinge": lambda c, r, rc, rr, lc, lr: max(0.0, 1 - BETA * ((c - r) - (rc - rr))),
    "sft": lambda c, r, rc, rr, lc, lr: -c / MEAN,
    "simpo": lambda c, r, rc, rr, lc, lr: smoothed(BETA * (c / lc - r / lr) - GAMMA),
    "orpo": lambda c, r, rc, rr, lc, lr: -c / MEAN - BETA * log_sigmoid(odds(c / lc) - odds(r / lr)),
}  # fmt: skip


def by(*names: str, **more: Any) -> MethodSection:
    return MethodSection(loss=list(names), beta=BETA, label_smoothing=WRONG, gamma=GAMMA, **more)


def scores(pairs: list[tuple[float, ...]] = PAIRS) -> PairScores:
    return PairScores(*(mx.array([float(pair[at]) for pair in pairs]) for at in range(6)), mx.array(MEAN))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_matches_its_paper(name):
    value = losses.loss(scores(), by(name))
    assert value.tolist() == pytest.approx([EXPECTED[name](*pair) for pair in PAIRS], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_matches_finite_differences(name):
    def total(chosen: mx.array, rejected: mx.array) -> mx.array:
        start = scores()
        return losses.loss(PairScores(chosen, rejected, *list(vars(start).values())[2:]), by(name)).sum()

    gradients = mx.grad(total, argnums=(0, 1))(scores().chosen, scores().rejected)
    for side in (0, 1):
        slopes = []
        for pair in PAIRS:
            up, down = ([value + sign * 1e-5 * (at == side) for at, value in enumerate(pair)] for sign in (1, -1))
            slopes.append((EXPECTED[name](*up) - EXPECTED[name](*down)) / 2e-5)
        assert gradients[side].tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-6)


def test_weighted_losses_add_up():
    value = losses.loss(scores(), by("sigmoid", "sft", weights=(1.0, 0.25)))
    expected = [EXPECTED["sigmoid"](*pair) + 0.25 * EXPECTED["sft"](*pair) for pair in PAIRS]
    assert value.tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [name for name in LOSSES if by(name).reference_free])
def test_reference_free_losses_ignore_reference(name):
    blind = scores([(c, r, nan, nan, lc, lr) for c, r, _, _, lc, lr in PAIRS])
    assert losses.loss(blind, by(name)).tolist() == losses.loss(scores(), by(name)).tolist()


def test_orpo_is_finite_for_certain_answer():
    certain = [(0.0, -3.0, 0, 0, 2, 3), (-3.0, 0.0, 0, 0, 3, 2), (-4e4, -1.0, 0, 0, 10, 1)]
    value, gradient = mx.value_and_grad(
        lambda chosen: losses.loss(PairScores(chosen, *list(vars(scores(certain)).values())[1:]), by("orpo")).sum()
    )(scores(certain).chosen)
    assert mx.isfinite(value).item()
    assert mx.isfinite(gradient).all().item()


def test_kto_matches_its_paper():
    """Equation 7 with λ of 1 and 0.5, and z = 1.5: the mean of 3 and 0."""
    logps, known = mx.array([-10.0, -10.0, -30.0]), mx.array([-14.0, -14.0, -25.0])
    z = losses.kto_reference_point(mx.array([-5.0, -9.0]), mx.array([-8.0, -9.0]), mx.ones(2))
    value = losses.kto(
        logps, known, mx.array([True, False, False]), z, MethodSection(kind="kto", beta=0.2, desirable=1.0, undesirable=0.5)
    )
    sigma = [exp(log_sigmoid(x)) for x in (0.2 * (4 - 1.5), 0.2 * (1.5 - 4), 0.2 * (1.5 + 5))]
    assert value.tolist() == pytest.approx([1 - sigma[0], 0.5 * (1 - sigma[1]), 0.5 * (1 - sigma[2])], rel=1e-5)


def test_kto_reference_point_is_nonnegative_without_gradient():
    assert losses.kto_reference_point(mx.array([-9.0]), mx.array([-8.0]), mx.ones(1)).item() == 0
    gradient = mx.grad(lambda mismatched: losses.kto_reference_point(mismatched, mx.array([-8.0]), mx.ones(1)))(mx.array([-5.0]))
    assert gradient.tolist() == [0]


def test_reference_free_rewards_are_token_means_without_drift():
    metrics = dict(
        zip(losses.metric_names(by("simpo")), losses.metric_sums(scores(), by("simpo"), mx.ones(len(PAIRS))).tolist(), strict=True)
    )
    assert metrics["rewards/chosen"] == pytest.approx(BETA * sum(pair[0] / pair[4] for pair in PAIRS))
    assert metrics["rewards/accuracies"] == sum(pair[0] / pair[4] > pair[1] / pair[5] for pair in PAIRS)
    assert "drift/chosen" not in metrics
