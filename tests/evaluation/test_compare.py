"""Comparing two evaluations, and the terms that must match."""

import json
from pathlib import Path

import pytest
from evaluation_files import BAD, GOOD, scored_arm, write_evaluation

from mlxtune.core.errors import InputError
from mlxtune.evaluation import history, report
from mlxtune.evaluation.compare import EvaluationComparison, compare_evaluations, find_side
from mlxtune.evaluation.history import ChangedTerm, ChangedTerms
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import PASS
from mlxtune.present.blocks import Heading
from mlxtune.present.comparison import comparison_document
from mlxtune.recipe import parse
from mlxtune.runs.registry import Run

FACTS = {
    "name": "shop", "base_fingerprint": "f", "row_ids": ["a", "b", "c"], "schema": "s", "contract": "c", "template": "t",
    "decoding": {"kind": "greedy", "max_tokens": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    ("now", "differences"),
    [
        ({}, []),
        ({"row_ids": ["c", "b", "a"]}, []),
        ({"row_ids": ["a", "b", "d", "e"]}, [ChangedTerm("held_out_rows", 1, 2)]),
        ({"schema": "other"}, [ChangedTerm("schema")]),
        ({"contract": "other"}, [ChangedTerm("contract")]),
        ({"template": "other"}, [ChangedTerm("template")]),
        ({"template": "other", "base_fingerprint": "g"}, []),
        ({"decoding": {"kind": "greedy", "max_tokens": 32}}, [ChangedTerm("token_limit", 64, 32)]),
        ({"schema": "other", "template": "other"}, [ChangedTerm("schema"), ChangedTerm("template")]),
    ],
)  # fmt: skip
def test_every_changed_term_is_named(now, differences):
    assert history.differences(FACTS, {**FACTS, **now}) == differences


def test_evaluation_with_the_lower_token_limit_is_to_be_made_again():
    short, long = (
        {**FACTS, "run": run, "decoding": {"kind": "greedy", "max_tokens": limit}} for run, limit in (("a", 64), ("b", 320))
    )
    for pair in ((short, long), (long, short)):
        with pytest.raises(InputError) as refused:
            history.require_comparable("one", pair[0], "two", pair[1])
        assert refused.value.hint.endswith("mlxtune eval a --set evaluation.max_tokens=320")
    with pytest.raises(InputError) as refused:
        history.require_comparable("one", short, "two", {**long, "schema": "other"})
    assert "same held-out rows" in refused.value.hint


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ("", True),
        ('forbid = ["Northpeak"]', False),
        ('disclaimers = ["Note."]', False),
        ("length = { max = 9 }", False),
        ('arms = ["base"]\nbatch_size = 3\nregression = ""', True),
    ],
)
def test_contract_hash_depends_on_required_checks(changed, same):
    text = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\n'
    assert (history.contract_hash(parse(text + changed)) == history.contract_hash(parse(text))) is same


def _evaluated(workspace: Path, at: int, facts: dict[str, object]) -> Path:
    folder = workspace / "evals" / f"20261124-141{at}-shop"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text("")
    arm = scored_arm("base", [{"contract": PASS}])
    report.save(build({"rows": 1, **facts}, [arm]), folder)  # type: ignore[typeddict-item]
    return folder


def test_tuned_evaluation_must_match_newest_base_terms(tmp_path):
    recipe = parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d"')
    _evaluated(tmp_path, 1, {**FACTS, "schema": "old"})
    now = tmp_path / "evals" / "20261124-1419-shop"
    with pytest.raises(InputError, match=r"The schema changed since the base was evaluated \(20261124-1411-shop\)"):
        history.require_baseline_terms(now, FACTS, recipe)
    _evaluated(tmp_path, 2, FACTS)
    history.require_baseline_terms(now, FACTS, recipe)
    with pytest.raises(InputError, match="The schema and the chat template changed") as refused:
        history.require_baseline_terms(now, {**FACTS, "schema": "new", "template": "new"}, recipe)
    assert "mlxtune eval RECIPE" in refused.value.hint
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "shop.toml").touch()
    with pytest.raises(InputError) as refused:
        history.require_baseline_terms(now, {**FACTS, "schema": "new"}, recipe)
    assert refused.value.hint.endswith("evaluate the base again: mlxtune eval recipes/shop.toml")
    assert refused.value.exit_code == 2


def test_other_held_out_rows_are_noted_and_not_refused(tmp_path):
    """The base answers them in the same evaluation, so both arms have the same rows."""
    recipe = parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d"\n')
    now, ids = tmp_path / "evals" / "20261124-1419-shop", [f"r{number}" for number in range(9)]
    _evaluated(tmp_path, 1, {**FACTS, "row_ids": ids[:4]})
    other = {**FACTS, "row_ids": ids[1:6]}
    history.require_baseline_terms(now, other, recipe)
    changed = ChangedTerms("20261124-1411-shop", (ChangedTerm("held_out_rows", 1, 2),))
    assert history.changed_terms(now, other, recipe) == changed


def test_other_recipes_bases_and_unfinished_evaluations_are_ignored(tmp_path):
    recipe = parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d"')
    history.require_baseline_terms(tmp_path / "evals" / "now", FACTS, recipe)
    _evaluated(tmp_path, 1, {**FACTS, "name": "other", "schema": "old"})
    _evaluated(tmp_path, 2, {**FACTS, "base_fingerprint": "g", "schema": "old"})
    (_evaluated(tmp_path, 3, FACTS) / "report.json").unlink()
    (_evaluated(tmp_path, 4, FACTS) / "report.json").write_text("{")
    history.require_baseline_terms(tmp_path / "evals" / "now", FACTS, recipe)


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    """Two workspaces."""
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    return folders


def _compared(first: Path, second: Path) -> EvaluationComparison:
    return compare_evaluations(*(find_side(first.parent, str(folder)) for folder in (first, second)))


def _two(places: list[Path], *tuned: list[str]) -> list[Path]:
    return [write_evaluation(place, base=[BAD] * len(answers), tuned=answers) for place, answers in zip(places, tuned, strict=True)]


def test_two_evaluations_are_compared_row_by_row(places, tmp_path):
    first, second = _two(places, [BAD] * 7 + [GOOD] * 3, [GOOD] * 9 + [BAD])
    comparison = compare_evaluations(find_side(tmp_path, str(first)), find_side(tmp_path, str(second / "report.json")))
    paired = comparison.headline.paired
    assert (paired.fixed, paired.broken, paired.both, paired.neither) == (7, 1, 2, 0)
    assert comparison.rows == 10
    assert {item.metric for item in comparison.comparisons} == {"json", "schema", "forbidden", "contract"}
    assert comparison.headline.first == "tuned of 20261124-1412-shop"
    assert comparison.headline.outcome == "cannot_tell"  # 7 to 1: p = 0.07


def test_clear_difference_is_better_and_reverse_is_worse(places):
    first, second = _two(places, [BAD] * 10, [GOOD] * 10)
    assert _compared(first, second).headline.outcome == "better"
    assert _compared(second, first).headline.outcome == "worse"


def test_scores_are_recomputed_from_outputs(places):
    first, second = _two(places, [BAD] * 10, [BAD] * 10)
    outputs = second / "outputs.jsonl"
    records = [json.loads(line) for line in outputs.read_text().splitlines()]
    outputs.write_text("".join(json.dumps({**record, "scores": {}}) + "\n" for record in records))
    assert _compared(first, second).headline.paired.neither == 10


def test_preference_is_compared_for_pairs(places):
    comparison = _compared(*(write_evaluation(place, pairs=True) for place in places))
    assert [item.metric for item in comparison.comparisons] == ["json", "schema", "forbidden", "contract", "preference"]
    assert comparison.headline.paired.broken == comparison.headline.paired.fixed == 0
    assert (comparison.rows, comparison.headline.paired.total) == (4, 4)


@pytest.mark.parametrize("contract", [True, False])
def test_pairs_that_were_not_compared_are_left_out(places, contract):
    folders = [write_evaluation(place, pairs=True, contract=contract) for place in places]
    for folder in folders:
        records = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
        for record in records:
            if record["id"] == records[0]["id"]:
                del record["rejected"]
        (folder / "outputs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    comparison = _compared(*folders)
    assert comparison.headline.metric == "preference"
    assert (comparison.rows, comparison.headline.paired.total) == (4, 3)
    assert comparison_document(comparison)[0] == Heading("Verdict", "4 held-out rows, the same for both; compared on 3")


def test_metrics_outside_the_contract_are_compared_too(places):
    folders = _two(places, [BAD] * 4, [GOOD] * 4)
    for folder in folders:
        recipe = folder / "recipe.toml"
        recipe.write_text(recipe.read_text().replace("correct = []", 'correct = ["answer"]'))
    assert [item.metric for item in _compared(*folders).comparisons] == ["json", "schema", "forbidden", "contract", "correct"]


def test_strongest_arm_is_compared_without_tuned_arm(tmp_path):
    answers = {"base": [BAD] * 3, "base+prompt": [GOOD, GOOD, BAD], "base+kshot": [GOOD, BAD, BAD], "constant": [GOOD] * 3}
    folder = write_evaluation(tmp_path, **answers)
    assert find_side(tmp_path, str(folder)).arm == "base+prompt"


def test_run_refers_to_its_newest_evaluation(tmp_path):
    folder = write_evaluation(tmp_path)
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text("")
    assert find_side(tmp_path, "r").folder == folder
    (tmp_path / "runs" / "lonely").mkdir()
    (tmp_path / "runs" / "lonely" / "recipe.toml").write_text("")
    assert Run(tmp_path / "runs" / "lonely").id == "lonely"
    with pytest.raises(InputError, match="lonely has not been evaluated"):
        find_side(tmp_path, "lonely")
    with pytest.raises(InputError, match="There is no evaluation named nothing"):
        find_side(tmp_path, "nothing")
