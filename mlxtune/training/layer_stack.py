"""Run a model's layers for training: skip frozen layers, share a prefix, checkpoint gradients.

An mlx-lm backbone loops over its list of layers. For one call, that list is replaced by the layers above the frozen ones, which
start from precomputed hidden states, or by layers that keep only their input and recompute everything else (gradient checkpointing,
Chen et al. 2016, arXiv:1604.06174). Neither the model's class nor any global state changes.

Tokens that all rows of a batch begin with are computed once: the prefix runs as one sequence, its keys and values are recorded as
part of the graph, and the rows attend to them. This computes the same sums in a different order, but only for plain attention, in
which every position attends to all earlier positions: see ``can_share_prefix``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.head import BackboneHead, magnitude


class RecordingCache:
    """A layer's cache during the prefix pass. Records keys and values ``(1, heads, prefix, width)`` as part of the graph."""

    offset = 0
    keys: mx.array
    values: mx.array

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, length: int, *, return_array: bool = False, **_: Any) -> Any:
        return create_causal_mask(length) if return_array else "causal"


class TrainingPrefixCache:
    """A layer's cache during the pass over rows. Each row attends to the recorded prefix, then to itself."""

    def __init__(self, keys: mx.array, values: mx.array) -> None:
        self.keys, self.values = keys, values
        self.offset = keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._join(self.keys, keys), self._join(self.values, values)

    def make_mask(self, length: int, *, return_array: bool = False, **_: Any) -> Any:
        """Return a causal mask. MLX aligns ``"causal"`` at the bottom right, so every row sees the whole prefix."""
        return create_causal_mask(length, self.offset) if return_array else "causal"

    def with_arrays(self, keys: mx.array, values: mx.array) -> TrainingPrefixCache:
        """Return a new cache with different prefix arrays, to recompute a checkpointed layer."""
        return TrainingPrefixCache(keys, values)

    @staticmethod
    def _join(prefix: mx.array, own: mx.array) -> mx.array:
        return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)


class ChainedCache(TrainingPrefixCache, RecordingCache):
    """Attends to a recorded prefix, and records the keys and values of the prefix and its own tokens."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = super().update_and_fetch(keys, values)
        return self.keys, self.values

    def with_arrays(self, keys: mx.array, values: mx.array) -> ChainedCache:
        return ChainedCache(keys, values)


class LayerStack:
    """A model's layers, as run by the training loop.

    ``first_adapted`` is the index of the lowest layer with an adapter; layers below it need no gradient. ``checkpointed`` layers
    keep only their input.
    """

    def __init__(
        self, model: nn.Module, head: BackboneHead, streams: StreamPool | None = None, *, checkpointed: bool = False
    ) -> None:
        self.model, self.head, self.streams = model, head, streams or StreamPool(1)
        self.depth = len(model.layers)
        backbone = head.backbone
        self._backbone = backbone if isinstance(backbone, nn.Module) and "layers" in backbone and "norm" in backbone else None
        self.checkpointed = checkpointed and self._backbone is not None
        self.first_adapted = self._first_adapted()
        self._dropout_keys = [_make_repeatable(layer) for layer in model.layers] if self.checkpointed else []

    def run_prefix(
        self, prefix: mx.array, frozen_outputs: mx.array | None = None, *, until: int | None = None
    ) -> tuple[list[RecordingCache], mx.array]:
        """Run ``prefix`` ``(tokens,)`` by itself. Return the recorded caches and the hidden states ``(1, tokens, width)``."""
        start = 0 if frozen_outputs is None else self.first_adapted
        caches = [RecordingCache() for _ in range(start, self.depth if until is None else until)]
        return caches, self.run(prefix[None], caches, start, until, frozen_outputs)

    def hidden_states(
        self,
        tokens: mx.array,
        prefix_caches: Sequence[RecordingCache] | None = None,
        frozen_outputs: mx.array | None = None,
        *,
        until: int | None = None,
    ) -> mx.array:
        """Return hidden states ``(rows, tokens, width)`` for ``tokens`` ``(rows, tokens)``, after the recorded prefix if given.

        ``frozen_outputs`` ``(rows, tokens, width)`` are used instead of running the layers below the first adapted one. With
        ``until``, stop before that layer and skip the final norm.
        """
        start = 0 if frozen_outputs is None else self.first_adapted
        caches = None if prefix_caches is None else [TrainingPrefixCache(cache.keys, cache.values) for cache in prefix_caches]
        return self.run(tokens, caches, start, until, frozen_outputs)

    def log_probs(self, hidden: mx.array, targets: mx.array) -> mx.array:
        """Return log-probabilities ``(positions,)`` of ``targets`` given ``hidden``. Differentiable only in training mode."""
        return (self.head.logp if self.model.training else self.head.logp_no_grad)(hidden, targets)

    def run(
        self, tokens: mx.array, caches: list[Any] | None, start: int, until: int | None, frozen_outputs: mx.array | None
    ) -> mx.array:
        """Run layers ``start`` to ``until`` with one cache each."""
        backbone = self._backbone
        if backbone is None:
            return self.head.backbone(tokens, caches)
        layers, norm = backbone["layers"], backbone["norm"]
        selected: list[Any] = [
            _CheckpointedLayer(layer, self._dropout_keys[index]) if self.checkpointed and index >= self.first_adapted else layer
            for index, layer in enumerate(layers[:until])
        ][start:]
        if frozen_outputs is not None:
            selected[0] = _EntryLayer(selected[0], frozen_outputs)
        try:
            backbone["layers"] = selected
            if until is not None:
                backbone["norm"] = nn.Identity()
            return self.head.backbone(tokens, caches)
        finally:
            backbone["layers"], backbone["norm"] = layers, norm

    def can_share_prefix(self) -> bool:
        """Whether sharing a prefix reproduces this model's own hidden states: plain attention, verified on a few tokens."""
        if not plain_attention(self.model):
            return False
        tokens = mx.array([[1, 5, 2, 9, 4, 7], [1, 5, 2, 9, 3, 8]])
        return self._agrees(
            lambda: self.hidden_states(tokens)[:, 4:],
            lambda: self.hidden_states(tokens[:, 4:], self.run_prefix(tokens[0, :4])[0]),
        )

    def can_skip_frozen(self) -> bool:
        """Whether the frozen layers can run separately from the rest, verified on a few tokens."""
        if not self.first_adapted or self._backbone is None or not plain_attention(self.model):
            return False
        tokens = mx.array([[1, 5, 2, 9, 4, 7]])
        return self._agrees(
            lambda: self.hidden_states(tokens),
            lambda: self.hidden_states(tokens, None, self.hidden_states(tokens, until=self.first_adapted)),
        )

    def _first_adapted(self) -> int:
        """Return the index of the lowest layer with trainable parameters; 0 if anything below the layers is trainable."""
        adapted = [index for index, layer in enumerate(self.model.layers) if tree_flatten(layer.trainable_parameters())]
        inside = sum(len(tree_flatten(self.model.layers[index].trainable_parameters())) for index in adapted)
        names = [name for name, _ in tree_flatten(self.model.trainable_parameters())]
        outside = len(names) - inside - sum("lm_head." in name for name in names)
        return adapted[0] if adapted and not outside else 0

    @staticmethod
    def _agrees(reference: Callable[[], mx.array], other: Callable[[], mx.array]) -> bool:
        try:
            expected = reference()
            return bool(mx.allclose(expected, other(), rtol=1e-2, atol=1e-2 * magnitude(expected)).item())
        except Exception:
            return False  # some incompatibilities between caches and layers appear only when they run


def plain_attention(model: nn.Module) -> bool:
    """Whether every layer attends to all earlier positions. A sliding window would pass a short trial but differ on a long row."""
    return all(type(cache) is KVCache for cache in make_prompt_cache(model))


class KeySequence:
    """A sequence of random keys. Setting ``key`` restarts it."""

    key: mx.array

    def next(self) -> mx.array:
        self.key, following = mx.random.split(self.key)
        return following


class RepeatableDropout(nn.Module):
    """``nn.Dropout`` (Srivastava et al. 2014) with keys from a :class:`KeySequence`.

    A checkpointed layer must drop the same elements when it is recomputed for the backward pass. MLX's own dropout draws from a
    global RNG state, which cannot be rewound.
    """

    def __init__(self, dropout: nn.Dropout, keys: KeySequence) -> None:
        super().__init__()
        self._keep_probability, self._keys = dropout._p_1, keys

    def __call__(self, x: mx.array) -> mx.array:
        if self._keep_probability == 1 or not self.training:
            return x
        mask = mx.random.bernoulli(self._keep_probability, x.shape, key=self._keys.next())
        return mask * x * (1 / self._keep_probability)


def _make_repeatable(layer: nn.Module) -> KeySequence:
    """Replace every dropout inside ``layer``. All of them take their keys from the returned sequence."""
    keys = KeySequence()
    replaced = [(name, RepeatableDropout(module, keys)) for name, module in layer.named_modules() if isinstance(module, nn.Dropout)]
    if replaced:
        layer.update_modules(tree_unflatten(replaced))
    return keys


class _LayerProxy:
    """Replaces a layer in the backbone's list and forwards attribute access to it."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


class _EntryLayer(_LayerProxy):
    """The first layer of a shortened list. Replaces its input with the frozen layers' outputs."""

    def __init__(self, layer: Any, frozen_outputs: mx.array) -> None:
        super().__init__(layer)
        self.frozen_outputs = frozen_outputs

    def __call__(self, _: mx.array, *args: Any, **kwargs: Any) -> Any:
        return self.layer(self.frozen_outputs, *args, **kwargs)


class _CheckpointedLayer(_LayerProxy):
    """A layer that keeps only its input and is recomputed for the backward pass.

    Parameters, input, and recorded keys and values are arguments of a custom function, because MLX differentiates only with respect
    to arguments. Recomputation waits for the incoming gradient, and the layer's own gradients are computed before the gradient is
    passed to the layer below. ``mx.checkpoint`` enforces neither, so MLX, which schedules ahead, would keep many layers in memory.
    """

    def __init__(self, layer: Any, keys: KeySequence) -> None:
        super().__init__(layer)
        self.keys = keys

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        layer, dropout_keys = self.layer, self.keys
        key = mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
        cache = next((item for item in (*args, *kwargs.values()) if isinstance(item, RecordingCache | TrainingPrefixCache)), None)
        names, parameters = zip(*tree_flatten(layer.trainable_parameters()), strict=True)
        prefix = [cache.keys, cache.values] if isinstance(cache, TrainingPrefixCache) else []

        def forward(*arrays: mx.array) -> list[mx.array]:
            x, *rest = arrays
            own: Any = None
            if cache is not None:
                own = cache.with_arrays(*rest[:2]) if isinstance(cache, TrainingPrefixCache) else RecordingCache()

            def swap(item: Any) -> Any:
                return own if cache is not None and item is cache else item

            layer.update(tree_unflatten(list(zip(names, rest[len(prefix) :], strict=True))))
            dropout_keys.key = key
            out = layer(x, *map(swap, args), **{name: swap(item) for name, item in kwargs.items()})
            return [out, own.keys, own.values] if isinstance(own, RecordingCache) else [out]

        def backward(primals: Any, cotangents: Any, outputs: Any) -> Any:
            _, (gradient, *rest) = mx.vjp(forward, mx.depends(list(primals), list(cotangents)), list(cotangents))
            return [*mx.depends([gradient], rest), *rest]

        function: Any = mx.custom_function(forward)
        function.vjp(backward)
        out, *recorded = function(x, *prefix, *parameters)
        if isinstance(cache, RecordingCache):
            cache.keys, cache.values = recorded
        return out
