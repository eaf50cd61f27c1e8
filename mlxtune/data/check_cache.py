"""Cache the verdict of each source's last check until its files change."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import home, read_json, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.review import journal_path
from mlxtune.data.source_files import all_files
from mlxtune.recipe import Recipe

_VERSION = 8
_RULES = (
    *(("model", key) for key in ("base", "template", "thinking")),
    ("method", "kind"),
    *(("evaluation", key) for key in ("schema", "disclaimers", "forbid", "length", "pattern")),
)  # the keys outside [data] that a check depends on


@dataclass(frozen=True)
class CheckOutcome:
    """The verdict of a source's last check: its ``label`` (``blocked``, ``look`` or ``clean``) and its sentence.

    ``flagged`` of the ``rows`` valid rows have a blocking finding or, if there are none, a warning that was not reviewed. ``rules``
    is the :func:`rules_hash` of the recipe of the check. ``changed`` is what has changed since then, so that findings may differ:
    ``review``, ``recipe``, or ``""``.
    """

    label: str
    sentence: str
    rows: int
    flagged: int
    rules: str = ""
    changed: str = ""

    @property
    def doubt(self) -> str:
        """A sentence that says why training should wait, or ``""``."""
        if self.changed == "recipe":
            return "The rows have not been checked since the recipe changed."
        if self.label != "blocked":
            return ""
        return (
            "At the last check, rows had to be fixed or left out. The review has changed since then."
            if self.changed
            else self.sentence
        )

    def for_recipe(self, recipe: Recipe) -> CheckOutcome:
        """Return the outcome as it holds for ``recipe`` now. A check without a recipe holds for any."""
        is_same = not self.rules or self.rules == rules_hash(recipe)
        return self if is_same else replace(self, changed="recipe")


def doubt(recipe: Recipe) -> str:
    """Return why the last check of the recipe's rows says that training should wait, or ``""``."""
    last = load(recipe.source, recipe.data.format, recipe.data.map)
    return last.for_recipe(recipe).doubt if last else ""


def rules_hash(recipe: Recipe) -> str:
    """Return the hash of everything in ``recipe`` that the check of a row depends on, including when its files were written."""
    sections, files = asdict(recipe), (recipe.schema_file, recipe.template_file)
    stamps = [_stamp(file) if file and file.is_file() else None for file in files]
    return sha256_json([sections["data"], stamps, *(sections[section][key] for section, key in _RULES)])


def save(source: Path, outcome: CheckOutcome, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> None:
    """Cache the ``outcome`` of a source that was read in ``format`` and with ``mapping``. Disk errors are ignored."""
    entry = {"v": _VERSION, **_stamps(source), "read": [format, dict(mapping)], "outcome": asdict(outcome)}
    with suppress(MlxtuneError, OSError):
        write_json(_cache_file(source), entry)


def load(source: Path, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> CheckOutcome | None:
    """Return the outcome of the last check, or ``None`` if there was none, or the source has changed or was read differently."""
    try:
        entry = read_json(_cache_file(source))
        stamps = _stamps(source)
        if entry["v"] != _VERSION or entry["files"] != stamps["files"] or entry["read"] != [format, dict(mapping)]:
            return None
        return replace(CheckOutcome(**entry["outcome"]), changed="" if entry["review"] == stamps["review"] else "review")
    except (MlxtuneError, OSError, KeyError, TypeError):
        return None


def _stamps(source: Path) -> dict[str, list[list[Any]]]:
    """Return the path, modification time and size of each of the source's files, and of its review."""
    journal = journal_path(source)
    groups = {"files": list(all_files(source).values()), "review": [journal] if journal.is_file() else []}
    return {name: [_stamp(file) for file in files] for name, files in groups.items()}


def _stamp(file: Path) -> list[Any]:
    stat = file.stat()
    return [str(file.resolve()), stat.st_mtime_ns, stat.st_size]


def _cache_file(source: Path) -> Path:
    return home() / "checks" / f"{sha256_json(str(source.resolve()))[:16]}.json"
