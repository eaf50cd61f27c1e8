"""Gradient checkpointing: a layer that keeps only its inputs and is recomputed for the backward pass.

Chen et al. 2016, arXiv:1604.06174. MLX differentiates a custom function with respect to its arguments only, so every array that a
layer reads must be an argument, and every array that it produces an output. Besides the hidden states, layers of some architectures
exchange keys and values, residual streams, or caches that they fill; all of these are passed through.
"""

import copy
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.models.hooked_module import ModuleProxy


class RecomputedLayer(ModuleProxy):
    """A layer that keeps only its inputs and is recomputed for the backward pass.

    Recomputation waits for the incoming gradient, and all of the layer's gradients are computed before the gradient is passed to the
    layer below. ``mx.checkpoint`` enforces neither, so MLX, which schedules ahead, would keep many layers in memory.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.keys = KeySequence()  # from which every dropout inside the layer takes its keys
        modules = layer.named_modules()
        dropouts = [(name, RepeatableDropout(module, self.keys)) for name, module in modules if isinstance(module, nn.Dropout)]
        if dropouts:
            layer.update_modules(tree_unflatten(dropouts))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer, dropout_keys = self.module, self.keys
        key = mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
        own = tree_flatten(layer.trainable_parameters())
        inputs: list[mx.array] = []
        snapshots: _Copies = {}
        arguments = _map_arrays((args, kwargs), _collect(inputs), snapshots)
        results: Any = None
        copies: _Copies = {}

        def forward(*arrays: mx.array) -> list[mx.array]:
            nonlocal results, copies
            copies = {}
            values = iter(arrays)
            own_args, own_kwargs = _map_arrays(arguments, lambda _: next(values), copies)
            dropout_keys.key = key
            layer.update(tree_unflatten([(name, array) for (name, _), array in zip(own, values, strict=True)]))
            try:
                results = layer(*own_args, **own_kwargs), [vars(item) for _, item in copies.values()]
            finally:
                layer.update(tree_unflatten(own))
            outputs: list[mx.array] = []
            _map_arrays(results, _collect(outputs), {id(item): (item, item) for _, item in copies.values()})
            return outputs

        def backward(primals: Any, cotangents: Any, outputs: Any) -> Any:
            _, (first, *rest) = mx.vjp(forward, mx.depends(list(primals), list(cotangents)), list(cotangents))
            return [*mx.depends([first], rest), *rest] if rest else [first]

        function: Any = mx.custom_function(forward)
        function.vjp(backward)
        computed = iter(function(*inputs, *(array for _, array in own)))
        originals = [original for original, _ in snapshots.values()]
        replaced = zip(copies.values(), originals, strict=True)
        output, states = _map_arrays(
            results, lambda _: next(computed), {id(item): (item, original) for (_, item), original in replaced}
        )
        for original, state in zip(originals, states, strict=True):
            vars(original).update(state)
        return output


_Copies = dict[int, tuple[Any, Any]]  # ID of an object -> the object and what replaces it


def _collect(arrays: list[mx.array]) -> Callable[[mx.array], mx.array]:
    def collect(array: mx.array) -> mx.array:
        arrays.append(array)
        return array

    return collect


def _map_arrays(value: Any, function: Callable[[mx.array], Any], copies: _Copies) -> Any:
    """Return ``value`` with ``function`` applied to every floating-point array in it.

    Containers are searched, and so are the attributes of objects such as caches, which are copied once and added to ``copies``.
    """
    if isinstance(value, mx.array):
        return function(value) if mx.issubdtype(value.dtype, mx.floating) else value
    if isinstance(value, list | tuple):
        return type(value)([_map_arrays(item, function, copies) for item in value])
    if isinstance(value, dict) and not isinstance(value, nn.Module):
        return {key: _map_arrays(item, function, copies) for key, item in value.items()}
    if isinstance(value, nn.Module) or callable(value) or not hasattr(value, "__dict__"):
        return value
    if id(value) not in copies:
        new = copy.copy(value)
        copies[id(value)] = value, new
        vars(new).update({name: _map_arrays(item, function, copies) for name, item in vars(value).items()})
    return copies[id(value)][1]


class KeySequence:
    """A sequence of random keys. Setting ``key`` restarts it."""

    key: mx.array

    def next(self) -> mx.array:
        self.key, following = mx.random.split(self.key)
        return following


class RepeatableDropout(nn.Module):
    """``nn.Dropout`` (Srivastava et al. 2014) with keys from a :class:`KeySequence`.

    A recomputed layer must drop the same elements each time. MLX's own dropout draws from a global RNG state, which cannot be
    rewound.
    """

    def __init__(self, dropout: nn.Dropout, keys: KeySequence) -> None:
        super().__init__()
        self._keep_probability, self._keys = dropout._p_1, keys

    def __call__(self, x: mx.array) -> mx.array:
        if self._keep_probability == 1 or not self.training:
            return x
        mask = mx.random.bernoulli(self._keep_probability, x.shape, key=self._keys.next())
        return mask * x * (1 / self._keep_probability)
