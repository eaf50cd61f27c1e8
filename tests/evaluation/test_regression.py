"""Off-task prompts: which answers count, and when an adapter may not be promoted."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from mlxtune.core.errors import DataError
from mlxtune.data import samples
from mlxtune.data.rows import Place
from mlxtune.evaluation import regression
from mlxtune.evaluation.regression import Probe
from mlxtune.recipe import parse

PLACE = Place(Path("r.jsonl"), 1)


def _probe(*accept: str, id: str = "x") -> Probe:
    return Probe(id, "Which?", accept, PLACE)


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
def test_an_answer_counts_when_it_says_an_accepted_word_as_a_word(accept: list[str], output: str, holds: bool) -> None:
    assert _probe(*accept).holds(output) is holds


def test_what_changed_is_named_on_both_sides() -> None:
    found = regression.compare(
        [_probe("a", id="one"), _probe("b", id="two"), _probe("c", id="three")], ["a", "b", "x"], ["a", "x", "c"]
    )
    assert (found.total, found.base, found.tuned, found.broken, found.fixed) == (3, 2, 2, ("two",), ("three",))
    assert not found.blocks
    assert regression.of({"regression": {**asdict(found), "broken": ["two"], "fixed": ["three"]}}) == found
    assert regression.of({}) is None


@pytest.mark.parametrize(("lost", "gained", "blocks"), [(0, 0, False), (3, 0, False), (4, 0, True), (6, 3, False), (8, 3, True)])
def test_a_drop_of_more_than_a_tenth_of_the_prompts_blocks(lost: int, gained: int, blocks: bool) -> None:
    probes = [_probe("yes", id=str(at)) for at in range(30)]
    base = ["yes"] * 20 + ["no"] * 10
    tuned = ["no"] * lost + ["yes"] * (20 - lost) + ["yes"] * gained + ["no"] * (10 - gained)
    found = regression.compare(probes, base, tuned)
    assert found.blocks is blocks
    assert found.sentence.startswith("General behaviour dropped" if blocks else "General behaviour held")
    assert f"{20 - lost + gained} of 30" in found.sentence


def test_the_shipped_prompts_can_be_read_and_have_ids_of_their_own() -> None:
    found = regression.read(parse('name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"'))
    assert 20 <= len(found) <= 40
    assert (samples.root() / regression.SHIPPED).is_file()
    assert all(probe.holds(probe.accept[0]) and not probe.holds(probe.prompt) for probe in found if probe.id != "bark")


def test_a_recipe_may_have_its_own_prompts_or_none(tmp_path: Path) -> None:
    text = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\nregression = '
    assert regression.read(parse(f'{text}""')) == ()
    (tmp_path / "own.jsonl").write_text('{"id": "a", "prompt": "Say b.", "accept": ["b"]}\n')
    (own,) = regression.read(parse(f'{text}"own.jsonl"', folder=tmp_path))
    assert (own.id, own.row.prompt[0].content, own.row.reference) == ("a", "Say b.", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "prompt": "b", "accept": ["c"]}\nno', "line 2: not valid JSON"),
        ('{"id": "a", "prompt": "b", "accept": []}', "line 1: not of the form"),
        ('{"id": "a", "prompt": "b", "accept": [" "]}', "line 1: not of the form"),
        ('{"id": "a", "accept": ["b"]}', "line 1: not of the form"),
        ('{"id": "a", "prompt": "b", "accept": ["c"]}\n' * 2, "two prompts have one id"),
        ("", "holds no prompts"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        regression.probes(tmp_path / "r.jsonl")
