"""Find areas with too few training rows: failures in an evaluation, rare labels, and unusual texts.

Only training rows are considered. A teacher that writes rows like them never sees a held-out row.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.data import review
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.checks.check_input import CheckInput, target_text
from mlxtune.data.checks.corpus import Corpus, labels
from mlxtune.data.checks.statistics import tag_counts
from mlxtune.data.generate.context import training_rows
from mlxtune.data.groups import OUTLIERS, start_clustering
from mlxtune.data.rows import PromptRow, last_prompt
from mlxtune.evaluation.drilldown import Drilldown, failure_classes
from mlxtune.evaluation.history import evaluations
from mlxtune.recipe import Recipe

_RARE = 0.5  # a label is rare if its number of rows is below this fraction of the mean over all labels
_MIN_FAILURES = 2  # minimum number of rows that fail in the same way
_MAX_OF_A_KIND = 5
_SMALL_CLUSTERS = 2  # number of small clusters to return in addition to the outliers
ThinKind = Literal["failures", "label", "outliers", "cluster"]


@dataclass(frozen=True)
class ThinRows:
    """An area with too few rows."""

    kind: ThinKind
    count: int  # how many rows fail, have the label, resemble no others, or are in the cluster
    examples: tuple[str, ...]  # the IDs of training rows to use as examples
    sample: str  # the prompt of the first one
    name: str = ""  # the class of failure, if they fail alike; the label, as ``key: value``; or what the cluster is about
    total: int = 0  # the number of training rows, for a label


def thin_rows(workspace: Path, recipe: Recipe) -> list[ThinRows]:
    """Return the areas with too few training rows: failures of the newest evaluation, most first, then labels, rarest first.

    Raises ``DataError`` or ``InputError`` if the rows cannot be used for a generation.
    """
    train = {row.id: row for row in training_rows(recipe)}
    return [*_failures(workspace, recipe, train), *_rare_labels(tuple(train.values()))]


def thin_clusters(recipe_file: Path, recipe: Recipe, progress: Callable[[str, float], None]) -> list[ThinRows]:
    """Return the training rows that resemble no others, then those in the smallest clusters.

    Clusters the rows in a child process, which takes a while. Raises as ``StoppableCall.result`` and :func:`thin_rows` do.
    """
    train = {row.hash: row for row in training_rows(recipe)}
    result = start_clustering(recipe_file).result(progress)
    if result is None:
        return []
    with SourceBrowser(recipe.source, recipe.data.format, recipe.data.map) as browser:
        for _ in browser.scan():
            pass
        browser.apply_review(review.load(recipe.source))
        rows = {index: train.get(browser.lazy_row(index).current.hash) for index in result.rows}
    found = []
    clusters = [group for group in reversed(result.groups) if group.kind != OUTLIERS]
    for group in [*(one for one in result.groups if one.kind == OUTLIERS), *clusters[:_SMALL_CLUSTERS]]:
        is_outlier = group.kind == OUTLIERS
        if examples := [row for index in group.rows if (row := rows[index])]:
            found.append(_thin("outliers" if is_outlier else "cluster", len(examples), examples, "" if is_outlier else group.label))
    return found


def _thin(kind: ThinKind, count: int, examples: Sequence[PromptRow], name: str, total: int = 0) -> ThinRows:
    return ThinRows(kind, count, tuple(row.id for row in examples), last_prompt(examples[0]), name, total)


def _failures(workspace: Path, recipe: Recipe, train: Mapping[str, PromptRow]) -> Iterator[ThinRows]:
    """Yield the largest groups of failures in the newest evaluation of the recipe's source, if it has a tuned arm."""
    for evaluation in evaluations(workspace):
        report = evaluation.report
        if report.facts.get("source") != str(recipe.source) or not evaluation.adapter:
            continue
        arm = report.subject.name
        rows = Drilldown(evaluation.run.folder).rows_for(report.answer_metric, arm, passed=False)
        alike = [found for found in failure_classes(rows, arm) if len(found.rows) >= _MIN_FAILURES]
        for found in alike[:_MAX_OF_A_KIND]:
            if examples := [train[one.id] for one in found.nearest if one.id in train]:
                yield _thin("failures", len(found.rows), examples, found.kind)
        return


def _rare_labels(train: tuple[PromptRow, ...]) -> list[ThinRows]:
    """Return the labels, of metadata or JSON answers, that are on less than half as many rows as is usual for their key."""
    corpus = Corpus(train.__getitem__)
    for index, row in enumerate(train):
        corpus.add(CheckInput(index, row), "train")
    usual = {key: (sum(counts.values()) / len(counts), counts) for key, counts in tag_counts(corpus).items()}
    shares = ((count / mean, key, value, count) for key, (mean, counts) in usual.items() for value, count in counts.items())
    rare = [item for item in shares if item[0] < _RARE]
    return [
        _thin("label", count, [row for row in train if _has_label(row, key, value)], f"{key}: {value}", len(train))
        for _, key, value, count in sorted(rare)[:_MAX_OF_A_KIND]
    ]


def _has_label(row: PromptRow, key: str, value: str) -> bool:
    return any(
        name == key and value in map(str, found if isinstance(found, list) else [found])
        for name, found in labels(row, target_text(row))
    )
