"""Evidence from a workspace: its data, its contract, and evaluations on held-out rows."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evaluation_files import BAD, GOOD, write_evaluation
from scipy.stats import binomtest

from mlxtune.advice.evidence import AdviceEvidence, collect, seconds_per_answer
from mlxtune.advice.next_step import is_sample, sample_name
from mlxtune.evaluation.report import FILE, Rate
from mlxtune.recipe import load

QUESTIONS = (
    "Where is my parcel?", "Do you ship to Norway?", "The kettle leaks.", "Can I pay by invoice?", "My code does not work.",
    "How long is the guarantee?", "I want to return a lamp.", "Is the blue rug in stock?", "Who repairs your clocks?",
    "My order came twice.", "Please delete my account.", "The chair has three legs.", "What does express cost?", "Are you open on Sunday?",
)  # fmt: skip


def shop(folder: Path) -> AdviceEvidence:
    """Return the evidence for the evaluated recipe after replacing its data with fourteen distinct prompts."""
    recipe = load(folder / "shop.toml")
    if "parcel number" in recipe.source.read_text():
        write(folder, *QUESTIONS)
    return collect(folder, recipe, "shop.toml")


def write(folder: Path, *questions: str) -> None:
    turns = [[{"role": "user", "content": text}, {"role": "assistant", "content": GOOD}] for text in questions]
    (folder / "shop.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in turns))


def changed(folder: Path, copied: str, /, **facts: Any) -> Path:
    """Copy the evaluation in ``folder`` to ``copied`` with changed facts."""
    copy = folder.parent / copied
    copy.mkdir()
    report = json.loads((folder / FILE).read_text())
    (copy / FILE).write_text(json.dumps(report | {"facts": report["facts"] | facts}))
    (copy / "recipe.toml").write_text((folder / "recipe.toml").read_text())
    return copy


def test_data_and_contract_come_from_recipe(tmp_path):
    write_evaluation(tmp_path)
    evidence = shop(tmp_path)
    assert (evidence.recipe, evidence.rows, evidence.groups, evidence.pairs, evidence.contract, evidence.prompted) == (
        "shop.toml",
        14,
        14,
        0,
        True,
        False,
    )
    assert evidence.held_out
    recipe = load(tmp_path / "shop.toml")
    assert collect(tmp_path, replace(recipe, evaluation=replace(recipe.evaluation, schema="", forbid=[]))).contract is False


def test_duplicate_prompts_count_once(tmp_path):
    write_evaluation(tmp_path)
    write(tmp_path, *QUESTIONS, *QUESTIONS[:5])
    assert (shop(tmp_path).rows, shop(tmp_path).groups) == (19, 14)


def test_too_few_rows_for_holdout_is_not_an_error(tmp_path):
    write_evaluation(tmp_path)
    write(tmp_path, *QUESTIONS[:2])
    evidence = shop(tmp_path)
    assert (evidence.groups, evidence.held_out) == (2, None)
    assert evidence.split_error


def test_pairs_are_counted(tmp_path):
    write_evaluation(tmp_path, pairs=True)
    assert collect(tmp_path, load(tmp_path / "shop.toml")).pairs == 14


def test_each_arm_has_rate_and_source_evaluation(tmp_path):
    folder = write_evaluation(tmp_path, base=[BAD, GOOD, BAD, BAD], **{"base+prompt": [GOOD, GOOD, BAD, GOOD]})
    evidence = shop(tmp_path)
    rate, by = evidence.arms["contract"]["base+prompt"]
    interval = binomtest(3, 4).proportion_ci(method="wilson")
    assert (rate.hits, rate.total, by) == (3, 4, folder.name)
    assert (rate.low, rate.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    facts = evidence.facts("contract", 90)
    assert (facts["base"], facts["prompt"], facts["kshot"], facts["best"], facts["gap"]) == (25.0, 75.0, None, 75.0, 15.0)
    assert evidence.best("contract") == "base+prompt"


def test_newest_evaluation_of_arm_wins_including_samples(tmp_path):
    folder = write_evaluation(tmp_path, base=[BAD, GOOD, BAD, BAD])
    recipe = load(tmp_path / "shop.toml")
    newer = changed(folder, "20261125-0900-shop-advice", name=sample_name(recipe.name))
    report = json.loads((newer / FILE).read_text())
    for rate in report["arms"][0]["rates"]:
        rate["hits"] = 4
    (newer / FILE).write_text(json.dumps(report))
    rate, by = shop(tmp_path).arms["contract"]["base"]
    assert (rate.hits, by) == (4, newer.name)


@pytest.mark.parametrize("facts", [{"name": "another"}, {"base": "another"}])
def test_evaluations_of_other_recipes_or_bases_are_ignored(tmp_path, facts):
    folder = write_evaluation(tmp_path, base=[BAD, GOOD, BAD, BAD])
    changed(folder, "20261125-0900-another", **facts)
    evidence = shop(tmp_path)
    assert evidence.arms["contract"]["base"][1] == folder.name
    assert evidence.ignored == ()


def test_unfinished_evaluation_is_ignored(tmp_path):
    folder = write_evaluation(tmp_path)
    (folder / FILE).write_text("{")
    assert shop(tmp_path).arms == {}


def test_shorter_prompt_breaks_ties_between_arms():
    arms = {arm: (Rate("contract", 9, 10, 0.6, 1.0), "e") for arm in ("base+kshot", "base", "base+prompt")}
    assert AdviceEvidence(arms={"contract": arms}).best("contract") == "base"


def test_unmeasured_metric_falls_back_to_contract():
    arms = {"contract": {"base": (Rate("contract", 1, 2, 0.0, 1.0), "e")}}
    assert AdviceEvidence(arms=arms).arms_by_metric("preference") == arms["contract"]
    assert AdviceEvidence().best("contract") is None


def test_tuned_arm_is_never_best_untrained_arm():
    arms = {"contract": {"tuned": (Rate("contract", 9, 10, 0.6, 1.0), "e")}}
    assert AdviceEvidence(arms=arms).best("contract") is None


def test_answer_time_comes_from_uncached_evaluation(tmp_path):
    folder = write_evaluation(
        tmp_path, base=[BAD, GOOD, BAD, BAD], tuned=[GOOD] * 4
    )  # the base is cached, the tuned arm took 1.5 s
    recipe = load(tmp_path / "shop.toml")
    assert seconds_per_answer(tmp_path, recipe) == pytest.approx(1.5 / 4)
    assert seconds_per_answer(tmp_path, replace(recipe, model=replace(recipe.model, base="another"))) is None
    report = json.loads((folder / FILE).read_text())
    report["arms"][1]["cached"] = True
    (folder / FILE).write_text(json.dumps(report))
    assert seconds_per_answer(tmp_path, recipe) is None


def test_local_base_is_identified_by_full_path(tmp_path):
    folder = write_evaluation(tmp_path, base=[BAD, GOOD, BAD, BAD])
    changed(folder, "20261125-0900-shop", base=str(tmp_path / "m"))
    assert shop(tmp_path).arms["contract"]["base"][1] == "20261125-0900-shop"


def test_long_name_is_shortened_for_sample_suffix():
    assert len(sample_name("a" * 64)) <= 64
    assert is_sample(sample_name("a" * 64))
