"""Sampling during training: a warning when answers lose contract passes they had before the first step."""

from types import SimpleNamespace

import pytest

from mlxtune.data.rows import Location, Message, Preference, TextRow
from mlxtune.evaluation.contract import Contract
from mlxtune.models.thoughts import GeneratedAnswer
from mlxtune.recipe import EvaluationSection
from mlxtune.training import sampler as samples
from mlxtune.training.sampler import Sampler

ROWS = [Preference(Location("pairs", at), {}, (Message("user", f"Question {at}"),), "good", "bad") for at in range(8)]


def sampler(monkeypatch: pytest.MonkeyPatch, *answers: list[str], contract: Contract | None = None) -> tuple[Sampler, list[dict]]:
    """Return a sampler whose model returns each list of answers in turn, and its events."""
    turns = iter(answers)
    monkeypatch.setattr(samples, "generate", lambda *_, **__: [GeneratedAnswer(text, "stop") for text in next(turns)])
    model = SimpleNamespace(eval=lambda: None, train=lambda: None)
    template = SimpleNamespace(
        prompt=lambda messages, tools: [1],
        stop_tokens=frozenset(),
        thinking_limit=lambda tokens: 0,
        calls=SimpleNamespace(read=lambda text, tools: text),
    )
    events: list[dict] = []

    def emit(type: str, **fields: object) -> None:
        if type in ("sample", "warning"):
            events.append(fields)

    loaded, checked = SimpleNamespace(model=model, tokenizer=None), contract is not None
    return Sampler(loaded, template, ROWS, 8, 9, 9, emit, [], contract or Contract(EvaluationSection()), checked), events


def test_losing_contract_passes_gives_warning(monkeypatch):
    good, bad = "fine", "as Northpeak does"
    sample, events = sampler(
        monkeypatch,
        [good] * 7 + [bad],
        [good] * 6 + [bad] * 2,
        [good] * 3 + [bad] * 5,
        contract=Contract(EvaluationSection(forbid=["Northpeak"])),
    )
    assert not sample(0)
    assert not sample(10)  # one lost pass in eight is below the warning threshold
    assert sample(20)
    assert (events[-1]["code"], events[-1]["values"]) == ("format_lost", {"before": 7, "now": 3, "answers": 8})
    assert [event["outcome"] for event in events[:8]] == ["passes"] * 7 + ["fails"]
    assert events[7]["failure"] == "forbidden"


def test_gains_offset_losses(monkeypatch):
    good, bad = "fine", "as Northpeak does"
    sample, _ = sampler(
        monkeypatch, [good] * 4 + [bad] * 4, [bad] * 4 + [good] * 4, contract=Contract(EvaluationSection(forbid=["Northpeak"]))
    )
    assert (sample(0), sample(5)) == (False, False)


def test_rows_without_prompt_are_skipped_and_no_contract_means_no_scores(monkeypatch):
    sample, events = sampler(monkeypatch, ["one"] * 8, ["two"] * 8)
    assert (sample(0), sample(5)) == (False, False)
    assert {event["outcome"] for event in events} == {"ended"}
    sample.rows = [TextRow(Location("text", 1), {}, "nothing to ask")]
    assert not sample(6)
