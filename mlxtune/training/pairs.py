"""Preference pairs as a step computes them: chosen and rejected in one batch, the prompt once for both.

All prompts of a batch run first, but for their last token, padded on the right; their keys and values are recorded as part of the
graph. Then all chosen completions run behind their prompts, and all rejected ones, from the prompt's last token on: each starts at
the place where its own prompt ends, and a mask hides the padding. The two sides are padded apart, because what is rejected is
seldom as long as what is chosen. The same sums as in whole sequences, in another order, and for a long prompt half of the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.data.batching import Sides, group_pairs, padded
from mlxtune.data.rows import Place
from mlxtune.models.head import magnitude
from mlxtune.models.template import EncodedPair
from mlxtune.recipe import MethodSection
from mlxtune.training import preference
from mlxtune.training.frozen import GROUP_TOKENS, FrozenCache
from mlxtune.training.preference import Scores
from mlxtune.training.stack import Behind, Recorded, Stack, _Stand

PairArrays = dict[str, Any]


@dataclass(frozen=True)
class PairPart:
    """What one lane computes.

    ``prompts`` int32 ``(pairs, prompt)`` without their last tokens, padded on the right, and ``starts`` int32 ``(pairs,)``, how long
    each is; ``None`` where ``inputs`` begin with their prompts. ``inputs`` are two, chosen and rejected: int32 ``(pairs, tokens)``.
    ``positions`` and ``targets`` int32 ``(targets,)`` are a flat list of what is predicted, and from where in both flattened inputs
    one after the other; ``where`` int32 ``(2 pairs, completion)`` says where in that list each token of a completion is, and ``mask``
    float32 of the same shape which are real. ``reference`` float32 ``(2 pairs,)`` holds the reference's log-probabilities, chosen and
    then rejected, 0 where they are not known.
    """

    rows: tuple[int, ...]
    prompts: mx.array | None
    starts: mx.array
    inputs: tuple[mx.array, mx.array]
    positions: mx.array
    targets: mx.array
    where: mx.array
    mask: mx.array
    reference: mx.array


_LISTS = ("starts", "positions", "targets", "where", "mask", "reference")


@dataclass(frozen=True)
class PairBatch:
    """What one pass computes on: a part a lane. ``mean_length`` is the mean length of the step's chosen completions, in tokens."""

    parts: tuple[PairPart, ...]
    counts: dict[int, tuple[int, int]]  # pair -> tokens seen, tokens trained
    mean_length: float

    @property
    def arrays(self) -> PairArrays:
        """What the objective computes on: lists by name, an item a lane."""
        lists: PairArrays = {name: [getattr(part, name) for part in self.parts] for name in _LISTS}
        lists["inputs"] = [list(part.inputs) for part in self.parts]
        lists["prompts"] = [part.prompts for part in self.parts if part.prompts is not None]
        return lists | {"mean_length": mx.array(self.mean_length)}

    @property
    def trained(self) -> int:
        """How many tokens train."""
        return sum(trained for _, trained in self.counts.values())

    @property
    def computed(self) -> int:
        """How many positions are computed, padding included."""
        blocks = [array for part in self.parts for array in (*part.inputs, part.prompts) if array is not None]
        return sum(block.size for block in blocks)


def sides(pairs: Iterable[EncodedPair]) -> list[Sides]:
    """The lengths of each pair, as batches are made by."""
    return [(len(pair.prompt), len(pair.chosen), len(pair.rejected)) for pair in pairs]


def collate(
    pairs: Sequence[EncodedPair], groups: Iterable[Sequence[int]], *, shared: bool, lanes: int = 1, step: Sequence[int] = ()
) -> list[PairBatch]:
    """The batches of one optimizer step: each of ``groups``, which are indices of ``pairs``, dealt out to ``lanes``.

    With ``shared``, prompts are computed once. ``step`` names all pairs of the step where ``groups`` are one host's share of them.
    Reference log-probabilities that are not known yet are 0.
    """
    groups = list(groups)
    every = step or [at for chosen in groups for at in chosen]
    mean = sum(len(pairs[at].chosen) for at in every) / max(1, len(every))
    batches = []
    for chosen in groups:
        dealt = [chosen[lane::lanes] for lane in range(min(lanes, len(chosen)))]
        counts = {at: (len(pairs[at].tokens), int(pairs[at].trained.sum())) for at in chosen}
        batches.append(PairBatch(tuple(_part(pairs, part, shared) for part in dealt), counts, mean))
    return batches


def _part(pairs: Sequence[EncodedPair], chosen: Sequence[int], shared: bool) -> PairPart:
    some = [pairs[at] for at in chosen]
    prompts, sides = [pair.prompt for pair in some], ([pair.chosen for pair in some], [pair.rejected for pair in some])
    before = [prompt[-1:] if shared else prompt for prompt in prompts]
    inputs = [_rows([np.concatenate([start, answer[:-1]]) for start, answer in zip(before, side, strict=True)]) for side in sides]
    answers = [*sides[0], *sides[1]]
    lengths = np.array([len(answer) for answer in answers])
    real = np.arange(padded(int(lengths.max()))) < lengths[:, None]
    first = np.concatenate([np.arange(len(some)) * side.shape[1] for side in inputs])  # of each row in the flattened inputs
    first[len(some) :] += inputs[0].size
    first += np.array([len(start) - 1 for start in before * 2])
    count = int(real.sum())
    positions, targets = np.zeros(padded(count), np.int32), np.zeros(padded(count), np.int32)
    positions[:count], targets[:count] = (first[:, None] + np.arange(real.shape[1]))[real], np.concatenate(answers)
    where = np.zeros(real.shape, np.int32)
    where[real] = np.arange(count)
    known = np.array([pair.reference or (0.0, 0.0) for pair in some], np.float32)
    return PairPart(
        tuple(chosen),
        mx.array(_rows([prompt[:-1] for prompt in prompts])) if shared else None,
        mx.array(np.array([len(prompt) - 1 for prompt in prompts], np.int32)),
        (mx.array(inputs[0]), mx.array(inputs[1])),
        mx.array(positions), mx.array(targets), mx.array(where), mx.array(real.astype(np.float32)), mx.array(known.T.flatten()),
    )  # fmt: skip


def _rows(rows: Sequence[Any]) -> Any:
    """``rows`` of tokens as one array, padded on the right."""
    out = np.zeros((len(rows), padded(max(map(len, rows)))), np.int32)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out


class Beside(Behind):
    """A layer's cache in the pass over completions: row i sees prompt i, then itself.

    ``keys`` and ``values`` are ``(pairs, heads, prompt, width)``; ``starts`` ``(pairs,)`` says how much of each is not padding.
    """

    def __init__(self, keys: mx.array, values: mx.array, starts: mx.array) -> None:
        self.keys, self.values = keys, values
        self.offset: Any = starts  # rope takes one for each row as well as one for all

    def make_mask(self, length: int, **_: Any) -> Any:
        """Bool ``(pairs, 1, length, prompt + length)``."""
        prompt = mx.arange(self.keys.shape[2]) < self.offset[:, None, None, None]
        own = mx.arange(length) <= mx.arange(length)[:, None]
        shape = (self.offset.shape[0], 1, length)
        parts = [mx.broadcast_to(prompt, (*shape, prompt.shape[-1])), mx.broadcast_to(own, (*shape, length))]
        return mx.concatenate(parts, axis=-1)


class _Placed(_Stand):
    """A layer that checkpointing gives a plain cache, made anew from keys and values: gives it the places back."""

    def __init__(self, layer: Any, starts: mx.array) -> None:
        super().__init__(layer)
        self.starts = starts

    def __call__(self, x: mx.array, *args: Any, **kwargs: Any) -> Any:
        def placed(item: Any) -> Any:
            return Beside(item.keys, item.values, self.starts) if type(item) is Behind else item

        return self.layer(x, *map(placed, args), **{name: placed(item) for name, item in kwargs.items()})


@contextmanager
def _places(stack: Stack, starts: mx.array) -> Iterator[None]:
    if not stack.checkpointed:
        yield
        return
    backbone: Any = stack.split.backbone
    layers = backbone["layers"]
    try:
        backbone["layers"] = [_Placed(layer, starts) for layer in layers]
        yield
    finally:
        backbone["layers"] = layers


def _hidden(
    stack: Stack,
    prompts: mx.array | None,
    starts: mx.array,
    inputs: Sequence[mx.array],
    entering: Any = (),
    until: int | None = None,
) -> list[mx.array]:
    """Hidden states of ``prompts``, if they run apart, and of both ``inputs``.

    ``entering`` is what enters the first adapted layer of the three, where that is known; ``until`` stops before that layer.
    """
    if prompts is None:
        return [stack.hidden(side, until=until) for side in inputs]
    asked, *answered = entering or (None, None, None)
    start, end = stack.first if entering else 0, stack.depth if until is None else until
    recorded = [Recorded() for _ in range(start, end)]
    hidden = [stack._run(prompts, recorded, start, until, asked)]
    if inputs[0].shape == inputs[1].shape:  # as wide as each other: one block of twice as many rows is quicker than two
        known = mx.concatenate([side for side in answered if side is not None]) if entering else None
        return [
            *hidden,
            *mx.split(_behind(stack, recorded, starts, mx.concatenate(list(inputs)), known, start, until, twice=True), 2),
        ]
    return hidden + [
        _behind(stack, recorded, starts, side, known, start, until) for side, known in zip(inputs, answered, strict=True)
    ]


def _behind(
    stack: Stack,
    recorded: Sequence[Recorded],
    starts: mx.array,
    rows: mx.array,
    entering: mx.array | None,
    start: int,
    until: int | None,
    *,
    twice: bool = False,
) -> mx.array:
    """Hidden states of ``rows``, each behind its prompt; ``twice``: behind the prompts comes a second round of them."""
    times = 2 if twice else 1
    places = mx.concatenate([starts] * times)
    held = [[mx.concatenate([array] * times) for array in (cache.keys, cache.values)] for cache in recorded]
    behind = [Beside(keys, values, places) for keys, values in held]
    with _places(stack, places):
        return stack._run(rows, behind, start, until, entering)


def logps(stack: Stack, arrays: PairArrays, lane: int) -> mx.array:
    """Log-probabilities of whole completions of a part: float32 ``(2 pairs,)``, chosen and then rejected. Lazy, and differentiable.

    ``arrays`` is ``PairBatch.arrays`` and ``entering``: nothing, or of each part what :meth:`PairCache.entering` gives.
    """
    prompts = arrays["prompts"][lane] if arrays["prompts"] else None
    entering = arrays["entering"][lane] if arrays["entering"] else ()
    *_, chosen, rejected = _hidden(stack, prompts, arrays["starts"][lane], arrays["inputs"][lane], entering)
    hidden = mx.concatenate([side.reshape(-1, side.shape[-1]) for side in (chosen, rejected)])[arrays["positions"][lane]]
    each = stack.split.logp(hidden, arrays["targets"][lane]).astype(mx.float32)
    return (each[arrays["where"][lane]] * arrays["mask"][lane]).sum(axis=1)


def loss_sum(stack: Stack, arrays: PairArrays, by: MethodSection) -> tuple[mx.array, mx.array]:
    """The loss of ``by`` summed over the pairs of a batch, a scalar, and the metrics of ``by`` summed likewise, ``(metrics,)``.

    ``arrays`` is as in :func:`logps`. Sums and not means: the caller divides by the pairs of the whole optimizer step.
    """
    losses, metrics = [], []
    for lane in range(len(arrays["inputs"])):
        with stack.lanes(lane):
            chosen, rejected = mx.split(logps(stack, arrays, lane), 2)
            ref_chosen, ref_rejected = mx.split(arrays["reference"][lane], 2)
            lengths = mx.split(arrays["mask"][lane].sum(axis=1), 2)
            scores = Scores(chosen, rejected, ref_chosen, ref_rejected, lengths[0], lengths[1], arrays["mean_length"])
            losses.append(preference.loss(scores, by).sum())
            metrics.append(preference.measure(scores, by))
    return mx.stack(losses).sum(), mx.stack(metrics).sum(axis=0)


def can_share(stack: Stack) -> bool:
    """Whether sharing prompts gives this architecture's own log-probabilities: plain attention only, tried on three small pairs."""
    model = stack.model
    if not all(type(cache) is KVCache for cache in make_prompt_cache(model)):
        return False  # a sliding window agrees on a short trial and differs on a long row
    prompts, answers = ([1, 5, 2, 9, 4, 7], [3, 8, 6], [11]), ([4, 2], [7, 7, 1, 9, 3])
    trial = [_trial(prompt, *answers) for prompt in prompts]
    training = model.training
    try:
        model.eval()
        ways = [collate(trial, [[0, 1, 2]], shared=shared)[0].arrays | {"entering": []} for shared in (False, True)]
        plain, other = (logps(stack, arrays, 0) for arrays in ways)
        return bool(mx.allclose(plain, other, rtol=1e-2, atol=1e-2 * magnitude(plain)).item())
    except Exception:
        return False  # caches and layers differ in ways that only running them tells
    finally:
        model.train(training)


def _trial(*tokens: list[int]) -> EncodedPair:
    prompt, chosen, rejected = (np.array(part, np.int32) for part in tokens)
    return EncodedPair("trial", Place(Path("trial"), 0), prompt, chosen, rejected, (len(chosen), len(rejected)))


class PairCache(FrozenCache):
    """What enters the first adapted layer, kept per pair over epochs; for shared prompts only."""

    def __init__(self, stack: Stack, pairs: Sequence[EncodedPair], *, budget: int, folder: Path) -> None:
        super().__init__(stack, [], 0, budget=budget, folder=folder)
        self.pairs = pairs
        self.groups = group_pairs(sides(pairs), range(len(pairs)), shared=True, batch_tokens=GROUP_TOKENS, batch_size=0)
        self._group = {at: number for number, some in enumerate(self.groups) for at in some}
        self._computed: set[int] = set()

    def entering(self, batch: Any) -> list[Any]:
        """Of each part of the ``PairBatch`` three arrays: ``(pairs, prompt, width)``, and ``(pairs, tokens, width)`` of each side."""
        for number in sorted({self._group[at] for part in batch.parts for at in part.rows} - self._computed):
            self._compute(number)
        found = []
        for part in batch.parts:
            blocks = (part.prompts, *part.inputs)
            found.append([self._gather(_keys(part.rows, side), block.shape[1]) for side, block in enumerate(blocks)])
        return found

    def _compute(self, number: int) -> None:
        stack, lanes = self.stack, self.stack.lanes
        (batch,) = collate(self.pairs, [self.groups[number]], shared=True, lanes=lanes.count)
        lanes.share(len(batch.parts))
        made = []
        for lane, part in enumerate(batch.parts):
            with lanes(lane):
                made.append(_hidden(stack, part.prompts, part.starts, part.inputs, until=stack.first))
        mx.eval(made)
        for part, hidden in zip(batch.parts, made, strict=True):
            for side, block in enumerate(hidden):
                self._hold(block, _keys(part.rows, side))
        self._computed.add(number)

    def _hold(self, hidden: mx.array, keys: Sequence[int]) -> None:
        self._used += hidden.nbytes
        block = len(self._held)
        self._held[block] = hidden if self._used <= self.budget else self._spill(hidden)
        self._where.update({key: (block, line) for line, key in enumerate(keys)})


def _keys(pairs: Sequence[int], side: int) -> list[int]:
    """Names of what a cache keeps of each pair: 0 for its prompt, 1 for chosen, 2 for rejected."""
    return [3 * at + side for at in pairs]
