"""Run a model's layers for training: skip frozen layers, share a prefix, checkpoint gradients.

An mlx-lm backbone loops over its list of layers. For one call, that list is replaced by the layers above the frozen ones, which
start from precomputed hidden states, or by layers that keep only their inputs (see ``recompute``). Neither the model's class nor any
global state changes; only its rotary embeddings are wrapped, by :class:`RowPositions`.

Tokens that all rows of a batch begin with are computed once: the prefix runs as one sequence, its keys and values are recorded as
part of the graph, and the rows attend to them. This computes the same sums in a different order, but only for plain attention, in
which every position attends to all earlier positions: see ``can_share_prefix``.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.core.gpu_errors import suppress_model_errors
from mlxtune.models.cpu.streams import StreamPool
from mlxtune.models.head import BackboneHead, magnitude
from mlxtune.models.hooked_module import HookedModule
from mlxtune.training.recompute import RecomputedLayer


class RecordingCache:
    """A layer's cache during the prefix pass. Records keys and values ``(1, heads, prefix, width)`` as part of the graph."""

    offset = 0
    keys: mx.array
    values: mx.array

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, length: int, *, return_array: bool = False, **_: Any) -> Any:
        """Return a causal mask. MLX aligns ``"causal"`` at the bottom right, so every row sees all earlier positions."""
        return create_causal_mask(length, self.offset) if return_array else "causal"


class TrainingPrefixCache(RecordingCache):
    """A layer's cache during the pass over rows. Each row attends to the recorded prefix, then to itself."""

    def __init__(self, keys: mx.array, values: mx.array) -> None:
        self.keys, self.values = keys, values
        self.offset = keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._join(self.keys, keys), self._join(self.values, values)

    @staticmethod
    def _join(prefix: mx.array, own: mx.array) -> mx.array:
        return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)


class RowPositions(nn.Module):
    """A rotary embedding that also accepts a position for each token of each row, ``(rows, tokens)``, as its offset."""

    def __init__(self, rope: Any) -> None:
        super().__init__()
        self._rope = rope

    def __call__(self, x: mx.array, offset: Any = 0, **options: Any) -> mx.array:
        if not isinstance(offset, mx.array) or offset.ndim < 2:
            return self._rope(x, offset=offset, **options)
        rows, heads, tokens, width = x.shape
        each = self._rope(x.swapaxes(1, 2).reshape(-1, heads, 1, width), offset=mx.broadcast_to(offset, (rows, tokens)).flatten())
        return each.reshape(rows, tokens, heads, width).swapaxes(1, 2)


class LayerStack:
    """A model's layers, as run by the training loop.

    ``first_adapted`` is the index of the lowest layer with an adapter; layers below it need no gradient. If ``checkpointed``, the layers
    from there on keep only their inputs. It is False for an architecture that does not call its layers, whatever was requested.
    """

    def __init__(
        self, model: nn.Module, head: BackboneHead, streams: StreamPool | None = None, *, checkpointed: bool = False
    ) -> None:
        self.model, self.head, self.streams = model, head, streams or StreamPool(1)
        self.depth = len(model.layers)
        for module in model.modules():
            rope = module.get("rope")
            if isinstance(rope, nn.Module) and not isinstance(rope, RowPositions):
                module.rope = RowPositions(rope)
        self._lists = _layer_lists(model)
        self.first_adapted = self._first_adapted()
        self.checkpointed = checkpointed and self._calls_layers()
        recomputed = model.layers[self.first_adapted :] if self.checkpointed else []
        self._recomputed = {id(layer): RecomputedLayer(layer) for layer in recomputed}

    def run_prefix(
        self, prefix: mx.array, frozen_outputs: mx.array | None = None, *, until: int | None = None
    ) -> tuple[list[RecordingCache], mx.array]:
        """Run ``prefix`` ``(tokens,)`` by itself. Return the recorded caches and the hidden states ``(1, tokens, width)``."""
        start = 0 if frozen_outputs is None else self.first_adapted
        caches = [RecordingCache() for _ in range(start, self.depth if until is None else until)]
        return caches, self.run(prefix[None], caches, until, frozen_outputs)

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
        caches = None if prefix_caches is None else [TrainingPrefixCache(cache.keys, cache.values) for cache in prefix_caches]
        return self.run(tokens, caches, until, frozen_outputs)

    def log_probs(self, hidden: mx.array, targets: mx.array) -> mx.array:
        """Return log-probabilities ``(positions,)`` of ``targets`` given ``hidden``. Differentiable only in training mode."""
        return (self.head.logp if self.model.training else self.head.logp_no_grad)(hidden, targets)

    def run(self, tokens: mx.array, caches: list[Any] | None, until: int | None, frozen_outputs: mx.array | None) -> mx.array:
        """Run the layers up to ``until`` with one cache each, the frozen ones only if their outputs are not given."""
        layers: list[Any] = [self._recomputed.get(id(layer), layer) for layer in self.model.layers[:until]]
        if frozen_outputs is not None:  # the input of the first layer
            layers = layers[self.first_adapted :]
            first = layers[0]
            layers[0] = HookedModule(first, lambda _, *args, **kwargs: first(frozen_outputs, *args, **kwargs))
        if until is None:
            with self._replaced(layers):
                return self.head.backbone(tokens, caches)
        last, outputs = layers[-1], list[mx.array]()

        def record(*args: Any, **kwargs: Any) -> mx.array:
            outputs.append(last(*args, **kwargs))  # which the backbone would normalize
            return outputs[-1]

        layers[-1] = HookedModule(last, record)
        with self._replaced(layers):
            self.head.backbone(tokens, caches)
        return outputs[-1]

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Disable dropout."""
        training = self.model.training
        try:
            self.model.eval()
            yield
        finally:
            self.model.train(training)

    @contextmanager
    def _replaced(self, layers: Sequence[Any]) -> Iterator[None]:
        """Replace the model's layers. If it keeps them in several lists, ``layers`` must have as many."""
        originals = [(module, name, module[name]) for module, name in self._lists]
        remaining = iter(layers)
        try:
            for module, name, items in originals:
                module[name] = list(remaining) if len(originals) == 1 else list(islice(remaining, len(items)))
            yield
        finally:
            for module, name, items in originals:
                module[name] = items

    def _calls_layers(self) -> bool:
        """Whether the model calls every layer that would be recomputed. Some architectures call the parts of their layers instead."""
        layers, called = self.model.layers, set[int]()

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            called.add(id(layer))
            return layer(*args, **kwargs)

        with self._replaced([HookedModule(layer, partial(call, layer)) for layer in layers]):
            self.head.backbone(mx.array([[1, 5]]), None)
        return called >= {id(layer) for layer in layers[self.first_adapted :]}

    def can_share_prefix(self) -> bool:
        """Whether sharing a prefix reproduces this model's own hidden states: plain attention, verified on a few tokens."""
        if not plain_attention(self.model):
            return False
        tokens = mx.array([[1, 5, 2, 9, 4, 7], [1, 5, 2, 9, 3, 8]])
        with suppress_model_errors():
            shared = self.hidden_states(tokens[:, 4:], self.run_prefix(tokens[0, :4])[0])
            return all_close(shared, self.hidden_states(tokens)[:, 4:])
        return False

    def can_skip_frozen(self) -> bool:
        """Whether the frozen layers can run separately from the rest, verified on a few tokens."""
        if not self.first_adapted or len(self._lists) != 1 or not plain_attention(self.model):
            return False
        tokens = mx.array([[1, 5, 2, 9, 4, 7]])
        with suppress_model_errors():
            frozen = self.hidden_states(tokens, until=self.first_adapted)
            return all_close(self.hidden_states(tokens, None, frozen), self.hidden_states(tokens))
        return False

    def _first_adapted(self) -> int:
        """Return the index of the lowest layer with trainable parameters; 0 if anything below the layers is trainable."""
        adapted = [index for index, layer in enumerate(self.model.layers) if tree_flatten(layer.trainable_parameters())]
        inside = sum(len(tree_flatten(self.model.layers[index].trainable_parameters())) for index in adapted)
        names = [name for name, _ in tree_flatten(self.model.trainable_parameters())]
        outside = len(names) - inside - sum("lm_head." in name for name in names)
        return adapted[0] if adapted and not outside else 0


def _layer_lists(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the modules and attributes that hold the model's layers, in the order of ``model.layers``."""
    place = {id(layer): index for index, layer in enumerate(model.layers)}
    lists = {
        place[id(value[0])]: (module, name)
        for module in model.modules()
        for name, value in module.items()
        if isinstance(value, list) and value and all(id(item) in place for item in value)
    }
    return [lists[start] for start in sorted(lists)]


def all_close(actual: mx.array, expected: mx.array) -> bool:
    return bool(mx.allclose(expected, actual, rtol=1e-2, atol=1e-2 * magnitude(expected)).item())


def plain_attention(model: nn.Module) -> bool:
    """Whether every layer attends to all earlier positions. A sliding window would pass a short trial but differ on a long row."""
    return all(type(cache) is KVCache for cache in make_prompt_cache(model))
