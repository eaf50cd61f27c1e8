"""The content hashes of a source's rows by number: which rows have one is found without looking at every row again."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from mlxtune.data.scan import Numbers

_TAIL = 4096  # rows that are looked through sooner than sorted


class Hashes:
    """Filled by one thread from the first row on, and asked by any: ``end`` is how many rows are there for who asks."""

    def __init__(self, count: int) -> None:
        self._words = np.zeros((count, 4), np.uint64)  # 0 where there is no row
        self._sorted = (np.zeros(0, np.int64), np.zeros(0, np.uint64))  # the first rows by their first word, and those words

    def put(self, at: int, hash: str) -> None:
        """Row ``at``, after all that were put before, has ``hash``."""
        self._words[at] = np.frombuffer(bytes.fromhex(hash), ">u8")
        first = len(self._sorted[0])
        if at + 1 - first > max(_TAIL, first // 4):
            self.sort(at + 1)

    def sort(self, end: int) -> None:
        """Look no row of the first ``end`` through any more."""
        order = np.argsort(self._words[:end, 0], kind="stable")
        self._sorted = (order, self._words[order, 0])

    def of(self, at: int) -> str:
        """What row ``at`` has."""
        hash: str = self._words[at].astype(">u8").tobytes().hex()
        return hash

    def rows(self, hash: str, end: int) -> Numbers:
        """Those of the first ``end`` rows that have ``hash``, in their order."""
        words = np.frombuffer(bytes.fromhex(hash), ">u8").astype(np.uint64)
        order, firsts = self._sorted
        low, high = np.searchsorted(firsts, words[0], "left"), np.searchsorted(firsts, words[0], "right")
        tail = len(order) + np.flatnonzero(self._words[len(order) : end, 0] == words[0])
        found = np.concatenate([order[low:high], tail])
        same: Numbers = found[(found < end) & (self._words[found] == words).all(axis=1)]
        return same

    def among(self, hashes: Iterable[str], end: int) -> Numbers:
        """Those of the first ``end`` rows that may have one of ``hashes``."""
        wanted = np.array([int(hash[:16], 16) for hash in hashes], np.uint64)
        found: Numbers = np.flatnonzero(np.isin(self._words[:end, 0], wanted))
        return found

    def starting(self, digits: str, end: int) -> list[int]:
        """Those of the first ``end`` rows whose hash begins with ``digits``, at most 16 of which count."""
        low, high = (np.uint64(int(digits[:16].ljust(16, fill), 16)) for fill in "0f")
        first = self._words[:end, 0]
        return [int(at) for at in np.flatnonzero((first >= low) & (first <= high))]
