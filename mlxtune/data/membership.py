"""Which share each row of a source was put into, and which rows may never train: a file beside the source."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from mlxtune.core.errors import DataError, InputError
from mlxtune.core.files import disk_errors, read_json, write_json
from mlxtune.data.beside import beside
from mlxtune.recipe import DataSection

Share = Literal["train", "valid", "test"]
SHARES: tuple[Share, ...] = get_args(Share)
VERSION = 1


@dataclass(frozen=True)
class Asked:
    """What a split was asked for; another asking is another split."""

    seed: int
    holdout: float
    validation: float
    group_by: str

    @classmethod
    def of(cls, data: DataSection) -> Asked:
        return cls(data.seed, data.holdout, data.validation, data.group_by)


@dataclass(frozen=True)
class Membership:
    """``splits`` has the share of each row and of each question, by hash, for every asking; ``sealed`` has hashes of both."""

    splits: Mapping[Asked, Mapping[str, Share]] = field(default_factory=dict)
    sealed: frozenset[str] = frozenset()


def membership_path(source: Path) -> Path:
    """Where the membership of ``source`` lies: ``support.split.json`` beside ``support.jsonl``."""
    return beside(source, "split.json")


def load(source: Path) -> Membership:
    """What was written down about ``source``. Raises ``DataError`` when the file is broken or another version's."""
    path = membership_path(source)
    if not path.exists():
        return Membership()
    broken = DataError(
        f"{path} is not what mlxtune wrote there.", mend="Restore it: without it, rows that were held out may train."
    )
    try:
        found = read_json(path)
        version = found["v"]
        splits = {Asked(**made["asked"]): {hash: share for share in SHARES for hash in made[share]} for made in found["splits"]}
        known = Membership(splits, frozenset(found["sealed"]))
    except (KeyError, TypeError, InputError) as error:
        raise broken from error
    if version != VERSION:
        raise DataError(f"{path} was written by another version of mlxtune.", mend="Update mlxtune.")
    return known


@contextlib.contextmanager
def changing(source: Path) -> Iterator[None]:
    """Keep others from changing what is written down meanwhile: of a run and an evaluation that end together, neither loses the other's."""
    path = membership_path(source)
    with disk_errors(path.name):
        folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def save(source: Path, known: Membership) -> None:
    """Write ``known`` beside ``source``, atomically. Raises ``MachineError`` where that is not possible."""
    splits: list[dict[str, Any]] = []
    for asked, placed in known.splits.items():
        made: dict[Share, list[str]] = {share: [] for share in SHARES}
        for hash, share in sorted(placed.items()):
            made[share].append(hash)
        splits.append({"asked": vars(asked), **{str(share): hashes for share, hashes in made.items()}})
    write_json(membership_path(source), {"v": VERSION, "sealed": sorted(known.sealed), "splits": splits})
