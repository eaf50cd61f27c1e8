"""Cache the verdicts of each source's last checks, one per recipe, until its files change."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import file_stamp, home, read_state, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.data.readers.formats import NO_MAPPING
from mlxtune.data.review import journal_path
from mlxtune.data.source_files import all_files
from mlxtune.recipe import Recipe

_VERSION = 13
_MOST = 8  # cached checks of a source
_RULES = (
    *(("model", key) for key in ("base", "template", "thinking")),
    ("method", "kind"),
    *(("evaluation", key) for key in ("schema", "disclaimers", "forbid", "length", "pattern", "labels")),
)  # the keys outside [data] that a check depends on


@dataclass(frozen=True)
class CheckOutcome:
    outcome: Literal["blocked", "look", "clean"]
    rows: int  # valid ones
    flagged: int  # rows with a blocking finding or, if there are none, with a warning that was not reviewed
    rules: str = ""  # the :func:`rules_hash` of the recipe of the check
    changed: Literal["", "review", "recipe"] = ""  # what has changed since then, so that findings may differ
    invalid_left_out: int = 0  # rejected records that are no rows

    @property
    def needs_attention(self) -> bool:
        """Whether training should wait: rows block it, or they were not checked with this recipe."""
        return self.changed == "recipe" or self.outcome == "blocked"


@dataclass(frozen=True)
class _CachedCheck:
    """An outcome, how the source was read for it (the format and the map), and the stamp of the review's journal."""

    read: tuple[str, dict[str, str]]
    review: tuple[int, ...]
    outcome: CheckOutcome


def outcome_for(recipe: Recipe, checks: Sequence[CheckOutcome]) -> CheckOutcome | None:
    """Return what the ``checks`` of its source, newest first, say about ``recipe`` as it is now. ``None`` if there are none.

    The newest one holds without a recipe, too, unless ``recipe`` has a contract. If none holds, it is the newest one, with ``recipe``
    as what has changed.
    """
    if not checks:
        return None
    rules, newest = rules_hash(recipe), checks[0]
    holds = not newest.rules and not recipe.has_contract
    return next((one for one in checks if one.rules == rules), newest if holds else replace(newest, changed="recipe"))


def last_check(recipe: Recipe) -> CheckOutcome | None:
    """Return what the last check of the recipe's rows says about them now, or ``None`` if they were never checked."""
    return outcome_for(recipe, load(recipe.source, recipe.data.format, recipe.data.map))


def rules_hash(recipe: Recipe) -> str:
    """Return the hash of everything in ``recipe`` that the check of a row depends on, including when its files were written."""
    sections, files = asdict(recipe), (recipe.schema_file, recipe.template_file)
    stamps = [file and file_stamp(file) for file in files]
    return sha256_json([sections["data"], stamps, *(sections[section][key] for section, key in _RULES)])


def save(source: Path, outcome: CheckOutcome, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> None:
    """Cache the ``outcome`` of a source that was read in ``format`` and with ``mapping``. Disk errors are ignored."""
    with suppress(MlxtuneError, OSError):
        files, review = _stamps(source)
        check = _CachedCheck((format, dict(mapping)), review, outcome)
        others = [one for one in _checks(source, files) if (one.read, one.outcome.rules) != (check.read, outcome.rules)]
        write_json(_cache_file(source), {"v": _VERSION, "files": files, "checks": to_json([check, *others][:_MOST])})


def load(source: Path, format: str = "auto", mapping: Mapping[str, str] = NO_MAPPING) -> tuple[CheckOutcome, ...]:
    """Return the outcomes of the last checks of a source as it is now, read in ``format`` and with ``mapping``, newest first."""
    with suppress(MlxtuneError, OSError):
        files, review = _stamps(source)
        return tuple(
            replace(one.outcome, changed="" if one.review == review else "review")
            for one in _checks(source, files)
            if one.read == (format, dict(mapping))
        )
    return ()


def _checks(source: Path, files: list[list[Any]]) -> list[_CachedCheck]:
    """Return the cached checks of a source whose files have these stamps, newest first."""
    with suppress(MlxtuneError, KeyError, TypeError, ValueError):
        entry = read_state(_cache_file(source), _VERSION)
        if entry.get("files") == files:
            return [from_json(_CachedCheck, one) for one in entry["checks"]]
    return []


def _stamps(source: Path) -> tuple[list[list[Any]], tuple[int, ...]]:
    files = [[str(file.resolve()), *(file_stamp(file) or ())] for file in all_files(source).values()]
    return files, (*(file_stamp(journal_path(source)) or ()),)


def _cache_file(source: Path) -> Path:
    return home() / "checks" / f"{sha256_json(str(source.resolve()))[:16]}.json"
