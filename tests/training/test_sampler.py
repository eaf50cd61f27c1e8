"""A watch on the format: what held before the first step and does not now is said."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mlxtune.data.rows import Message, Place, Preference, Text
from mlxtune.evaluation.contract import Contract
from mlxtune.training import samples
from mlxtune.training.samples import Sampler

ROWS = [Preference(Place("pairs", at), {}, (Message("user", f"Question {at}"),), "good", "bad") for at in range(8)]


def sampler(monkeypatch: pytest.MonkeyPatch, *answers: list[str], contract: Contract | None = None) -> tuple[Sampler, list[dict]]:
    """One whose model gives each list of answers in turn."""
    turns = iter(answers)
    monkeypatch.setattr(samples, "generate", lambda *_, **__: [(text, "stop") for text in next(turns)])
    model = SimpleNamespace(eval=lambda: None, train=lambda: None)
    template = SimpleNamespace(prompt=lambda messages, tools: [1], stops=frozenset())
    events: list[dict] = []
    loaded = SimpleNamespace(model=model, tokenizer=None)
    return Sampler(loaded, template, ROWS, 8, 9, lambda type, **fields: events.append(fields), [], contract), events


def test_answers_that_lose_the_contract_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = "fine", "as Northpeak does"
    sample, events = sampler(
        monkeypatch, [good] * 7 + [bad], [good] * 6 + [bad] * 2, [good] * 3 + [bad] * 5, contract=Contract(forbid=["Northpeak"])
    )
    assert sample(0) == ""
    assert sample(10) == ""  # one in eight is no accident's size yet
    told = sample(20)
    assert "7 of 8 validation answers held the contract before the first step, 3 do now" in told
    assert [event["verdict"] for event in events[:8]] == ["holds the contract"] * 7 + ["forbidden"]


def test_what_is_fixed_makes_up_for_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad = "fine", "as Northpeak does"
    sample, _ = sampler(monkeypatch, [good] * 4 + [bad] * 4, [bad] * 4 + [good] * 4, contract=Contract(forbid=["Northpeak"]))
    assert (sample(0), sample(5)) == ("", "")


def test_without_a_contract_nothing_is_judged_and_rows_that_ask_nothing_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    sample, events = sampler(monkeypatch, ["one"] * 8, ["two"] * 8)
    assert (sample(0), sample(5)) == ("", "")
    assert {event["verdict"] for event in events} == {"ended by itself"}
    sample.rows = [Text(Place("text", 1), {}, "nothing to ask")]
    assert sample(6) == ""
