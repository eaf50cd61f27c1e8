"""One adapter as the library knows it: what it is, where it comes from, and whether it was proved to help."""

from __future__ import annotations

import calendar
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mlxtune.adapters.layout import LINEAGE, Layout, read_config, read_layout
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.contract import FORMS
from mlxtune.evaluation.gate import reservation
from mlxtune.evaluation.report import Rate, Report
from mlxtune.evaluation.verdict import HEADLINE
from mlxtune.recipe.parent import CONFIG, WEIGHTS


@dataclass(frozen=True)
class Score:
    """What an evaluation found: ``before`` are the rates of the arm that the verdict is over, ``after`` those of the adapter.

    ``reservation`` says why an adapter that is better is not to be promoted all the same; it is empty where nothing stands against it.
    ``folder`` is the evaluation; ``None`` where the adapter's maker told it and nothing here can verify it.
    """

    word: str
    verdict: str
    rows: int
    made: str
    rival: str
    before: tuple[Rate, ...]
    after: tuple[Rate, ...]
    folder: Path | None = None
    reservation: str = ""

    def rate(self, metric: str = HEADLINE) -> tuple[Rate, Rate] | None:
        """The rates of one metric, before and after; ``None`` where it was not measured."""
        found = [next((rate for rate in side if rate.metric == metric), None) for side in (self.before, self.after)]
        return (found[0], found[1]) if found[0] and found[1] else None


@dataclass(frozen=True)
class Parent:
    """The adapter that training went on from: its folder then, the hash of its weights, and the run that made it."""

    folder: str
    sha256: str
    run: str


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter of the workspace. ``key`` is its folder as seen from the workspace; it never changes, whatever the ``name``.

    ``base_hash`` identifies the weights that it belongs to; it is empty where they are not known. ``system`` is the system prompt that
    all of its rows begin with, if they do. ``run``, ``recipe_hash`` and
    ``data_hash`` are empty for what was not made here. ``created`` is in seconds since the epoch, ``size`` in bytes. ``origin`` says
    where it came from: a run, a folder, or a repository of the hub. ``problem`` says why it cannot be used; then all that is read
    from its files is empty.
    """

    name: str
    key: str
    folder: Path
    base: str = ""
    base_hash: str = ""
    kind: str = ""
    rank: int = 0
    scale: float = 0.0
    targets: tuple[str, ...] = ()
    layers: int = 0
    parameters: int = 0
    size: int = 0
    created: float = 0.0
    method: str = ""
    run: str = ""
    recipe_hash: str = ""
    data_hash: str = ""
    system: str = ""
    origin: str = ""
    parent: Parent | None = None
    tags: tuple[str, ...] = ()
    score: Score | None = None
    problem: str = ""

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def sha256(self) -> str:
        """Hex sha256 of its weights, which is read for it."""
        return sha256_file(self.weights)


def read_entry(folder: Path, key: str, name: str, tags: tuple[str, ...], score: Score | None) -> AdapterEntry:
    """The adapter in ``folder``; one that cannot be read is an entry with a ``problem``, never an error."""
    told = lineage(folder)
    try:
        found = _layout(folder, *(_stamp(folder / file) for file in (WEIGHTS, CONFIG)))
    except MlxtuneError as error:
        return AdapterEntry(name, key, folder, created=_created(told, folder), tags=tags, problem=error.message)
    return AdapterEntry(
        name, key, folder,
        base=_text(told, "base") or found.base, base_hash=_text(told, "base_fingerprint"), kind=found.kind, rank=found.rank,
        scale=found.scale, targets=found.keys, layers=len(found.layers), parameters=found.parameters, size=found.size,
        created=_created(told, folder), method=_text(told, "method"), run=_text(told, "run"), recipe_hash=_text(told, "recipe_hash"),
        data_hash=_text(told, "data_hash"), system=_text(told, "system"), origin=_text(told, "origin"), parent=_parent(told), tags=tags,
        score=score or told_score(told),
    )  # fmt: skip


def lineage(folder: Path) -> dict[str, Any]:
    """What ``mlxtune.json`` says; empty where there is none, or none that can be read."""
    try:
        return read_config(folder / LINEAGE)
    except MlxtuneError:
        return {}


def data_hash(record: Mapping[str, Any]) -> str:
    """Identifies the rows of a run by its ``data.json``, wherever they lay: hex sha256 of what trained, validated, was held out."""
    shares = {
        "train": [row["id"] for row in record["train"]], "valid": list(record["valid"]), "test": list(record["test"]),
    }  # fmt: skip
    return sha256_json({share: sorted(ids) for share, ids in shares.items()})


def score(report: Report, folder: Path | None = None) -> Score | None:
    """What ``report`` says of the adapter that it measured; ``None`` when it measured none."""
    headline = report.headline
    if headline is None:
        return None
    by_name = {arm.arm: arm for arm in report.arms}
    before, after = (
        tuple(rate for rate in by_name[name].rates if rate.metric not in FORMS) for name in (headline.first, headline.second)
    )
    rows = int(report.facts.get("rows", headline.paired.total))
    return Score(
        headline.word,
        report.verdict,
        rows,
        str(report.facts.get("made", "")),
        headline.first,
        before,
        after,
        folder,
        reservation(report),
    )


def told_score(told: Mapping[str, Any]) -> Score | None:
    """The score that an adapter's maker left in its lineage; ``None`` where there is none of our form."""
    try:
        said = told["evaluation"]
        before, after = (tuple(Rate(**rate) for rate in said[side]) for side in ("before", "after"))
        texts = [said[key] for key in ("word", "verdict", "made", "rival")]
        but = said.get("reservation", "")  # older ones have none
        if not all(isinstance(text, str) for text in (*texts, but)) or not all(_is_rate(rate) for rate in (*before, *after)):
            return None
        return Score(texts[0], texts[1], int(said["rows"]), texts[2], texts[3], before, after, reservation=but)
    except (KeyError, TypeError, ValueError):
        return None


def tell(found: Score) -> dict[str, Any]:
    """``found`` as an adapter's lineage keeps it, for whoever gets the folder alone."""
    return {name: value for name, value in asdict(found).items() if name != "folder"}


def newest_score(evaluations: list[Path], run: str, folder: Path) -> Score | None:
    """The score of the newest of ``evaluations`` (newest first) that measured ``run``, or the adapter in ``folder``."""
    for evaluation in evaluations:
        report = _report(evaluation, _stamp(evaluation / reports.FILE))
        if report is None:
            continue
        measured = (run and report.facts.get("run") == run) or report.facts.get("adapter") == str(folder)
        if measured and (found := score(report, evaluation)):
            return found
    return None


@lru_cache(maxsize=512)
def _report(evaluation: Path, stamp: int) -> Report | None:
    """A report does not change once it is written: ``stamp`` says which writing."""
    try:
        return reports.load(evaluation) if stamp else None
    except MlxtuneError:
        return None


@lru_cache(maxsize=512)
def _layout(folder: Path, weights: int, config: int) -> Layout:
    return read_layout(folder)


def _stamp(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def _created(told: Mapping[str, Any], folder: Path) -> float:
    try:
        moment = time.strptime(_text(told, "made"), "%Y-%m-%dT%H:%M:%S%z")
        return float(calendar.timegm(moment) - (moment.tm_gmtoff or 0))
    except ValueError:
        return _stamp(folder / WEIGHTS) / 1e9


def _parent(told: Mapping[str, Any]) -> Parent | None:
    match told.get("parent"):
        case {"folder": str(folder), "sha256": str(digest), "lineage": dict(own)}:
            return Parent(folder, digest, _text(own, "run"))
    return None


def _text(told: Mapping[str, Any], key: str) -> str:
    value = told.get(key)
    return value if isinstance(value, str) else ""


def _is_rate(rate: Rate) -> bool:
    numbers = (rate.hits, rate.total, rate.low, rate.high)
    return isinstance(rate.metric, str) and all(isinstance(number, int | float) for number in numbers) and rate.total > 0
