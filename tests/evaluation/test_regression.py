"""Off-task prompts: which answers count, and when a regression blocks promotion."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError
from mlxtune.data import samples
from mlxtune.data.rows import Location
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt
from mlxtune.evaluation.off_task.result import compare_off_task
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.recipe import parse

PLACE = Location(Path("r.jsonl"), 1)


def _probe(*accept: str, id: str = "x") -> OffTaskPrompt:
    return OffTaskPrompt(id, "Which?", accept, PLACE)


@pytest.mark.parametrize(
    ("accept", "output", "holds"),
    [
        (["Paris"], "The capital of France is Paris.", True),
        (["Paris"], "PARIS", True),
        (["Paris"], "Parisian cafés", False),
        (["7", "seven"], "There are Seven days", True),
        (["7", "seven"], "There are 17 days", False),
        (["H2O"], "The formula is H2O, or H₂O", True),
        (["da Vinci"], "It was Leonardo da  Vinci.", True),
        (["mice"], "", False),
    ],
)
def test_answer_counts_when_accepted_word_appears_as_whole_word(accept: list[str], output: str, holds: bool) -> None:
    assert _probe(*accept).passes(output) is holds


def test_gained_and_lost_prompts_are_named() -> None:
    result = compare_off_task(
        [_probe("a", id="one"), _probe("b", id="two"), _probe("c", id="three")], ["a", "b", "x"], ["a", "x", "c"]
    )
    assert (result.total, result.base, result.tuned, result.broken, result.fixed) == (3, 2, 2, ("two",), ("three",))
    assert not result.blocks_promotion
    facts = {"regression": {**asdict(result), "broken": ["two"], "fixed": ["three"]}}
    assert EvaluationReport(facts, (), (), "").off_task == result
    assert EvaluationReport({}, (), (), "").off_task is None


@pytest.mark.parametrize(("lost", "gained", "blocks"), [(0, 0, False), (3, 0, False), (4, 0, True), (6, 3, False), (8, 3, True)])
def test_drop_of_over_ten_percent_blocks_promotion(lost: int, gained: int, blocks: bool) -> None:
    probes = [_probe("yes", id=str(at)) for at in range(30)]
    base = ["yes"] * 20 + ["no"] * 10
    tuned = ["no"] * lost + ["yes"] * (20 - lost) + ["yes"] * gained + ["no"] * (10 - gained)
    result = compare_off_task(probes, base, tuned)
    assert result.blocks_promotion is blocks
    assert result.summary.startswith("Failed the off-task check" if blocks else "Passed the off-task check")
    assert f"{20 - lost + gained} of 30" in result.summary


def test_bundled_prompts_load_with_unique_ids() -> None:
    bundled = prompts.load_prompts(parse('name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"'))
    assert 20 <= len(bundled) <= 40
    assert (samples.samples_root() / prompts.SHIPPED).is_file()
    assert all(probe.passes(probe.accept[0]) and not probe.passes(probe.prompt) for probe in bundled if probe.id != "bark")


def test_recipe_can_replace_or_disable_prompts(tmp_path: Path) -> None:
    text = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\nregression = '
    assert prompts.load_prompts(parse(f'{text}""')) == ()
    (tmp_path / "own.jsonl").write_text('{"id": "a", "prompt": "Say b.", "accept": ["b"]}\n')
    (own,) = prompts.load_prompts(parse(f'{text}"own.jsonl"', folder=tmp_path))
    assert (own.id, own.row.prompt[0].content, own.row.reference) == ("a", "Say b.", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "prompt": "b", "accept": ["c"]}\nno', "line 2: invalid JSON"),
        ('{"id": "a", "prompt": "b", "accept": []}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "accept": [" "]}', "line 1: expected"),
        ('{"id": "a", "accept": ["b"]}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "accept": ["c"]}\n' * 2, "two prompts have the same ID"),
        ("", "has no prompts"),
    ],
)
def test_malformed_prompt_file_is_refused_with_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        prompts.read_prompts(tmp_path / "r.jsonl")
