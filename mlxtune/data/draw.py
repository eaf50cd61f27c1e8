"""Into which share each group of rows goes: where it was put before, else a seeded draw, stratified where there are tags."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mlxtune.core.hashing import unit_interval
from mlxtune.data.membership import Share


@dataclass(frozen=True)
class Item:
    """A row as a draw sees it: its group, the name that the group may draw by, its tag, and its share if that is known."""

    label: int
    name: str
    tag: str
    share: Share | None


def draw(items: Sequence[Item], wanted: Mapping[Share, float], seed: int) -> list[Share | None]:
    """The share of each item; ``None`` for a new one whose group stands in several shares already.

    ``wanted`` has what the test and the valid share are asked to be of all. Each group draws a number in [0, 1) from ``seed`` and
    its smallest name. Without a tag (that of the item with the smallest name), a number below ``wanted["test"]`` means test, and
    one in the stretch behind it that is as long as ``wanted["valid"]`` means valid: no other group has a say. With a tag, a group
    waits in the order of the numbers until its tag's shares are full; what rounding leaves over passes on to the next tag in the
    alphabet, so that many small tags add up. A group of more than twice a share's size never goes there.
    """
    groups: defaultdict[int, list[Item]] = defaultdict(list)
    for item in items:
        groups[item.label].append(item)
    chosen: dict[int, Share | None] = {}
    strata: defaultdict[str, list[tuple[float, int]]] = defaultdict(list)
    for label, members in groups.items():
        known = {item.share for item in members} - {None}
        if known:
            chosen[label] = known.pop() if len(known) == 1 else None
            continue
        first = min(members, key=lambda item: (item.name, item.tag))
        number = unit_interval(seed, first.name)
        if first.tag:
            strata[first.tag].append((number, label))
        else:
            chosen[label] = _drawn(number, len(members), len(items), wanted)
    sizes = {label: len(members) for label, members in groups.items()}
    chosen |= _stratified(strata, sizes, Counter((item.tag, item.share) for item in items if item.share and item.tag), wanted)
    return [item.share or chosen[item.label] for item in items]


def _drawn(number: float, size: int, total: int, wanted: Mapping[Share, float]) -> Share:
    start = 0.0
    for share in ("test", "valid"):
        if start <= number < start + wanted[share]:
            return share if size == 1 or size <= 2 * wanted[share] * total else "train"
        start += wanted[share]
    return "train"


def _stratified(
    strata: Mapping[str, Iterable[tuple[float, int]]],
    sizes: Mapping[int, int],
    known: Mapping[tuple[str, Share], int],
    wanted: Mapping[Share, float],
) -> dict[int, Share]:
    """The share of each group of each stratum, ``(number, label)``; ``known`` counts the items that have theirs."""
    chosen: dict[int, Share] = {}
    over = dict.fromkeys(wanted, 0.0)
    for tag, waiting in sorted(strata.items()):
        total = sum(sizes[label] for _, label in waiting) + sum(count for (of, _), count in known.items() if of == tag)
        room = {share: over[share] + part * total - known.get((tag, share), 0) for share, part in wanted.items()}
        for _, label in sorted(waiting):
            share: Share = next((name for name in ("test", "valid") if wanted[name] and 2 * room[name] >= sizes[label]), "train")
            chosen[label] = share
            if share != "train":
                room[share] -= sizes[label]
        over = {share: max(-1.0, min(1.0, left)) for share, left in room.items()}
    return chosen
