from __future__ import annotations

import json
import os

import pytest
from measured import BAD, GOOD, measured

from mlxtune.core.errors import InputError
from mlxtune.evaluation import report
from mlxtune.evaluation.drill import Drill


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)


def test_behind_every_number_of_a_report_stand_as_many_rows(tmp_path):
    for pairs in (False, True):
        folder = measured(tmp_path / str(pairs), pairs=pairs) if (tmp_path / str(pairs)).mkdir() is None else None
        made, rows = report.load(folder), Drill(folder)
        assert set(rows.metrics) == {rate.metric for rate in made.arms[0].rates}
        for arm in made.arms:
            for rate in arm.rates:
                assert len(rows.behind(rate.metric, arm.arm)) == rate.total
                assert len(rows.behind(rate.metric, arm.arm, holds=True)) == rate.hits
                for kind, count in rate.failures.items():
                    assert len(rows.behind(rate.metric, arm.arm, kind=kind)) == count
        for item in made.comparisons:
            for cell in ("both", "broken", "fixed", "neither"):
                assert len(rows.square(item.metric, item.first, item.second, cell)) == getattr(item.paired, cell)


def test_a_row_has_all_that_was_said_and_where_it_fails(tmp_path):
    folder = measured(tmp_path, base=[GOOD, BAD], tuned=['{"reply": "Go to Northpeak"}', GOOD])
    rows = Drill(folder)
    [row] = rows.square("contract", "base", "tuned", "broken")
    assert (row.asked.line, row.asked.reference, row.said["base"].output) == (1, GOOD, GOOD)
    assert row.scores["tuned"].kind == "forbidden"
    assert row.said["tuned"].output[slice(*rows.span(row, "contract", "tuned"))] == "Northpeak"
    assert rows.span(row, "contract", "base") is None
    assert [near.line for near in row.linked.near] == [11, 3, 5]  # two share the thing, the last what was done
    [fixed] = rows.square("contract", "base", "tuned", "fixed")
    assert fixed.linked is None  # the last arm does not fail it
    assert rows.arms == ("base", "tuned")


def test_what_is_not_there_is_named(tmp_path):
    folder = measured(tmp_path)
    rows = Drill(folder)
    with pytest.raises(InputError, match="no metric jsson") as caught:
        rows.behind("jsson", "base")
    assert "json" in caught.value.mend
    with pytest.raises(InputError, match="no arm tunned"):
        rows.square("json", "base", "tunned", "fixed")
    outputs = folder / "outputs.jsonl"
    outputs.write_text("".join(outputs.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match="the answers of base"):
        Drill(folder)


def test_links_that_are_none_are_an_input_error(tmp_path):
    folder = measured(tmp_path)
    (folder / "nearest.jsonl").write_text(json.dumps({"id": "a", "near": [{"line": 1}], "reviewed": []}) + "\n")
    with pytest.raises(InputError, match="not links"):
        Drill(folder)
