"""What the last check of a source came to, kept in mlxtune's home folder: known at once, for as long as its files stay as they are."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home, read_json, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.data.source import files

_VERSION = 1


@dataclass(frozen=True)
class Outcome:
    """``word`` is ``blocked``, ``look`` or ``clean``; ``rows`` could be read, and ``found`` of them have a finding that counts."""

    word: str
    sentence: str
    rows: int
    found: int


def keep(source: Path, outcome: Outcome) -> None:
    """Keep ``outcome`` for the next time. It is a convenience: a disk that takes nothing is no harm."""
    with suppress(MlxtuneError, OSError):
        write_json(_file(source), {"v": _VERSION, "files": _stamps(source), "outcome": asdict(outcome)})


def last(source: Path) -> Outcome | None:
    """What the last check found, or ``None`` when there was none, or a file of ``source`` has changed since."""
    try:
        kept = read_json(_file(source))
        fresh = kept["v"] == _VERSION and kept["files"] == _stamps(source)
        return Outcome(**kept["outcome"]) if fresh else None
    except (MlxtuneError, OSError, KeyError, TypeError):
        return None


def _stamps(source: Path) -> list[list[object]]:
    """Name, time and size of each file."""
    found = [(file, file.stat()) for file in files(source).values()]
    return [[str(file.resolve()), stat.st_mtime_ns, stat.st_size] for file, stat in found]


def _file(source: Path) -> Path:
    return home() / "checks" / f"{sha256_json(str(source.resolve()))[:16]}.json"
