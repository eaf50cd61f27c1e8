"""Two annotators decide on the same rows: the newest decision counts, both are kept, and undo restores them."""

import json
from pathlib import Path

import pytest
from keyed_rows import with_keys

from mlxtune.data.review import Decision, ReviewSession, judgments, load
from mlxtune.data.source import read_file
from mlxtune.evaluation.statistics.agreement import agreements
from mlxtune.present.review import agreement_fact

FIRST, SECOND = "aaxxs", "axaxa"  # accept, reject, skip, by row


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "shop.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q {number}", "completion": "a"}) + "\n" for number in range(5)))
    return path


def judge(source: Path, who: str, letters: str) -> None:
    actions = {"a": "accept", "x": "reject", "s": "skip"}
    with ReviewSession(source, who=who) as session:
        for keyed, letter in zip(with_keys(read_file(source)), letters, strict=True):
            session.decide(actions[letter], [keyed])  # type: ignore[arg-type]


def decisions(source: Path) -> list[Decision]:
    state = load(source)
    return [state.decision(key) for key, _ in with_keys(read_file(source))]


def test_both_decisions_are_kept_and_the_newest_counts(source: Path) -> None:
    judge(source, "ada", FIRST)
    judge(source, "ben", SECOND)
    found = decisions(source)
    assert [one.status for one in found] == ["accepted", "rejected", "accepted", "rejected", "accepted"]
    assert [one.is_disputed for one in found] == [False, True, True, False, False]  # a skipped row is not decided
    assert [one.seen_by("ada").status for one in found] == ["accepted", "accepted", "rejected", "rejected", "skipped"]
    assert found[0].seen_by("cid").status == "pending"
    (both,) = judgments(found).values()
    assert both == [("accepted", "accepted"), ("accepted", "rejected"), ("rejected", "accepted"), ("rejected", "rejected")]


def test_agreeing_is_recorded_but_repeating_oneself_is_not(source: Path) -> None:
    judge(source, "ada", "aaaaa")
    judge(source, "ben", "aaaaa")
    with ReviewSession(source, who="ben") as session:
        assert session.decide("accept", list(with_keys(read_file(source)))) is None
        assert len(session.state.steps) == 10
        session.undo()
    assert [len(one.by) for one in decisions(source)] == [2, 2, 2, 2, 1]


def test_kappa_and_why_there_is_none(source: Path) -> None:
    judge(source, "ada", FIRST)
    assert agreements(decisions(source)) == []
    judge(source, "ben", SECOND)
    (found,) = agreements(decisions(source))
    assert (found.names, found.rows, found.same) == (("ada", "ben"), 4, 2)
    assert found.kappa.value == pytest.approx((0.5 - 0.5) / (1 - 0.5))
    assert agreement_fact(found).value.startswith("κ 0.00 (")
    judge(source, "cid", "sssss")
    assert [(one.rows, one.kappa) for one in agreements(decisions(source))[1:]] == [(0, None)] * 2


def test_kappa_is_undefined_if_both_gave_one_decision(source: Path) -> None:
    judge(source, "ada", "aaass")
    judge(source, "ben", "aaaxx")
    (found,) = agreements(decisions(source))
    assert (found.rows, found.kappa) == (3, None)
    assert agreement_fact(found).value == "κ unknown"
