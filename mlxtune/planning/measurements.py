"""Measurements that need MLX or the tokenizer. A child process (``mlxtune.training.probe``) makes them, so planning loads neither."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypedDict

from mlxtune.core.child_process import ChildProcess, StoppableCall
from mlxtune.core.json_fields import from_json
from mlxtune.planning.workload import BatchShape, DatasetLengths
from mlxtune.recipe import Recipe, dump

if TYPE_CHECKING:  # the checks import numpy
    from mlxtune.data.checks.check_input import TokenCount

_MODULE, _NAME = "mlxtune.training.probe", "The planning process"


class StepCost(TypedDict):
    """Bytes at rest and at the peaks of loading and the steps, and seconds of the second step."""

    rest: int
    loading: int
    peak: int
    frozen: float  # seconds of the layers below the first adapter
    step: float
    trace: float  # seconds by which the first step, which is traced, exceeds the second; 0.0 if steps are not compiled
    uncompiled: float  # seconds of the same step without compiling; 0.0 if steps are not compiled


def row_lengths(recipe: Recipe) -> DatasetLengths:
    """Return the lengths of the recipe's rows. Raises the worker's errors, and ``MachineError`` if the process dies."""
    return from_json(DatasetLengths, _measure("lengths", recipe))


def record_tokens(recipe: Recipe) -> list[TokenCount | None]:
    """Return the length of each record of the source; ``None`` for invalid rows. Raises the errors of :func:`row_lengths`."""
    from mlxtune.data.checks.check_input import TokenCount

    return [count and from_json(TokenCount, count) for count in _measure("tokens", recipe)]


def start_steps(recipe: Recipe, batch: BatchShape, *, grouped: int, checkpointed: bool) -> StoppableCall[StepCost]:
    """Start two steps on ``batch``. ``grouped`` rows run together through the frozen layers to fill a cache; 0 without one."""
    params = {"recipe": dump(recipe), "batch": asdict(batch), "grouped": grouped, "checkpointed": checkpointed}
    return StoppableCall(_MODULE, "steps", params, lambda cost: cost, name=_NAME)


def _measure(method: str, recipe: Recipe) -> Any:
    with ChildProcess(_MODULE, name=_NAME) as child:
        return child.call(method, {"recipe": dump(recipe)})
