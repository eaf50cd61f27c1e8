"""Find near-duplicate texts with an exact set-similarity join over character 5-grams.

Two texts are near-duplicates if the Jaccard similarity of their shingles reaches a threshold. Nothing is sampled: candidates come
from the prefix filter (Bayardo et al. 2007, "Scaling Up All Pairs Similarity Search") and are pruned by the positional filter (Xiao
et al. 2008, "Efficient Similarity Joins for Near Duplicate Detection") and the distance between parity bitmaps (Sandes et al. 2020,
"Bitmap filter"). These only drop pairs that cannot reach the threshold; the others are compared shingle by shingle. There are no
false positives, and a pair is missed only if two of its shingles share a 44-bit hash.
"""

from __future__ import annotations

import itertools
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from mlxtune.core.sequences import grouped

Array = np.ndarray[Any, np.dtype[Any]]
Pair = tuple[int, int, float]

THRESHOLD = 0.8  # Jaccard similarity of near-duplicates
STRICTER_THRESHOLDS = (0.9, 0.95, 0.99, 1.0)  # for texts made from one template
TEMPLATE_SHARE = 0.25  # a group of near-duplicates with a larger share of all rows comes from a template
_MIN_TEMPLATE_ROWS = 16  # a group of at most this many rows does not count as a template

_SHINGLE = 5  # characters
_BITS = 1024  # in a text's parity bitmap
_MAX_BUCKETS = 1 << 21  # buckets in which shingles are counted, to find rare ones
_BATCH_TEXTS, _BATCH_CHARACTERS = 1 << 11, 1 << 17  # hashed in one batch
_BATCH_POSTINGS = 1 << 17  # sorted in one batch
_BATCH_PAIRS = 1 << 16  # filtered in one batch
_SLACK = 1e-9  # without it, a rounding error that lifts a bound over an integer would lose a pair


def normalize_text(text: str) -> str:
    """Return ``text`` case-folded, with single spaces."""
    return " ".join(text.casefold().split())


def shingles(folded: str) -> frozenset[str]:
    """Return every run of five characters in ``folded``, or the whole text if it is shorter."""
    return frozenset([folded[start : start + _SHINGLE] for start in range(max(1, len(folded) - _SHINGLE + 1))])


def jaccard(one: str, two: str) -> float:
    """Return the Jaccard similarity of two texts' shingles, from 0 to 1."""
    return similarity(shingles(normalize_text(one)), shingles(normalize_text(two)))


def similarity(one: frozenset[str], two: frozenset[str]) -> float:
    """Return the Jaccard similarity of two sets of shingles."""
    shared = len(one & two)
    return shared / (len(one) + len(two) - shared)


def links(texts: Sequence[str], threshold: float = THRESHOLD) -> list[Pair]:
    """Return near-duplicate pairs ``(i, j, similarity)``, ``i < j``, in order, that connect all near-duplicates.

    There are always fewer links than texts. A copy of an earlier text is linked to the first one.
    """
    corpus = _FoldedTexts(texts)
    _, indices = np.unique(corpus.distinct, return_index=True)
    first: list[int] = indices.tolist()
    found = [(first[text], index, 1.0) for index, text in enumerate(corpus.distinct.tolist()) if first[text] != index]
    groups = _UnionFind(len(first))
    for one, two in _candidates(corpus, threshold, groups):
        while len(one):  # in rounds with one pair per group, after which most others are redundant
            _, tried = np.unique(groups.of[two], return_index=True)
            pairs = zip(one[tried].tolist(), two[tried].tolist(), strict=True)
            for a, b, similarity in _verify(corpus.folded, pairs, threshold):
                if groups.join(a, b):
                    found.append((min(first[a], first[b]), max(first[a], first[b]), similarity))
            groups.settle()
            one, two = np.delete(one, tried), np.delete(two, tried)
            apart = groups.of[one] != groups.of[two]
            one, two = one[apart], two[apart]
    return sorted(found)


def near_duplicate_links(texts: Sequence[str], weights: Counter[int] | None = None) -> list[Pair]:
    """Return links between near-duplicates, like :func:`links`; ``weights`` counts the rows that each text stands for.

    Near-duplicates have a similarity of at least 0.8. If that connects more than a quarter of all rows, they come from one template,
    and the threshold among them rises to 0.9, 0.95, 0.99 or 1.0 until no such group is left. A template has more than 16 rows.
    """
    found = links(texts, THRESHOLD)
    total = len(texts) if weights is None else weights.total()
    for threshold in STRICTER_THRESHOLDS:
        labels = components(len(texts), found)
        sizes = Counter(labels) if weights is None else Counter[int]()
        for index, count in (weights or {}).items():
            sizes[labels[index]] += count
        templates = {label for label, count in sizes.items() if count > max(TEMPLATE_SHARE * total, _MIN_TEMPLATE_ROWS)}
        members = grouped((label, index) for index, label in enumerate(labels) if label in templates)
        if all(len(indices) == 1 for indices in members.values()):
            break
        found = [pair for pair in found if labels[pair[0]] not in templates]
        for indices in members.values():
            stricter = links([texts[index] for index in indices], threshold)
            found += [(indices[i], indices[j], similarity) for i, j, similarity in stricter]
    return found


def components(n: int, pairs: Iterable[Pair]) -> list[int]:
    """Return a label for each of ``n`` items: the lowest item in its connected component."""
    groups = _UnionFind(n)
    for one, two, _ in pairs:
        groups.join(one, two)
    groups.settle()
    return [int(label) for label in groups.of]


class _UnionFind:
    """Disjoint sets. ``of`` has each item's set, identified by its lowest member, as of the last :meth:`settle`."""

    def __init__(self, n: int) -> None:
        self._parent = array("i", range(n))
        self.of: Array = np.frombuffer(self._parent, np.intc)  # the same memory

    def join(self, one: int, two: int) -> bool:
        """Merge the sets of two items, and return whether they were different."""
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


def _verify(folded: Sequence[str], pairs: Iterable[tuple[int, int]], threshold: float) -> Iterator[Pair]:
    shingles_of = lru_cache(400)(lambda text: shingles(folded[text]))
    for one, two in pairs:
        if (share := similarity(shingles_of(one), shingles_of(two))) >= threshold:
            yield one, two, share


class _FoldedTexts:
    """The distinct folded texts in ascending order of their number of shingles; ``distinct`` maps each input text to one.

    ``frequency`` is, per bucket of shingles, the logarithm of the number of texts with a shingle in it, in steps of 1/170.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        numbers: dict[str, int] = {}
        distinct = array("i")
        for text in texts:
            folded = normalize_text(text)
            distinct.append(numbers.setdefault(text if folded == text else folded, len(numbers)))
        folded_texts = list(numbers)
        del numbers
        buckets = min(_MAX_BUCKETS, 1 << sum(map(len, folded_texts)).bit_length())
        counts = np.zeros(buckets, np.int32)
        sizes = np.zeros(len(folded_texts), np.int64)
        for start, stop in _chunks(folded_texts):
            owner, token = _hash_shingles(folded_texts[start:stop])
            sizes[start:stop] = np.bincount(owner, minlength=stop - start)
            np.add.at(counts, (token & np.uint64(buckets - 1)).astype(np.intp), np.int32(1))  # other types are 20 times slower
        order = np.argsort(sizes, kind="stable")
        self.folded = [folded_texts[index] for index in order]
        self.sizes = sizes[order]
        rank = np.empty(len(order), np.int32)
        rank[order] = np.arange(len(order))
        self.distinct: Array = rank[np.frombuffer(distinct, np.intc)]
        logs = (170 * np.log2(np.maximum(np.arange(1 << 16), 1))).astype(np.uint16)
        self.frequency: Array = logs[np.minimum(counts, len(logs) - 1, out=counts)]


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield ranges of ``texts`` with a bounded number of texts and of characters, except for a single long text."""
    start = characters = 0
    for index, text in enumerate(texts):
        if index > start and (characters + len(text) > _BATCH_CHARACTERS or index - start == _BATCH_TEXTS):
            yield start, index
            start, characters = index, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)


def _hash_shingles(texts: Sequence[str]) -> tuple[Array, Array]:
    """Return the distinct shingles of each text as ``(text, 44-bit hash)`` arrays, sorted."""
    padded = [text.ljust(_SHINGLE, "\0") for text in texts]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    runs = np.array([len(text) - _SHINGLE + 1 for text in padded])
    owner = np.repeat(np.arange(len(texts), dtype=np.uint64), runs)
    start = np.arange(len(owner)) + (_SHINGLE - 1) * owner.astype(np.int64)
    token = codes[start]
    for step in range(1, _SHINGLE):
        token = token * np.uint64(0x9E3779B97F4A7C15) + codes[start + step]
    token ^= token >> np.uint64(29)
    token *= np.uint64(0xBF58476D1CE4E5B9)  # from splitmix64
    keys = np.sort(owner << np.uint64(44) | token >> np.uint64(20))
    keys = keys[np.flatnonzero(np.diff(keys, prepend=~keys[:1]))]
    return (keys >> np.uint64(44)).astype(np.int64), keys & np.uint64((1 << 44) - 1)


@dataclass(frozen=True)
class _PrefixIndex:
    """Each text's rarest shingles (its prefix), one of which every near-duplicate must share, and the parity bitmaps.

    ``tokens[starts[text] : starts[text + 1]]`` is the prefix of a text. ``bitmaps``, ``(texts, _BITS / 64)``, have the parity of its
    number of shingles per bit.
    """

    starts: Array
    tokens: Array
    bitmaps: Array

    @classmethod
    def build(cls, corpus: _FoldedTexts, threshold: float) -> _PrefixIndex:
        sizes = corpus.sizes
        length = sizes - np.ceil(threshold * sizes - _SLACK).astype(np.int64) + 1
        starts = np.concatenate([[0], np.cumsum(length)])
        tokens = np.empty(starts[-1], np.uint32)
        bitmaps = np.empty((len(sizes), _BITS // 64), np.uint64)
        for start, stop in _chunks(corpus.folded):
            owner, token = _hash_shingles(corpus.folded[start:stop])
            bit = owner * _BITS + (token >> np.uint64(24)).astype(np.int64) % _BITS
            odd = np.bincount(bit, minlength=(stop - start) * _BITS) & 1
            bitmaps[start:stop] = np.packbits(odd.astype(bool)).view(np.uint64).reshape(stop - start, -1)
            token &= np.uint64(0xFFFFFFFF)
            frequency = corpus.frequency[token & np.uint64(len(corpus.frequency) - 1)].astype(np.uint64)
            token = np.sort(owner.astype(np.uint64) << np.uint64(44) | frequency << np.uint64(32) | token)
            rank = np.arange(len(owner)) - (np.cumsum(sizes[start:stop]) - sizes[start:stop])[owner]
            tokens[starts[start] : starts[stop]] = token[rank < length[start:stop][owner]] & np.uint64(0xFFFFFFFF)
        return cls(starts, tokens, bitmaps)

    def postings(self) -> Iterator[tuple[Array, Array, Array]]:
        """Yield arrays of text, rank in its prefix, and token, sorted by token and text. A token is never split between batches."""
        parts = -(-len(self.tokens) // _BATCH_POSTINGS)
        bounds = [(1 << 32) * part // parts for part in range(parts + 1)]
        for low, high in itertools.pairwise(bounds):
            here = np.flatnonzero((self.tokens >= np.uint32(low)) & (self.tokens <= np.uint32(high - 1)))
            here = here[np.argsort(self.tokens[here], kind="stable")]
            text = np.searchsorted(self.starts, here, side="right") - 1
            yield text, here - self.starts[text], self.tokens[here]


def _candidates(corpus: _FoldedTexts, threshold: float, groups: _UnionFind) -> Iterator[tuple[Array, Array]]:
    """Yield batches of pairs from different ``groups`` that may be near-duplicates, as two arrays."""
    if len(corpus.folded) < 2:
        return
    index, sizes = _PrefixIndex.build(corpus, threshold), corpus.sizes
    share = threshold / (1 + threshold)  # minimum size of the intersection, as a fraction of the sum of both sizes
    # the smaller text of a pair needs a shorter prefix
    short = sizes - np.ceil(2 * share * sizes - _SLACK).astype(np.int64) + 1
    smallest = np.searchsorted(sizes, np.ceil(threshold * sizes - _SLACK)).astype(np.uint64)
    for text, rank, token in index.postings():
        keys = token.astype(np.uint64) << np.uint64(32) | text.astype(np.uint64)
        prefix = np.flatnonzero(rank < short[text])
        token = keys & np.uint64(0xFFFFFFFF << 32)
        begin, end = np.searchsorted(keys[prefix], token | smallest[text]), np.searchsorted(keys[prefix], keys)
        for larger, smaller in _expand(begin, end, text, text[prefix], groups):
            smaller = prefix[smaller]
            a, b = text[smaller], text[larger]
            needed = np.ceil(share * (sizes[a] + sizes[b]) - _SLACK)
            may = np.minimum(sizes[a] - rank[smaller], sizes[b] - rank[larger]) >= needed
            may &= groups.of[a] != groups.of[b]
            a, b, needed = a[may], b[may], needed[may]
            # their bitmaps differ in at most as many bits as they differ in shingles
            bits = np.bitwise_count(index.bitmaps[a] ^ index.bitmaps[b]).sum(axis=1, dtype=np.int64)
            near = bits <= sizes[a] + sizes[b] - 2 * needed
            codes = np.unique(a[near] * len(sizes) + b[near])
            yield codes // len(sizes), codes % len(sizes)


def _expand(begin: Array, end: Array, text: Array, prefix_text: Array, groups: _UnionFind) -> Iterator[tuple[Array, Array]]:
    """Yield batches of index pairs: each posting with the prefix postings from its ``begin`` to its ``end``.

    It proceeds in widening strips, nearest in size first, and skips pairs that ``groups`` has merged in the meantime.
    """
    strip = 16
    while True:
        todo = np.flatnonzero(end > begin)
        if len(todo):
            label = groups.of[prefix_text]
            change = np.cumsum(np.diff(label, prepend=label[:1]) != 0)
            last = end[todo] - 1
            together = (change[begin[todo]] == change[last]) & (label[last] == groups.of[text[todo]])
            todo = todo[~together]
        if not len(todo):
            return
        low = np.maximum(begin[todo], end[todo] - strip)
        count = end[todo] - low
        total = np.cumsum(count)
        cuts = np.searchsorted(total, np.arange(_BATCH_PAIRS, total[-1] + _BATCH_PAIRS, _BATCH_PAIRS), side="left") + 1
        start = 0
        for stop in cuts:
            run = count[start:stop]
            larger = np.repeat(todo[start:stop], run)
            yield larger, np.arange(len(larger)) + np.repeat(low[start:stop] - (np.cumsum(run) - run), run)
            start = stop
        end = begin.copy()
        end[todo] = low
        strip *= 4
