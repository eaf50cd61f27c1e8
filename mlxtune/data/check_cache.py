"""Cache the verdict of each source's last check until its files change."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home, read_json, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.data.review import journal_path
from mlxtune.data.source_files import all_files

_VERSION = 3


@dataclass(frozen=True)
class CheckOutcome:
    """``label`` is ``blocked``, ``look`` or ``clean``; ``flagged`` of the ``rows`` valid rows have a block or else a warning."""

    label: str
    sentence: str
    rows: int
    flagged: int


def save(source: Path, outcome: CheckOutcome) -> None:
    """Cache ``outcome``. Disk errors are ignored."""
    with suppress(MlxtuneError, OSError):
        write_json(_cache_file(source), {"v": _VERSION, "files": _stamps(source), "outcome": asdict(outcome)})


def load(source: Path) -> CheckOutcome | None:
    """Return the outcome of the last check, or ``None`` if there was none or the source has changed since."""
    try:
        entry = read_json(_cache_file(source))
        is_current = entry["v"] == _VERSION and entry["files"] == _stamps(source)
        return CheckOutcome(**entry["outcome"]) if is_current else None
    except (MlxtuneError, OSError, KeyError, TypeError):
        return None


def _stamps(source: Path) -> list[list[object]]:
    """Return the path, modification time and size of each file, and of the review."""
    journal = journal_path(source)
    stats = [(file, file.stat()) for file in (*all_files(source).values(), *([journal] if journal.is_file() else []))]
    return [[str(file.resolve()), stat.st_mtime_ns, stat.st_size] for file, stat in stats]


def _cache_file(source: Path) -> Path:
    return home() / "checks" / f"{sha256_json(str(source.resolve()))[:16]}.json"
