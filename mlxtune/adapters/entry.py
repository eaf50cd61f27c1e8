"""An adapter in the library: its properties, origin and evaluation score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, get_args

from mlxtune.adapters.layout import LINEAGE, read_config, read_layout
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import FileStamp, file_stamp
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.core.json_fields import from_json
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.report import Caveat, EvaluationReport, Rate, promotion_caveat
from mlxtune.evaluation.scorers.registry import FORMS
from mlxtune.evaluation.verdict import Verdict
from mlxtune.recipe import Recipe
from mlxtune.recipe.parent import CONFIG, WEIGHTS
from mlxtune.recipe.schema import Thinking, is_date


@dataclass(frozen=True)
class AdapterScore:
    outcome: str
    verdict: Verdict
    rows: int
    made: str
    rival: str
    before: tuple[Rate, ...]  # rates of the strongest arm without training
    after: tuple[Rate, ...]  # rates of the adapter
    # of the evaluation; None if the score comes from the adapter's lineage and is unverified
    folder: Path | None = field(default=None, metadata={"key": None})
    caveat: Caveat | None = None  # why a better adapter should still not be promoted
    arm: str = TUNED  # how it was evaluated: alone, or with a prompt or a grammar

    @property
    def label(self) -> str:
        """The outcome, or ``not_recommended`` if there is a caveat."""
        return "not_recommended" if self.caveat else self.outcome

    @property
    def changes(self) -> list[tuple[Rate, Rate]]:
        """The rates before and after training of each metric, the whole contract last. Metrics of the answers' form are omitted."""
        before = {rate.metric: rate for rate in self.before}
        return [(before[rate.metric], rate) for rate in self.after if rate.metric in before and rate.metric not in FORMS]


@dataclass(frozen=True)
class ParentAdapter:
    """The adapter that training started from: its folder at that time, the hash of its weights, and its run."""

    folder: str
    sha256: str
    run: str


@dataclass(frozen=True)
class AdapterEntry:
    """An adapter in the workspace. Unknown values are empty."""

    name: str
    key: str  # its folder relative to the workspace, which never changes, unlike the name
    folder: Path
    base: str = ""
    base_hash: str = ""  # identifies the base's weights
    kind: str = ""
    rank: int = 0
    scale: float = 0.0
    targets: tuple[str, ...] = ()
    layers: int = 0
    parameters: int = 0
    size: int = 0  # bytes
    created: float = 0.0  # seconds since the epoch
    method: str = ""
    run: str = ""
    step: int = 0  # the training step whose weights it has
    recipe_hash: str = ""
    data_hash: str = ""
    system: str = ""  # the system prompt shared by all of its training rows
    thinking: Thinking = "off"  # this and the next two are the settings with which these rows were rendered
    date: str = ""
    template: str = ""  # Jinja source, if it is not the base's own
    origin: str = ""  # the folder or Hub repository of an imported adapter
    parent: ParentAdapter | None = None
    tags: tuple[str, ...] = ()
    score: AdapterScore | None = None
    problem: str = ""  # the error that prevents its use; everything read from its files is then empty

    @property
    def workspace(self) -> Path:
        return self.folder.parents[len(Path(self.key).parts) - 1]

    @property
    def is_from_run(self) -> bool:
        """Whether a run of the workspace trained it; otherwise it was imported."""
        return self.key.startswith("runs/")

    @property
    def stem(self) -> str:
        """The name as part of the names of files and recipes."""
        return self.name.replace("@", "-")

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def sha256(self) -> str:
        return sha256_file(self.weights)


def read_entry(folder: Path, key: str, name: str, tags: tuple[str, ...], score: AdapterScore | None) -> AdapterEntry:
    """Return the adapter in ``folder``. If it is unreadable, set ``problem`` instead of raising an error."""
    lineage = read_lineage(folder)
    text = partial(_text, lineage)
    try:
        entry = _layout_entry(folder, *(file_stamp(folder / file) for file in (WEIGHTS, CONFIG)))
    except MlxtuneError as error:
        return AdapterEntry(name, key, folder, created=_created(lineage, folder), tags=tags, problem=error.message)
    mode: Any = lineage.get("thinking")
    return replace(
        entry, name=name, key=key, base=text("base") or entry.base, base_hash=text("base_fingerprint"),
        created=_created(lineage, folder), method=text("method"), run=text("run"), step=adapter_step(lineage), recipe_hash=text("recipe_hash"),
        data_hash=text("data_hash"), system=text("system"), thinking=mode if mode in get_args(Thinking) else "off",
        date=text("date") if is_date(text("date")) else "", template=text("template"), origin=text("origin"), parent=_parent(lineage), tags=tags,
        score=score or score_from_lineage(lineage),
    )  # fmt: skip


def with_template_settings(recipe: Recipe, entry: AdapterEntry) -> Recipe:
    """Return ``recipe`` with the thinking mode and the date of ``entry``, where it has only the defaults."""
    thinking = entry.thinking if recipe.model.thinking == "off" else recipe.model.thinking
    date = recipe.data.date or entry.date
    return replace(recipe, model=replace(recipe.model, thinking=thinking), data=replace(recipe.data, date=date))


def read_lineage(folder: Path) -> dict[str, Any]:
    """Return the contents of ``mlxtune.json``; empty if it is missing or unreadable."""
    try:
        return read_config(folder / LINEAGE)
    except MlxtuneError:
        return {}


def adapter_step(lineage: Mapping[str, Any]) -> int:
    """Return the training step whose weights the adapter with this ``lineage`` has; 0 if that is unknown."""
    step = lineage.get("steps")
    return step if isinstance(step, int) else 0


def data_hash(record: Mapping[str, Any]) -> str:
    """Return a hash of the rows of a run's ``data.json``, independent of the location of the data."""
    splits = {"train": [row["id"] for row in record["train"]], "valid": record["valid"], "test": record["test"]}
    return sha256_json({name: sorted(ids) for name, ids in splits.items()})


def score_from_report(report: EvaluationReport, folder: Path | None = None) -> AdapterScore | None:
    """Return the score of the adapter evaluated in ``report``, or ``None`` if there was none."""
    headline = report.headline
    if headline is None:
        return None
    rates = {arm.name: tuple(rate for rate in arm.rates if rate.metric not in FORMS) for arm in report.arms}
    before, after = rates[headline.first], rates[headline.second]
    rows = int(report.facts.get("rows", headline.paired.total))
    made = str(report.facts.get("made", ""))
    return AdapterScore(
        report.outcome, report.verdict, rows, made, headline.first, before, after, folder, promotion_caveat(report), headline.second
    )  # fmt: skip


def score_from_lineage(lineage: Mapping[str, Any]) -> AdapterScore | None:
    """Return the score recorded by an adapter's author, or ``None`` if there is no valid score."""
    try:
        score = from_json(AdapterScore, lineage["evaluation"])
    except (KeyError, TypeError, ValueError):
        return None
    return score if all(rate.total > 0 for rate in (*score.before, *score.after)) else None


@lru_cache(maxsize=512)
def _layout_entry(folder: Path, _weights: FileStamp | None, _config: FileStamp | None) -> AdapterEntry:
    """Return an entry with what the weights and the configuration tell, which are read again when they change."""
    layout = read_layout(folder)
    return AdapterEntry(
        "", "", folder, base=layout.base, kind=layout.kind, rank=layout.rank, scale=layout.scale, targets=layout.keys,
        layers=len(layout.layers), parameters=layout.parameters, size=layout.size,
    )  # fmt: skip


def _created(lineage: Mapping[str, Any], folder: Path) -> float:
    try:
        return datetime.strptime(_text(lineage, "made"), "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except ValueError:
        stamp = file_stamp(folder / WEIGHTS)
        return stamp[0] / 1e9 if stamp else 0.0


def _parent(lineage: Mapping[str, Any]) -> ParentAdapter | None:
    match lineage.get("parent"):
        case {"folder": str(folder), "sha256": str(digest), "lineage": dict(own)}:
            return ParentAdapter(folder, digest, _text(own, "run"))
    return None


def _text(lineage: Mapping[str, Any], key: str) -> str:
    value = lineage.get(key)
    return value if isinstance(value, str) else ""
