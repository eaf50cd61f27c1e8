"""Preference pairs as a step computes them: chosen and rejected in one batch, and what both begin with once.

What all prompts begin with, a system turn perhaps, runs once as one sequence. Behind it run the stems of a batch, padded on the
right: a stem is a prompt, and what both of its completions begin with, but for the last token of that. Keys and values are recorded
as part of the graph. Then all chosen completions run behind their stems, and all rejected ones, from the stem's last token on: each
starts at the place where its own stem ends, and a mask hides the padding. The two sides are padded apart, because what is rejected
is seldom as long as what is chosen. The same sums as in whole sequences, in another order, and for a long prompt, or an answer that
was corrected near its end, half of the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import KVCache, make_prompt_cache

from mlxtune.data.batching import Sides, group_pairs
from mlxtune.data.rows import Place
from mlxtune.models.head import magnitude
from mlxtune.models.template import EncodedPair, common_prefix
from mlxtune.recipe import MethodSection
from mlxtune.training import preference
from mlxtune.training.batches import WORTH
from mlxtune.training.frozen import GROUP_TOKENS, FrozenCache
from mlxtune.training.pair_part import PairPart, part_of
from mlxtune.training.preference import Scores
from mlxtune.training.stack import Behind, Between, Recorded, Stack

PairArrays = dict[str, Any]


_LISTS = ("starts", "begun", "positions", "targets", "where", "mask", "reference")


@dataclass(frozen=True)
class PairBatch:
    """What one pass computes on: ``prefix`` int32 ``(prefix,)``, which every prompt begins with, or ``None``, and a part a lane.

    ``mean_length`` is the mean length of the step's chosen completions, in tokens.
    """

    prefix: mx.array | None
    parts: tuple[PairPart, ...]
    counts: dict[int, tuple[int, int]]  # pair -> tokens seen, tokens trained
    mean_length: float

    @property
    def arrays(self) -> PairArrays:
        """What the objective computes on: lists by name, an item a lane."""
        lists: PairArrays = {name: [getattr(part, name) for part in self.parts] for name in _LISTS}
        lists["inputs"] = [list(part.inputs) for part in self.parts]
        lists["stems"] = [part.stems for part in self.parts if part.stems is not None]
        lists["prefix"] = [] if self.prefix is None else [self.prefix]
        return lists | {"mean_length": mx.array(self.mean_length)}

    @property
    def trained(self) -> int:
        """How many tokens train."""
        return sum(trained for _, trained in self.counts.values())

    @property
    def computed(self) -> int:
        """How many positions are computed, padding and prefix included."""
        blocks = [self.prefix, *(array for part in self.parts for array in (*part.inputs, part.stems))]
        return sum(block.size for block in blocks if block is not None)


def sides(pairs: Iterable[EncodedPair], prefix: int = 0) -> list[Sides]:
    """The lengths of each pair, as batches are made by; of a stem, what comes behind the ``prefix``."""
    return [
        (len(pair.prompt) + common - prefix, len(pair.chosen) - common, len(pair.rejected) - common)
        for pair, common in ((pair, pair.common) for pair in pairs)
    ]


def shared_prefix(pairs: Sequence[EncodedPair]) -> int:
    """How many tokens all prompts begin with, of each all but the last; 0 when it is too short to be worth a pass of its own."""
    shared = min(common_prefix([pair.prompt.tolist() for pair in pairs]), *(len(pair.prompt) - 1 for pair in pairs))
    return shared if shared >= WORTH and len(pairs) > 1 else 0


def collate(
    pairs: Sequence[EncodedPair],
    groups: Iterable[Sequence[int]],
    *,
    shared: bool,
    prefix: int = 0,
    lanes: int = 1,
    step: Sequence[int] = (),
) -> list[PairBatch]:
    """The batches of one optimizer step: each of ``groups``, which are indices of ``pairs``, dealt out to ``lanes``.

    With ``shared``, stems are computed once, and the ``prefix`` that all of them begin with once for all pairs of a batch. ``step`` names all pairs of the step where ``groups`` are one host's share of them.
    Reference log-probabilities that are not known yet are 0.
    """
    groups = list(groups)
    every = step or [at for chosen in groups for at in chosen]
    mean = sum(len(pairs[at].chosen) for at in every) / max(1, len(every))
    batches = []
    for chosen in groups:
        counts = {at: (len(pairs[at].tokens), int(pairs[at].trained.sum())) for at in chosen}
        common = prefix if shared and len(chosen) > 1 else 0
        beginning = mx.array(pairs[chosen[0]].prompt[:common]) if common else None
        batches.append(PairBatch(beginning, _parts(pairs, chosen, shared, common, lanes), counts, mean))
    return batches


def _parts(pairs: Sequence[EncodedPair], chosen: Sequence[int], shared: bool, prefix: int, lanes: int) -> tuple[PairPart, ...]:
    dealt = [chosen[lane::lanes] for lane in range(min(lanes, len(chosen)))]
    return tuple(part_of(pairs, some, shared, prefix) for some in dealt)


class Beside(Behind):
    """A layer's cache in the pass over completions: row i sees stem i, then itself.

    ``keys`` and ``values`` are ``(pairs, heads, stem, width)``; ``starts`` ``(pairs,)`` says how much of each is not padding.
    """

    def __init__(self, keys: mx.array, values: mx.array, starts: mx.array) -> None:
        self.keys, self.values = keys, values
        self.offset: Any = starts  # rope takes one for each row as well as one for all

    def make_mask(self, length: int, **_: Any) -> Any:
        """Bool ``(pairs, 1, length, stem + length)``."""
        stem = mx.arange(self.keys.shape[2]) < self.offset[:, None, None, None]
        own = mx.arange(length) <= mx.arange(length)[:, None]
        shape = (self.offset.shape[0], 1, length)
        parts = [mx.broadcast_to(stem, (*shape, stem.shape[-1])), mx.broadcast_to(own, (*shape, length))]
        return mx.concatenate(parts, axis=-1)

    def again(self, keys: mx.array, values: mx.array) -> Beside:
        return Beside(keys, values, self.offset)


def _hidden(
    stack: Stack,
    prefix: Sequence[Recorded],
    stems: mx.array | None,
    starts: mx.array,
    inputs: Sequence[mx.array],
    entering: Any = (),
    until: int | None = None,
) -> list[mx.array]:
    """Hidden states of ``stems``, if they run apart, and of each of ``inputs``.

    ``prefix`` is what was recorded of what all prompts begin with, if that runs apart. ``entering`` is what enters the first adapted layer of all of them, where that is known; ``until`` stops before that layer.
    """
    if stems is None:
        return [stack.hidden(side, until=until) for side in inputs]
    asked, *answered = entering or (None,) * (1 + len(inputs))
    start, end = stack.first if entering else 0, stack.depth if until is None else until
    recorded: list[Recorded] = [Between(cache.keys, cache.values) for cache in prefix]
    recorded = recorded or [Recorded() for _ in range(start, end)]
    hidden = [stack._run(stems, recorded, start, until, asked)]
    if len(inputs) == 2 and inputs[0].shape == inputs[1].shape:  # one block of twice as many rows is quicker than two
        known = mx.concatenate([side for side in answered if side is not None]) if entering else None
        both = _behind(stack, recorded, starts, mx.concatenate(list(inputs)), known, start, until, twice=True)
        return [*hidden, *mx.split(both, 2)]
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
    """Hidden states of ``rows``, each behind its stem; ``twice``: behind the stems comes a second round of them."""
    times = 2 if twice else 1
    places = mx.concatenate([starts] * times)
    held = [[mx.concatenate([array] * times) for array in (cache.keys, cache.values)] for cache in recorded]
    behind = [Beside(keys, values, places) for keys, values in held]
    return stack._run(rows, behind, start, until, entering)


def logps(stack: Stack, arrays: PairArrays) -> list[mx.array]:
    """Log-probabilities of whole completions, of each part on its lane: float32 ``(2 pairs,)``, chosen and then rejected.

    Lazy, and differentiable. ``arrays`` is ``PairBatch.arrays`` and ``entering``: nothing, or what :meth:`PairCache.entering` gives.
    """
    found = []
    for lane, states in enumerate(predicting(stack, arrays)):
        with stack.lanes(lane):
            each = stack.logp(states, arrays["targets"][lane]).astype(mx.float32)
            found.append((each[arrays["where"][lane]] * arrays["mask"][lane]).sum(axis=1))
    return found


def predicting(stack: Stack, arrays: PairArrays, sides: int = 2) -> list[mx.array]:
    """The hidden states ``(targets, width)`` that predict the targets of each part.

    With ``sides`` = 1 rejected completions are not run, and states of what they alone say mean nothing. ``arrays`` is as in :func:`logps`.
    """
    entering = list(arrays["entering"])
    prefix: list[Recorded] = []
    if arrays["prefix"]:
        prefix, _ = stack.record(arrays["prefix"][0], entering.pop(0) if entering else None)
    found = []
    for lane, inputs in enumerate(arrays["inputs"]):
        stems = arrays["stems"][lane] if arrays["stems"] else None
        known = entering[lane][: 1 + sides] if entering else ()
        with stack.lanes(lane):
            blocks = _hidden(stack, prefix, stems, arrays["starts"][lane], inputs[:sides], known)
            flat = [block.reshape(-1, block.shape[-1]) for block in blocks]
            own = mx.concatenate(flat[-sides:])
            places = mx.minimum(arrays["positions"][lane], own.shape[0] - 1)
            begun = arrays["begun"][lane]
            found.append(mx.concatenate([flat[0][begun], own[places]]) if begun.size else own[places])
    return found


def loss_sum(stack: Stack, arrays: PairArrays, by: MethodSection) -> tuple[mx.array, mx.array]:
    """The loss of ``by`` summed over the pairs of a batch, a scalar, and the metrics of ``by`` summed likewise, ``(metrics,)``.

    ``arrays`` is as in :func:`logps`. Sums and not means: the caller divides by the pairs of the whole optimizer step.
    """
    losses, metrics = [], []
    for lane, found in enumerate(logps(stack, arrays)):
        with stack.lanes(lane):
            chosen, rejected = mx.split(found, 2)
            ref_chosen, ref_rejected = mx.split(arrays["reference"][lane], 2)
            lengths = mx.split(arrays["mask"][lane].sum(axis=1), 2)
            scores = Scores(chosen, rejected, ref_chosen, ref_rejected, lengths[0], lengths[1], arrays["mean_length"])
            losses.append(preference.loss(scores, by).sum())
            metrics.append(preference.measure(scores, by))
    return mx.stack(losses).sum(), mx.stack(metrics).sum(axis=0)


def groups(pairs: Sequence[EncodedPair], prefix: int, *, shared: bool) -> list[list[int]]:
    """``pairs`` as they are run without a gradient: many together."""
    return group_pairs(
        sides(pairs, prefix), range(len(pairs)), shared=shared, batch_tokens=GROUP_TOKENS, batch_size=0, prefix=prefix
    )


def can_share(stack: Stack) -> bool:
    """Whether sharing prompts gives this architecture's own log-probabilities: plain attention only, tried on three small pairs."""
    model = stack.model
    if not all(type(cache) is KVCache for cache in make_prompt_cache(model)):
        return False  # a sliding window agrees on a short trial and differs on a long row
    prompts, answers = ([1, 5, 2, 9, 4, 7], [1, 5, 6], [1, 5, 3, 8]), ([4, 8, 2], [4, 8, 1, 9, 3])
    trial = [_trial(prompt, *answers) for prompt in prompts]
    training = model.training
    try:
        model.eval()
        ways = [
            collate(trial, [[0, 1, 2]], shared=shared, prefix=prefix)[0] for shared, prefix in ((False, 0), (True, 0), (True, 2))
        ]
        plain, *others = (logps(stack, way.arrays | {"entering": []})[0] for way in ways)
        return all(mx.allclose(plain, other, rtol=1e-2, atol=1e-2 * magnitude(plain)).item() for other in others)
    except Exception:
        return False  # caches and layers differ in ways that only running them tells
    finally:
        model.train(training)


def _trial(*tokens: list[int]) -> EncodedPair:
    prompt, chosen, rejected = (np.array(part, np.int32) for part in tokens)
    return EncodedPair("trial", Place(Path("trial"), 0), prompt, chosen, rejected, (len(chosen), len(rejected)))


class PairCache(FrozenCache):
    """What enters the first adapted layer, kept per pair over epochs; for shared stems only."""

    def __init__(self, stack: Stack, pairs: Sequence[EncodedPair], prefix: int = 0, *, budget: int, folder: Path) -> None:
        super().__init__(stack, [], prefix, budget=budget, folder=folder)
        self.pairs = pairs
        self.groups = groups(pairs, prefix, shared=True)
        self._group = {at: number for number, some in enumerate(self.groups) for at in some}
        self._computed: set[int] = set()

    def entering(self, batch: Any) -> list[Any]:
        """``(1, prefix, width)`` if there is a prefix; then of each part of the ``PairBatch`` three arrays: ``(pairs, stem, width)``,
        and ``(pairs, tokens, width)`` of each side."""
        self._begin(self.pairs[0].prompt)
        for number in sorted({self._group[at] for part in batch.parts for at in part.rows} - self._computed):
            self._compute(number)
        found: list[Any] = [] if batch.prefix is None else [self._shared]
        for part in batch.parts:
            asked = self._gather(_keys(part.rows, 0), part.stems.shape[1])
            if batch.prefix is None and self._shared is not None:
                asked = mx.concatenate([self._shared, asked], axis=1)[:, : part.stems.shape[1]]  # a single pair shares nothing
            sides = [self._gather(_keys(part.rows, side), block.shape[1]) for side, block in enumerate(part.inputs, 1)]
            found.append([asked, *sides])
        return found

    def _compute(self, number: int) -> None:
        stack, lanes = self.stack, self.stack.lanes
        parts = _parts(self.pairs, self.groups[number], True, self.prefix, lanes.count)
        lanes.share(len(parts))
        made = []
        for lane, part in enumerate(parts):
            with lanes(lane):
                made.append(_hidden(stack, self._recorded, part.stems, part.starts, part.inputs, until=stack.first))
        mx.eval(made)
        for part, hidden in zip(parts, made, strict=True):
            for side, block in enumerate(hidden):
                self._hold(block, _keys(part.rows, side))
        self._computed.add(number)

    def _hold(self, hidden: mx.array, keys: Sequence[int]) -> None:
        self._used += hidden.nbytes
        block = len(self._held)
        self._held[block] = hidden if self._used <= self.budget else self._spill(hidden)
        self._where.update({key: (block, line) for line, key in enumerate(keys)})


def _keys(pairs: Sequence[int], side: int) -> list[int]:
    """Names of what a cache keeps of each pair: 0 for its stem, 1 for chosen, 2 for rejected."""
    return [3 * at + side for at in pairs]
