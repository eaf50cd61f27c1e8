from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data import samples
from mlxtune.data.duplicates import links
from mlxtune.data.rows import Row
from mlxtune.data.source import read_source
from mlxtune.data.split import group_name, split
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.recipe import Recipe, load

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "data" / "samples"


@cache
def _recipe() -> Recipe:
    return load(ROOT / samples.RECIPE)


@cache
def _rows(name: str) -> tuple[Row, ...]:
    return read_source(FOLDER / name).rows


def test_the_samples_have_enough_rows():
    assert len(_rows("support.jsonl")) >= 400
    assert len(_rows("support-pairs.jsonl")) >= 150


def test_prompts_are_unique_across_both_files():
    rows = (*_rows("support.jsonl"), *_rows("support-pairs.jsonl"))
    assert len({group_name(row, "") for row in rows}) == len(rows)


def test_near_duplicates_are_rare():
    texts = [row.prompt_content[-1]["content"] for row in (*_rows("support.jsonl"), *_rows("support-pairs.jsonl"))]
    duplicates = {texts[row] for pair in links(texts) for row in pair[:2]}
    assert len(duplicates) < 0.02 * len(texts), sorted(duplicates)[:6]


def test_every_reference_and_chosen_answer_passes_the_contract():
    contract = Contract.from_recipe(_recipe())
    answers = [(row, row.reference) for row in _rows("support.jsonl")] + [(row, row.chosen) for row in _rows("support-pairs.jsonl")]
    for row, answer in answers:
        score = contract.score(ModelAnswer(answer, reference=answer))["contract"]
        assert score.passed, f"{row.location}: {score.detail}"


def test_metadata_and_answer_have_the_same_category():
    for row in _rows("support.jsonl"):
        assert row.meta["category"] == json.loads(row.reference)["category"]


def test_the_recipe_holds_out_at_least_60_rows_without_leaks():
    splits = split(read_source(_recipe().source, _recipe().data), _recipe().data)
    assert len(splits.test) >= 60
    assert splits.train
    assert splits.valid
    for one, two in combinations((splits.train, splits.valid, splits.test), 2):
        assert not {group_name(row, "") for row in one} & {group_name(row, "") for row in two}


def test_no_pair_is_in_the_test_split():
    splits = split(read_source(_recipe().source, _recipe().data), _recipe().data)
    splits.refuse_sealed(_rows("support-pairs.jsonl"))


def test_a_new_workspace_loads(tmp_path):
    recipe = load(samples.create(tmp_path / "new" / "shop"))
    assert recipe.source.is_file()
    assert recipe.schema_file.is_file()


def test_existing_files_are_never_overwritten(tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / samples.RECIPE).write_text("mine")
    with pytest.raises(InputError, match="already exists, so nothing was written"):
        samples.create(tmp_path)
    assert (tmp_path / samples.RECIPE).read_text() == "mine"
    assert not (tmp_path / "data").exists()


def test_a_file_cannot_become_a_workspace(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        samples.create(tmp_path / "file")
