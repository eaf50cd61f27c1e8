"""How a model's layers are run in training: from where, behind what, and what is kept for the backward pass.

A backbone of mlx-lm is a loop over its list of layers. For the time of one call that list is replaced: by the layers above the
frozen ones, entered with hidden states computed before; by layers that keep their input and compute the rest again (gradient
checkpointing, Chen et al. 2016, arXiv:1604.06174). Nothing of the class or the process changes.

What all rows of a batch begin with is computed once: the prefix runs as one sequence, its keys and values are recorded as part of
the graph, and the rows start behind it. Exact, the same sums in another order, but only for plain attention, in which every
position sees all before it: ``can_share`` tells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.models.head import Split, magnitude
from mlxtune.models.lanes import Lanes
from mlxtune.training.dropout import Draws, make_repeatable


class Recorded:
    """A layer's cache in the prefix pass: keeps keys and values ``(1, heads, prefix, width)`` as part of the graph."""

    offset = 0
    keys: mx.array
    values: mx.array

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = keys, values
        return keys, values

    def make_mask(self, length: int, *, return_array: bool = False, **_: Any) -> Any:
        return create_causal_mask(length) if return_array else "causal"


class Behind:
    """A layer's cache in the pass over the rows: each sees the recorded prefix, then itself."""

    def __init__(self, keys: mx.array, values: mx.array) -> None:
        self.keys, self.values = keys, values
        self.offset = keys.shape[2]

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return self._join(self.keys, keys), self._join(self.values, values)

    def make_mask(self, length: int, *, return_array: bool = False, **_: Any) -> Any:
        """No future; MLX aligns ``"causal"`` at the bottom right, so the prefix is visible to every row."""
        return create_causal_mask(length, self.offset) if return_array else "causal"

    def again(self, keys: mx.array, values: mx.array) -> Behind:
        """The same with other arrays in place of its own: a layer that is computed again begins where it began."""
        return Behind(keys, values)

    @staticmethod
    def _join(prefix: mx.array, own: mx.array) -> mx.array:
        return mx.concatenate([mx.broadcast_to(prefix, (own.shape[0], *prefix.shape[1:])), own], axis=2)


class Between(Behind, Recorded):
    """Both at once: sees the recorded prefix, then itself, and keeps the keys and values of all that as part of the graph."""

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        self.keys, self.values = super().update_and_fetch(keys, values)
        return self.keys, self.values

    def again(self, keys: mx.array, values: mx.array) -> Between:
        return Between(keys, values)


class Stack:
    """A model as the loop runs it.

    ``first`` is the lowest layer with an adapter: below it nothing needs a gradient. ``checkpointed`` layers keep only their input.
    """

    def __init__(self, model: nn.Module, split: Split, lanes: Lanes | None = None, *, checkpointed: bool = False) -> None:
        self.model, self.split, self.lanes = model, split, lanes or Lanes(1)
        self.depth = len(model.layers)
        backbone = split.backbone
        self._backbone = backbone if isinstance(backbone, nn.Module) and "layers" in backbone and "norm" in backbone else None
        self.checkpointed = checkpointed and self._backbone is not None
        self.first = self._first()
        self._draws = [make_repeatable(layer) for layer in model.layers] if self.checkpointed else []

    def _first(self) -> int:
        """0 where something below the layers learns too."""
        adapted = [at for at, layer in enumerate(self.model.layers) if tree_flatten(layer.trainable_parameters())]
        inside = sum(len(tree_flatten(self.model.layers[at].trainable_parameters())) for at in adapted)
        names = [name for name, _ in tree_flatten(self.model.trainable_parameters())]
        outside = len(names) - inside - sum("lm_head." in name for name in names)
        return adapted[0] if adapted and not outside else 0

    def record(
        self, prefix: mx.array, entering: mx.array | None = None, *, until: int | None = None
    ) -> tuple[list[Recorded], mx.array]:
        """Run ``prefix`` ``(tokens,)`` alone: what each layer recorded, and the hidden states ``(1, tokens, width)`` after layer ``until``."""
        start = 0 if entering is None else self.first
        caches = [Recorded() for _ in range(start, self.depth if until is None else until)]
        return caches, self._run(prefix[None], caches, start, until, entering)

    def hidden(
        self,
        tokens: mx.array,
        recorded: Sequence[Recorded] | None = None,
        entering: mx.array | None = None,
        *,
        until: int | None = None,
    ) -> mx.array:
        """Hidden states ``(rows, tokens, width)`` of ``tokens`` ``(rows, tokens)``, behind the ``recorded`` prefix if there is one.

        ``entering`` ``(rows, tokens, width)`` is what enters the first adapted layer, where that is known already. ``until`` stops
        before that layer, without the final norm.
        """
        start = 0 if entering is None else self.first
        caches = None if recorded is None else [Behind(cache.keys, cache.values) for cache in recorded]
        return self._run(tokens, caches, start, until, entering)

    def logp(self, hidden: mx.array, targets: mx.array) -> mx.array:
        """Log-probabilities ``(positions,)`` of ``targets`` behind ``hidden``; a model that does not train is asked for no gradient."""
        return (self.split.logp if self.model.training else self.split.score)(hidden, targets)

    def _run(
        self, tokens: mx.array, caches: list[Any] | None, start: int, until: int | None, entering: mx.array | None
    ) -> mx.array:
        backbone = self._backbone
        if backbone is None:
            return self.split.backbone(tokens, caches)
        layers, norm = backbone["layers"], backbone["norm"]
        chosen: list[Any] = [
            _Checkpointed(layer, self._draws[at]) if self.checkpointed and at >= self.first else layer
            for at, layer in enumerate(layers[:until])
        ][start:]
        if entering is not None:
            chosen[0] = _Entered(chosen[0], entering)
        try:
            backbone["layers"] = chosen
            if until is not None:
                backbone["norm"] = nn.Identity()
            return self.split.backbone(tokens, caches)
        finally:
            backbone["layers"], backbone["norm"] = layers, norm

    def can_share(self) -> bool:
        """Whether sharing a prefix gives this architecture's own hidden states: plain attention only, tried on a few tokens."""
        if not all(type(cache) is KVCache for cache in make_prompt_cache(self.model)):
            return False  # a sliding window agrees on a short trial and differs on a long row
        tokens = mx.array([[1, 5, 2, 9, 4, 7], [1, 5, 2, 9, 3, 8]])
        return self._agrees(
            lambda: (self.hidden(tokens)[:, 4:], self.hidden(tokens[:, 4:], self.record(tokens[0, :4])[0])),
        )

    def can_enter(self) -> bool:
        """Whether the frozen layers can be run apart from the rest, tried on a few tokens."""
        if not self.first or self._backbone is None:
            return False
        if not all(type(cache) is KVCache for cache in make_prompt_cache(self.model)):
            return False  # layers that differ by their number would be counted wrongly
        tokens = mx.array([[1, 5, 2, 9, 4, 7]])
        return self._agrees(lambda: (self.hidden(tokens), self.hidden(tokens, None, self.hidden(tokens, until=self.first))))

    @staticmethod
    def _agrees(both: Any) -> bool:
        try:
            plain, other = both()
            return bool(mx.allclose(plain, other, rtol=1e-2, atol=1e-2 * magnitude(plain)).item())
        except Exception:
            return False  # caches and layers differ in ways that only running them tells


class _Stand:
    """Stands in for a layer in the list: what the backbone asks of it, the layer answers."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layer, name)


class _Entered(_Stand):
    """The first layer of a shortened list: takes the hidden states it was given, whatever comes from the embedding."""

    def __init__(self, layer: Any, entering: mx.array) -> None:
        super().__init__(layer)
        self.entering = entering

    def __call__(self, _: mx.array, *args: Any, **kwargs: Any) -> Any:
        return self.layer(self.entering, *args, **kwargs)


class _Checkpointed(_Stand):
    """A layer of which only the input is kept.

    Parameters, input and recorded keys and values are arguments, since only of arguments is there a gradient. The layer is called
    again for the backward pass, with dropout from the same key; not before its slope is there, and its gradients are done before
    the slope goes on to the layer below. ``mx.checkpoint`` leaves both open, and MLX, which looks ahead, would hold many layers.
    """

    def __init__(self, layer: Any, draws: Draws) -> None:
        super().__init__(layer)
        self.draws = draws

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> mx.array:
        layer, draws = self.layer, self.draws
        key = mx.random.randint(0, 2**31 - 1, (2,)).astype(mx.uint32)
        cache = next((item for item in (*args, *kwargs.values()) if isinstance(item, Recorded | Behind)), None)
        names, parameters = zip(*tree_flatten(layer.trainable_parameters()), strict=True)
        held = [cache.keys, cache.values] if isinstance(cache, Behind) else []

        def call(*arrays: mx.array) -> list[mx.array]:
            x, *rest = arrays
            own = cache.again(*rest[:2]) if isinstance(cache, Behind) else Recorded() if cache is not None else None

            def swap(item: Any) -> Any:
                return own if cache is not None and item is cache else item

            layer.update(tree_unflatten(list(zip(names, rest[len(held) :], strict=True))))
            draws.key = key
            out = layer(x, *map(swap, args), **{name: swap(item) for name, item in kwargs.items()})
            return [out, own.keys, own.values] if isinstance(own, Recorded) else [out]

        def back(primals: Any, slopes: Any, outputs: Any) -> Any:
            _, (slope, *rest) = mx.vjp(call, mx.depends(list(primals), list(slopes)), list(slopes))
            return [*mx.depends([slope], rest), *rest]

        kept: Any = mx.custom_function(call)
        kept.vjp(back)
        out, *recorded = kept(x, *held, *parameters)
        if isinstance(cache, Recorded):
            cache.keys, cache.values = recorded
        return out
