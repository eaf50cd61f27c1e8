"""Failing rows are grouped by their kind of failure and their nearest training rows."""

from __future__ import annotations

from mlxtune.data.rows import Message
from mlxtune.evaluation.drilldown import ScoredRow
from mlxtune.evaluation.evidence import EvaluatedRow, FailureLinks, NearestRow
from mlxtune.evaluation.failure_groups import EVERY_KIND, failure_groups
from mlxtune.evaluation.scorers import Score


def failed(name: str, kind: str, *near: str) -> ScoredRow:
    links = FailureLinks((), tuple(NearestRow(id, "rows.jsonl", 1, "?", 0.5, ()) for id in near))
    row = EvaluatedRow(name, 1, name, None, (Message("user", name),))
    return ScoredRow(row, {}, {"tuned": Score(False, kind)}, links)


def test_rows_that_fail_alike_and_share_a_training_row_are_one_group():
    rows = [
        failed("a", "enum", "1", "2", "9"), failed("b", "enum", "3", "2"), failed("c", "enum", "3", "4"), failed("d", "enum", "7", "8", "1"),
        failed("e", "comma", "1", "2"), failed("f", "comma"),
    ]  # fmt: skip
    groups = failure_groups(rows, "tuned")
    assert [(group.kind, [row.row.id for row in group.rows]) for group in groups] == [
        ("enum", ["a", "b", "c"]), ("enum", ["d"]), ("comma", ["e"]), (EVERY_KIND, ["a", "b", "c", "d", "e"]),
    ]  # fmt: skip
    assert set(groups[0].examples) == {"1", "2", "3", "4", "9"}
    assert groups[0].examples[0] in ("2", "3")
    assert failure_groups(rows[-1:], "tuned") == []
    assert len(failure_groups(rows[:1], "tuned")) == 1
