"""Which texts say nearly the same: an exact set-similarity join over character 5-grams.

Two texts are twins when the Jaccard similarity of their shingles reaches a threshold. Nothing is sampled: candidates come from the
prefix filter (Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search"), are thinned by the positional filter (Xiao et al. 2008,
"Efficient Similarity Joins for Near Duplicate Detection") and by the distance of parity bitmaps (Sandes et al. 2020, "Bitmap filter"),
all of which only drop pairs that cannot reach the threshold; what is left is compared shingle by shingle. So no pair is reported that
is no twin. One could be missed only where two different shingles of its texts share a 44-bit hash.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[int, int, float]

LENGTH = 5  # characters of a shingle
_BITS, _WIDE = 256, 2048  # of a text's parity bitmap, and of a long text's
_BUCKETS = 1 << 21  # at most, in which shingles are counted: rare ones come first
_TEXTS, _CHARACTERS = 1 << 11, 1 << 17  # hashed at once
_POSTINGS = 1 << 17  # sorted at once
_PAIRS = 1 << 16  # looked at at once
_SLACK = 1e-9  # a bound that a rounding error lifts over a whole number would lose a pair


def fold(text: str) -> str:
    """``text`` without what copies may differ in: case, and how much white space."""
    return " ".join(text.casefold().split())


def shingles(text: str) -> frozenset[str]:
    """Every run of five characters in the folded ``text``; all of it where it is shorter."""
    return _shingles(fold(text))


def _shingles(folded: str) -> frozenset[str]:
    return frozenset([folded[at : at + LENGTH] for at in range(max(1, len(folded) - LENGTH + 1))])


def jaccard(one: str, two: str) -> float:
    """The share of both texts' shingles that stand in both, from 0 to 1."""
    return _jaccard(shingles(one), shingles(two))


def twins(texts: Sequence[str], threshold: float = 0.8) -> list[Pair]:
    """Every pair ``(i, j, similarity)`` with ``i < j`` and a similarity of at least ``threshold``, in order."""
    corpus = _Corpus(texts)
    copies = corpus.copies()
    found = [(i, j, 1.0) for same in copies for at, i in enumerate(same) for j in same[at + 1 :]]
    seen: set[tuple[int, int]] = set()
    for one, two in _candidates(corpus, threshold, None):
        new = set(zip(one.tolist(), two.tolist(), strict=True)) - seen
        seen |= new
        for a, b, alike in _verified(corpus.folded, new, threshold):
            found += [(min(i, j), max(i, j), alike) for i in copies[a] for j in copies[b]]
    return sorted(found)


def links(texts: Sequence[str], threshold: float = 0.8) -> list[Pair]:
    """Twins that connect whatever :func:`twins` connects: fewer pairs than texts, however many twins there are.

    A copy of an earlier text is linked to the first one.
    """
    corpus = _Corpus(texts)
    _, at = np.unique(corpus.which, return_index=True)
    first: list[int] = at.tolist()
    found = [(first[text], index, 1.0) for index, text in enumerate(corpus.which.tolist()) if first[text] != index]
    groups = _Groups(len(first))
    for one, two in _candidates(corpus, threshold, groups):
        while len(one):  # in rounds, each with one pair of a group: after it most others are needless
            _, tried = np.unique(groups.of[two], return_index=True)
            for a, b, alike in _verified(corpus.folded, zip(one[tried].tolist(), two[tried].tolist(), strict=True), threshold):
                if groups.join(a, b):
                    found.append((min(first[a], first[b]), max(first[a], first[b]), alike))
            groups.settle()
            one, two = np.delete(one, tried), np.delete(two, tried)
            apart = groups.of[one] != groups.of[two]
            one, two = one[apart], two[apart]
    return sorted(found)


def components(n: int, pairs: Iterable[Pair]) -> list[int]:
    """A label for each of ``n`` items: the lowest of those that ``pairs`` connect it with, or itself."""
    groups = _Groups(n)
    for one, two, _ in pairs:
        groups.join(one, two)
    groups.settle()
    return [int(label) for label in groups.of]


class _Groups:
    """A union-find. ``of`` is each item's group, named after its lowest member, as of the last :meth:`settle`."""

    def __init__(self, n: int) -> None:
        self._parent = array("i", range(n))
        self.of: Array = np.frombuffer(self._parent, np.intc)  # the same memory

    def join(self, one: int, two: int) -> bool:
        """Put two items' groups together; whether they were apart."""
        one, two = self._root(one), self._root(two)
        self._parent[max(one, two)] = min(one, two)
        return one != two

    def settle(self) -> None:
        while not np.array_equal(above := self.of[self.of], self.of):
            self.of[:] = above

    def _root(self, item: int) -> int:
        while self._parent[item] != item:
            self._parent[item] = item = self._parent[self._parent[item]]
        return item


def _verified(folded: Sequence[str], pairs: Iterable[tuple[int, int]], threshold: float) -> Iterator[Pair]:
    """Those of ``pairs`` that are twins."""
    known: dict[int, frozenset[str]] = {}
    for one, two in pairs:
        if len(known) > 400:
            known.clear()
        for at in (one, two):
            if at not in known:
                known[at] = _shingles(folded[at])
        alike = _jaccard(known[one], known[two])
        if alike >= threshold:
            yield one, two, alike


def _jaccard(one: frozenset[str], two: frozenset[str]) -> float:
    shared = len(one & two)
    return shared / (len(one) + len(two) - shared)


class _Corpus:
    """The different texts among some, folded, in the order of how many shingles they have; ``which`` says which one each text is.

    ``common`` says of each bucket of shingles how many texts have one in it, as the logarithm in steps of a 170th.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        which = array("i")
        for text in texts:
            folded = fold(text)
            which.append(numbers.setdefault(text if folded == text else folded, len(numbers)))
        folded_texts = list(numbers)
        del numbers
        buckets = min(_BUCKETS, 1 << sum(map(len, folded_texts)).bit_length())
        counts = np.zeros(buckets, np.int32)
        sizes = np.zeros(len(folded_texts), np.int64)
        for start, stop in _chunks(folded_texts):
            owner, token = _hashed(folded_texts[start:stop])
            sizes[start:stop] = np.bincount(owner, minlength=stop - start)
            np.add.at(counts, token & np.uint64(buckets - 1), 1)
        order = np.argsort(sizes, kind="stable")
        self.folded = [folded_texts[at] for at in order]
        self.sizes = sizes[order]
        place = np.empty(len(order), np.int32)
        place[order] = np.arange(len(order))
        self.which: Array = place[np.frombuffer(which, np.intc)]
        logs = (170 * np.log2(np.maximum(np.arange(1 << 16), 1))).astype(np.uint16)
        self.common: Array = logs[np.minimum(counts, len(logs) - 1, out=counts)]

    def copies(self) -> list[list[int]]:
        """The indices that have each text."""
        found: list[list[int]] = [[] for _ in self.folded]
        for index, at in enumerate(self.which.tolist()):
            found[at].append(index)
        return found


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Ranges of ``texts`` of a bounded number of texts and, but for a single long one, of characters."""
    start = held = 0
    for at, text in enumerate(texts):
        if at > start and (held + len(text) > _CHARACTERS or at - start == _TEXTS):
            yield start, at
            start, held = at, 0
        held += len(text)
    if start < len(texts):
        yield start, len(texts)


def _hashed(texts: Sequence[str]) -> tuple[Array, Array]:
    """The different shingles of all ``texts``, as 44-bit hashes in order, and whose they are."""
    padded = [text.ljust(LENGTH, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    runs = np.array([len(text) - LENGTH + 1 for text in padded])
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), runs)
    at = np.arange(len(owner)) + (LENGTH - 1) * owner.astype(np.int64)
    token = codes[at]
    for step in range(1, LENGTH):
        token = token * np.uint64(0x9E3779B97F4A7C15) + codes[at + step]
    token ^= token >> np.uint64(29)
    token *= np.uint64(0xBF58476D1CE4E5B9)  # of splitmix64
    keys = np.sort(owner << np.uint64(44) | token >> np.uint64(20))
    keys = keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))]
    return (keys >> np.uint64(44)).astype(np.int64), keys & np.uint64((1 << 44) - 1)


def _bitmaps(owner: Array, token: Array, texts: int, bits: int) -> Array:
    """For each of ``texts`` the parity of how many of its shingles fall on each of ``bits``: ``(texts, bits / 64)``."""
    place = owner * bits + (token >> np.uint64(24)).astype(np.int64) % bits
    odd = np.bincount(place, minlength=texts * bits) & 1
    return np.packbits(odd.astype(bool)).view(np.uint64).reshape(texts, -1)


def _apart(bitmaps: Array, one: Array, two: Array) -> Array:
    """A lower bound of how many shingles only one text of each pair has."""
    apart: Array = np.bitwise_count(bitmaps[one] ^ bitmaps[two]).sum(axis=1, dtype=np.int64)
    return apart


@dataclass(frozen=True)
class _Index:
    """Each text's rarest shingles, one of which every twin must share, from ``starts[text]`` to ``starts[text + 1]``; and bitmaps.

    ``wide`` has those of the last texts, the ones with more than ``_BITS`` shingles, of which ``bitmaps`` tell little.
    """

    starts: Array
    tokens: Array
    bitmaps: Array
    wide: Array

    @classmethod
    def of(cls, corpus: _Corpus, threshold: float) -> _Index:
        sizes = corpus.sizes
        length = sizes - np.ceil(threshold * sizes - _SLACK).astype(np.int64) + 1
        starts = np.concatenate([[0], np.cumsum(length)])
        tokens = np.empty(starts[-1], np.uint32)
        bitmaps = np.empty((len(sizes), _BITS // 64), np.uint64)
        short = int(np.searchsorted(sizes, _BITS, side="right"))
        wide = np.empty((len(sizes) - short, _WIDE // 64), np.uint64)
        for start, stop in _chunks(corpus.folded):
            owner, token = _hashed(corpus.folded[start:stop])
            bitmaps[start:stop] = _bitmaps(owner, token, stop - start, _BITS)
            if stop > short:
                skipped = max(0, short - start)
                late = owner >= skipped
                wide[start + skipped - short : stop - short] = _bitmaps(
                    owner[late] - skipped, token[late], stop - start - skipped, _WIDE
                )
            token &= np.uint64(0xFFFFFFFF)
            rare = corpus.common[token & np.uint64(len(corpus.common) - 1)].astype(np.uint64)
            token = np.sort(owner.astype(np.uint64) << np.uint64(44) | rare << np.uint64(32) | token)
            place = np.arange(len(owner)) - (np.cumsum(sizes[start:stop]) - sizes[start:stop])[owner]
            tokens[starts[start] : starts[stop]] = token[place < length[start:stop][owner]] & np.uint64(0xFFFFFFFF)
        return cls(starts, tokens, bitmaps, wide)

    def may_reach(self, one: Array, two: Array, apart: Array) -> Array:
        """Which pairs' shingles may be as few as ``apart`` apart; of each, ``two`` is not the smaller text."""
        near = _apart(self.bitmaps, one, two) <= apart
        first = len(self.bitmaps) - len(self.wide)
        long = np.flatnonzero(near & (one >= first))
        near[long] = _apart(self.wide, one[long] - first, two[long] - first) <= apart[long]
        return near

    def postings(self) -> Iterator[tuple[Array, Array, Array]]:
        """Text, place in its prefix, and token, sorted by token and text; all postings of a token come together."""
        parts = -(-len(self.tokens) // _POSTINGS)
        bounds = [(1 << 32) * part // parts for part in range(parts + 1)]
        for low, high in itertools.pairwise(bounds):
            here = np.flatnonzero((self.tokens >= np.uint32(low)) & (self.tokens <= np.uint32(high - 1)))
            here = here[np.argsort(self.tokens[here], kind="stable")]
            text = np.searchsorted(self.starts, here, side="right") - 1
            yield text, here - self.starts[text], self.tokens[here]


def _candidates(corpus: _Corpus, threshold: float, groups: _Groups | None) -> Iterator[tuple[Array, Array]]:
    """Pairs that may be twins, as two arrays of indices, in batches; with ``groups``, only those that it has apart."""
    if len(corpus.folded) < 2:
        return
    index, sizes = _Index.of(corpus, threshold), corpus.sizes
    share = threshold / (1 + threshold)  # of both sizes together must be shared
    # of a text that is not the larger one, fewer are enough
    short = sizes - np.ceil(2 * share * sizes - _SLACK).astype(np.int64) + 1
    smallest = np.searchsorted(sizes, np.ceil(threshold * sizes - _SLACK)).astype(np.uint64)
    for text, place, token in index.postings():
        keys = token.astype(np.uint64) << np.uint64(32) | text.astype(np.uint64)
        held = np.flatnonzero(place < short[text])
        token = keys & np.uint64(0xFFFFFFFF << 32)
        begin, end = np.searchsorted(keys[held], token | smallest[text]), np.searchsorted(keys[held], keys)
        for larger, smaller in _expand(begin, end, text, text[held], groups):
            smaller = held[smaller]
            a, b = text[smaller], text[larger]
            needed = np.ceil(share * (sizes[a] + sizes[b]) - _SLACK)
            may = np.minimum(sizes[a] - place[smaller], sizes[b] - place[larger]) >= needed
            if groups is not None:
                may &= groups.of[a] != groups.of[b]
            a, b, needed = a[may], b[may], needed[may]
            near = index.may_reach(a, b, sizes[a] + sizes[b] - 2 * needed)
            codes = np.unique(a[near] * len(sizes) + b[near])
            yield codes // len(sizes), codes % len(sizes)


def _expand(begin: Array, end: Array, text: Array, held: Array, groups: _Groups | None) -> Iterator[tuple[Array, Array]]:
    """For each posting the ones from ``begin`` to ``end`` among those of texts ``held``, as pairs of positions, in batches.

    In strips that widen, nearest in size first; what ``groups`` has put together by then is left out of the next.
    """
    strip = 16
    while True:
        todo = np.flatnonzero(end > begin)
        if groups is not None and len(todo):
            label = groups.of[held]
            change = np.cumsum(np.diff(label, prepend=label[:1]) != 0)
            last = end[todo] - 1
            together = (change[begin[todo]] == change[last]) & (label[last] == groups.of[text[todo]])
            todo = todo[~together]
        if not len(todo):
            return
        low = np.maximum(begin[todo], end[todo] - strip)
        count = end[todo] - low
        total = np.cumsum(count)
        cuts = np.searchsorted(total, np.arange(_PAIRS, total[-1] + _PAIRS, _PAIRS), side="left") + 1
        start = 0
        for stop in cuts:
            run = count[start:stop]
            larger = np.repeat(todo[start:stop], run)
            yield larger, np.arange(len(larger)) + np.repeat(low[start:stop] - (np.cumsum(run) - run), run)
            start = stop
        end = begin.copy()
        end[todo] = low
        strip *= 4
