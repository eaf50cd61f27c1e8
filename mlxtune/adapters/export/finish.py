"""A short finish: an adapter is trained a little further while its fused weights are rounded as in the export.

Before each step, the frozen weights are replaced so that, with the adapter, they are the export's. The gradient ignores the rounding: the
straight-through estimator (Bengio et al. 2013, arXiv:1308.3432) of training aware of quantization (Jacob et al. 2018, arXiv:1712.05877).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import dequantize_model

from mlxtune.adapters.export.compared_rows import EXPORTED
from mlxtune.models import lora
from mlxtune.planning.training_rule import apply_rule, model_width
from mlxtune.recipe import Recipe
from mlxtune.recipe.parent import inherit
from mlxtune.runs.events import WarningCode
from mlxtune.runs.worker import Worker
from mlxtune.training.setup import REVIEW, build_loop, load_foundation

SHARE = 0.05  # of the steps of a whole training
RATE = 0.1  # of its learning rate
STEP = "finishing_step"  # progress label

# Returns the weights of the fused model as the export rounds them, given a folder with the adapter; only those named, if any are.
Rounded = Callable[[Path, Collection[str]], Mapping[str, mx.array]]


def finish(worker: Worker, recipe: Recipe, adapter: Path, folder: Path, rounded: Rounded) -> int:
    """Train the LoRA ``adapter`` further on the rows of ``recipe``, write it into ``folder``, and return the number of steps.

    Raise ``RecipeError`` if the adapter cannot be trained further, and ``Interrupted`` if the worker is asked to stop.
    """
    recipe = inherit(recipe, adapter)
    listener = _Listener(worker)
    base = load_foundation(recipe, listener, folder / REVIEW)
    recipe = apply_rule(recipe, model_width(base.loaded.source.config), len(base.train.rows))
    section = recipe.training
    per_epoch = math.ceil(len(base.train.rows) / (max(1, section.batch_size) * section.accumulate))
    listener.steps = max(1, math.ceil(SHARE * (section.steps or per_epoch * section.epochs)))
    rate = RATE * section.learning_rate
    section = replace(section, steps=listener.steps, learning_rate=rate, validate_every=listener.steps, early_stop=0)
    recipe = replace(recipe, training=section)

    base.loaded.model = model = dequantize_model(base.loaded.model)
    replace_weights(model, adapter, rounded(adapter, ()))
    loop = build_loop(base, recipe, folder, listener).loop
    loop.pause = partial(_round, model, loop.adapter_config, folder, rounded)
    loop.run(listener)
    lora.save(folder, lora.adapter_arrays(model), loop.adapter_config)
    return listener.steps


def replace_weights(model: nn.Module, adapter: Path, weights: Mapping[str, mx.array]) -> None:
    """Replace all weights of ``model``, so that they are ``weights`` once ``adapter`` is added."""
    own = dict(tree_flatten(model.parameters()))
    model.update(tree_unflatten([(name, array.astype(own[name].dtype)) for name, array in weights.items() if name in own]))
    lora.load(model, adapter)
    _subtract_adapter(model, weights)
    lora.remove(model)


def _round(model: nn.Module, config: dict[str, Any], folder: Path, rounded: Rounded) -> None:
    """Replace the weights under the adapters of ``model`` so that both together are the rounded weights."""
    lora.save(folder, lora.adapter_arrays(model), config)
    _subtract_adapter(model, rounded(folder, [f"{name}.weight" for name in lora.adapter_modules(model)]))


def _subtract_adapter(model: nn.Module, weights: Mapping[str, mx.array]) -> None:
    for name, module in lora.adapter_modules(model).items():
        inner: Any = lora.wrapped_module(module)
        dtype, inner.weight = inner.weight.dtype, mx.zeros(inner.weight.shape)
        inner.weight = (weights[f"{name}.weight"].astype(mx.float32) - module.fuse().weight).astype(dtype)
        mx.eval(inner.weight)  # one at a time, because all of them in float32 may not fit in memory


@dataclass
class _Listener:
    """Passes on warnings and stop requests, but of the events only the number of steps, because the run is an export."""

    worker: Worker
    steps: int = 0

    @property
    def stopping(self) -> bool:
        return self.worker.stopping

    def emit(self, type: str, **fields: Any) -> None:
        if type == "step":
            self.worker.progress_reporter(EXPORTED, STEP)(fields["step"], self.steps)

    def warn(self, code: WarningCode, **values: Any) -> None:
        self.worker.warn(code, **values)
