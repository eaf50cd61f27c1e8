"""The hyperparameters that a search varies, their ranges, and the trials that are drawn from them.

The first trials bracket the learning rate and the epochs of the training rule. The others are points of a Halton sequence (Halton 1960),
shifted at random (Cranley and Patterson 1976): they cover every range evenly, and each depends only on the seed and its number. Optuna was considered. Its samplers draw their first ten trials at random too, its pruners
compare single numbers instead of paired rows, and it would add 100 MB of packages, among them a database toolkit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mlxtune.core.hashing import unit_interval
from mlxtune.recipe import Recipe
from mlxtune.recipe.schema import layer_count

Value = float | int | str
Values = Mapping[str, Value]

RATE_FACTOR = 5.0  # the default range of learning rates is from the rule's rate divided by this factor to that times this factor
BRACKET = ((1, 1), (2, 1), (0.5, 2), (1, 2))  # of the rule's rate and epochs, in the trials after the recipe
FACTOR = 3.0  # the same for method.beta and method.sft_weight
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


@dataclass(frozen=True)
class Interval:
    """All numbers from ``low`` to ``high``, evenly on a logarithmic scale."""

    low: float
    high: float

    def at(self, fraction: float) -> float:
        """Return the value at a fraction of the range, with three significant digits."""
        return float(f"{self.low * (self.high / self.low) ** fraction:.3g}")


@dataclass(frozen=True)
class Choices:
    """A list of values, in ascending order."""

    values: tuple[Value, ...]

    def at(self, fraction: float) -> Value:
        return self.values[min(len(self.values) - 1, int(fraction * len(self.values)))]


Range = Interval | Choices


@dataclass(frozen=True)
class Parameter:
    """A hyperparameter: functions that read it, change it, and return its range (``None`` if the recipe does not use it)."""

    name: str
    label: str
    read: Callable[[Recipe], Value]
    write: Callable[[Recipe, Value], Recipe]
    range: Callable[[Recipe, int], Range | None]


def search_space(recipe: Recipe, depth: int) -> dict[str, Range]:
    """Return the range of every hyperparameter that a search around ``recipe`` varies, on a base with ``depth`` layers."""
    ranges = {parameter.name: parameter.range(recipe, depth) for parameter in PARAMETERS}
    return {
        name: range
        for name, range in ranges.items()
        if range and (range.low < range.high if isinstance(range, Interval) else len(range.values) > 1)
    }


def draw_trials(recipe: Recipe, center: Recipe, depth: int, count: int) -> list[Values]:
    """Return the values of ``count`` trials of ``recipe``, whose settings by the training rule are those of ``center``.

    The first has the recipe's own values, and those that bracket the rule follow, if the recipe sets no ranges for them.
    """
    space = search_space(center, depth)
    shifts = {name: unit_interval(recipe.training.seed, name) for name in space}

    def spread(number: int) -> Values:
        points = {name: (_halton(number, prime) + shifts[name]) % 1 for name, prime in zip(space, _PRIMES, strict=False)}
        return {name: space[name].at(point) for name, point in points.items()}

    trials: list[Values] = [_own_values(recipe, space)]
    if not recipe.search.learning_rate and not recipe.search.epochs:
        for number, factors in enumerate(BRACKET, 1):
            listed = {name: value for name, value in spread(number).items() if getattr(recipe.search, name)}
            values = {**_own_values(_scaled(center, *factors), space), **listed}
            trials += [values] if values not in trials else []
    return [*trials, *map(spread, range(len(trials), count))][:count]


def _own_values(recipe: Recipe, space: Mapping[str, Range]) -> Values:
    return {parameter.name: parameter.read(recipe) for parameter in PARAMETERS if parameter.name in space}


def _scaled(center: Recipe, rate: float, epochs: float) -> Recipe:
    section = center.training
    return replace(center, training=replace(
        section, learning_rate=float(f"{section.learning_rate * rate:.2g}"), epochs=max(1, round(section.epochs * epochs)),
    ))  # fmt: skip


def with_values(recipe: Recipe, values: Values) -> Recipe:
    for parameter in PARAMETERS:
        if parameter.name in values:
            recipe = parameter.write(recipe, values[parameter.name])
    return recipe


def log_scale(values: Sequence[Value]) -> list[float]:
    """Return the logarithms of ``values``, or ``values`` if one is 0. ``"all"`` layers count as the highest number."""
    scale = float if 0 in values else math.log
    numbers = [scale(value) if isinstance(value, int | float) else math.inf for value in values]
    highest = max((number for number in numbers if number < math.inf), default=0.0)
    return [min(number, highest) for number in numbers]


def _halton(number: int, base: int) -> float:
    """Return the radical inverse of ``number``: its digits in ``base``, mirrored at the radix point."""
    result, scale = 0.0, 1.0
    while number:
        scale /= base
        number, digit = divmod(number, base)
        result += digit * scale
    return result


def _interval(ends: Sequence[float], value: float, factor: float, high: float = math.inf) -> Interval:
    return Interval(*ends) if ends else Interval(value / factor, min(high, value * factor))


def _around(listed: Sequence[int], value: int) -> Choices:
    """Return the listed values or, by default, half to twice ``value``."""
    return Choices(tuple(sorted(set(listed or (max(1, value // 2), value, 2 * value)))))


def _layers(recipe: Recipe, depth: int) -> Choices | None:
    if recipe.adapter.parent:
        return None
    count = layer_count(recipe.adapter.layers, depth)
    counts = [layer_count(value, depth) for value in recipe.search.layers] or [max(1, count // 2), count, min(depth, 2 * count)]
    return Choices(tuple(sorted(set(counts))))


def _set_rank(recipe: Recipe, value: Value) -> Recipe:
    """Set the rank, and keep alpha / rank, so that the scale of the update stays the same."""
    adapter = recipe.adapter
    return replace(recipe, adapter=replace(adapter, rank=int(value), alpha=adapter.alpha * int(value) / adapter.rank))


def _sft_weight(recipe: Recipe) -> float:
    method = recipe.method
    weights = method.weights or [1.0] * len(method.loss)
    return dict(zip(method.loss, weights, strict=True)).get("sft", 0.0)


def _set_sft_weight(recipe: Recipe, value: Value) -> Recipe:
    method = recipe.method
    weights = method.weights or [1.0] * len(method.loss)
    weights = [float(value) if loss == "sft" else weight for loss, weight in zip(method.loss, weights, strict=True)]
    return replace(recipe, method=replace(method, weights=weights))


def _setting(section: str, name: str) -> tuple[Callable[[Recipe], Value], Callable[[Recipe, Value], Recipe]]:
    """Return functions that read and change a setting of the recipe."""

    def write(recipe: Recipe, value: Value) -> Recipe:
        return replace(recipe, **{section: replace(getattr(recipe, section), **{name: value})})

    return lambda recipe: getattr(getattr(recipe, section), name), write


# To search another hyperparameter, add it here, and its range to ``SearchSection``.
PARAMETERS = (
    Parameter(
        "learning_rate", "lr", *_setting("training", "learning_rate"),
        lambda recipe, depth: _interval(recipe.search.learning_rate, recipe.training.learning_rate, RATE_FACTOR, high=0.5),
    ),
    Parameter(
        "rank", "rank", lambda recipe: recipe.adapter.rank, _set_rank,
        lambda recipe, depth: None if recipe.adapter.parent else _around(recipe.search.rank, recipe.adapter.rank),
    ),
    Parameter("layers", "layers", *_setting("adapter", "layers"), _layers),
    Parameter(
        "epochs", "epochs", *_setting("training", "epochs"),  # steps take precedence
        lambda recipe, depth: None if recipe.training.steps else _around(recipe.search.epochs, recipe.training.epochs),
    ),
    Parameter(
        "batch_size", "batch", *_setting("training", "batch_size"),  # if 0, training.batch_tokens limits a batch
        lambda recipe, depth: _around(recipe.search.batch_size, size) if (size := recipe.training.batch_size) else None,
    ),
    Parameter(
        "replay", "replay", *_setting("data", "replay"),
        lambda recipe, depth: (
            Choices(tuple(sorted(set(recipe.search.replay)))) if recipe.method.kind == "sft" and recipe.search.replay else None
        ),
    ),
    Parameter(
        "seed", "seed", *_setting("training", "seed"),
        lambda recipe, depth: Choices(tuple(recipe.search.seed)) if recipe.search.seed else None,
    ),
    Parameter(
        "beta", "beta", *_setting("method", "beta"),
        lambda recipe, depth: (
            None if recipe.method.kind == "sft" or recipe.method.reference_free
            else _interval(recipe.search.beta, recipe.method.beta, FACTOR)
        ),
    ),
    Parameter(
        "sft_weight", "sft weight", _sft_weight, _set_sft_weight,
        lambda recipe, depth: (
            _interval(recipe.search.sft_weight, _sft_weight(recipe), FACTOR)
            if recipe.method.kind == "dpo" and len(recipe.method.loss) > 1 and "sft" in recipe.method.loss
            else None
        ),
    ),
)  # fmt: skip
