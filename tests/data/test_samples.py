from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data import samples
from mlxtune.data.rows import Row
from mlxtune.data.source import read_source
from mlxtune.data.split import group, split
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Answer
from mlxtune.recipe import Recipe, load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "data" / "samples"


@cache
def _recipe() -> Recipe:
    return load(ROOT / samples.RECIPE)


@cache
def _rows(name: str) -> tuple[Row, ...]:
    return read_source(FOLDER / name).rows


def _asked(row: Row) -> str:
    return row.question[-1]["content"]


def test_there_are_enough_conversations_and_pairs():
    assert len(_rows("support.jsonl")) >= 400
    assert len(_rows("support-pairs.jsonl")) >= 150


def test_every_prompt_is_unique_over_both_files():
    rows = (*_rows("support.jsonl"), *_rows("support-pairs.jsonl"))
    assert len({group(row, "") for row in rows}) == len(rows)


def test_near_twins_are_rare():
    rows = (*_rows("support.jsonl"), *_rows("support-pairs.jsonl"))
    grams = []
    for row in rows:
        text = " ".join(_asked(row).casefold().split())
        grams.append({text[at : at + 5] for at in range(max(1, len(text) - 4))})
    twins = set()
    # a Jaccard of 0.8 needs sizes within a fifth of each other
    order = sorted(range(len(grams)), key=lambda at: len(grams[at]))
    for at, one in enumerate(order):
        for two in order[at + 1 :]:
            if len(grams[two]) * 0.8 > len(grams[one]):
                break
            shared = len(grams[one] & grams[two])
            if shared >= 0.8 * (len(grams[one]) + len(grams[two]) - shared):
                twins |= {one, two}
    assert len(twins) < 0.02 * len(rows), [_asked(rows[at]) for at in sorted(twins)][:6]


def test_every_target_keeps_the_contract():
    contract = Contract.of(_recipe())
    for row in _rows("support.jsonl"):
        score = contract.score(Answer(row.reference, reference=row.reference))["contract"]
        assert score.holds, f"{row.place}: {score.why}"


def test_every_chosen_answer_keeps_the_contract():
    contract = Contract.of(_recipe())
    for row in _rows("support-pairs.jsonl"):
        score = contract.score(Answer(row.chosen, reference=row.chosen))["contract"]
        assert score.holds, f"{row.place}: {score.why}"


def test_category_in_the_meta_is_that_of_the_answer():
    for row in _rows("support.jsonl"):
        assert row.meta["category"] == json.loads(row.reference)["category"]


def test_recipe_holds_out_at_least_sixty_rows_and_leaks_none():
    shares = split(read_source(_recipe().source, _recipe().data.format), _recipe().data)
    assert len(shares.test) >= 60
    assert shares.train
    assert shares.valid
    for one, two in combinations((shares.train, shares.valid, shares.test), 2):
        assert not {group(row, "") for row in one} & {group(row, "") for row in two}


def test_pairs_ask_nothing_that_is_held_out():
    shares = split(read_source(_recipe().source, _recipe().data.format), _recipe().data)
    shares.refuse_sealed(_rows("support-pairs.jsonl"))


def test_a_made_workspace_loads(tmp_path):
    recipe = load(samples.create(tmp_path / "new" / "shop"))
    assert recipe.source.is_file()
    assert recipe.schema
    assert recipe.schema.is_file()


def test_nothing_is_written_where_a_file_would_be_lost(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / samples.RECIPE).write_text("mine")
    with pytest.raises(InputError, match="is there already, so nothing was written"):
        samples.create(tmp_path)
    assert (tmp_path / samples.RECIPE).read_text() == "mine"
    assert not (tmp_path / "data").exists()


def test_a_file_is_no_place_for_a_workspace(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        samples.create(tmp_path / "file")
