"""Two evaluations against each other, and the terms on which alone that is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from measured import BAD, GOOD, measured

from mlxtune.core.errors import InputError
from mlxtune.evaluation import terms
from mlxtune.evaluation.compare import contrast, side
from mlxtune.recipe import parse
from mlxtune.runs.registry import Run

FACTS = {
    "name": "shop", "base_fingerprint": "f", "row_ids": ["a", "b", "c"], "schema": "s", "contract": "c", "template": "t",
    "decoding": {"kind": "greedy", "max_tokens": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, []),
        ({"row_ids": ["c", "b", "a"]}, []),
        ({"row_ids": ["a", "b", "d", "e"]}, ["the held-out rows (2 new, 1 gone)"]),
        ({"schema": "other"}, ["the schema"]),
        ({"contract": "other"}, ["what the contract asks beside its schema"]),
        ({"template": "other"}, ["the chat template"]),
        ({"template": "other", "base_fingerprint": "g"}, []),
        ({"decoding": {"kind": "greedy", "max_tokens": 32}}, ["the decoding (kind greedy, max_tokens 64, now kind greedy, max_tokens 32)"]),
        ({"schema": "other", "template": "other"}, ["the schema", "the chat template"]),
    ],
)  # fmt: skip
def test_every_term_that_changed_is_named(now: dict[str, object], told: list[str]) -> None:
    assert terms.changed(FACTS, {**FACTS, **now}) == told


def test_a_fact_that_an_older_version_did_not_keep_is_no_difference() -> None:
    assert terms.changed({key: FACTS[key] for key in ("name", "row_ids", "schema", "decoding")}, FACTS) == []


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
def test_the_contract_is_known_by_what_it_asks(changed: str, same: bool) -> None:
    text = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"\n[evaluation]\n'
    assert (terms.contract_hash(parse(text + changed)) == terms.contract_hash(parse(text))) is same


def _evaluated(workspace: Path, at: int, facts: dict[str, object]) -> Path:
    folder = workspace / "evals" / f"20261124-141{at}-shop"
    folder.mkdir(parents=True)
    (folder / "recipe.toml").write_text("")
    (folder / "report.json").write_text(json.dumps({"facts": facts}))
    return folder


def test_an_adapter_is_held_to_the_terms_of_the_newest_base(tmp_path: Path) -> None:
    recipe = parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d"')
    _evaluated(tmp_path, 1, {**FACTS, "schema": "old"})
    now = tmp_path / "evals" / "20261124-1419-shop"
    with pytest.raises(InputError, match=r"Since the base was measured \(20261124-1411-shop\) the schema changed"):
        terms.hold(now, FACTS, recipe)
    _evaluated(tmp_path, 2, FACTS)
    terms.hold(now, FACTS, recipe)
    with pytest.raises(InputError, match="the schema and the chat template changed") as refused:
        terms.hold(now, {**FACTS, "schema": "new", "template": "new"}, recipe)
    assert "mlxtune eval RECIPE" in refused.value.mend
    assert refused.value.exit_code == 2


def test_other_recipes_other_bases_and_evaluations_without_an_end_hold_nobody(tmp_path: Path) -> None:
    recipe = parse('name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "d"')
    terms.hold(tmp_path / "evals" / "now", FACTS, recipe)
    _evaluated(tmp_path, 1, {**FACTS, "name": "other", "schema": "old"})
    _evaluated(tmp_path, 2, {**FACTS, "base_fingerprint": "g", "schema": "old"})
    (_evaluated(tmp_path, 3, FACTS) / "report.json").unlink()
    (_evaluated(tmp_path, 4, FACTS) / "report.json").write_text("{")
    terms.hold(tmp_path / "evals" / "now", FACTS, recipe)


def _two(place: Path, first: list[str], second: list[str]) -> tuple[Path, Path]:
    (place / "one").mkdir()
    (place / "two").mkdir()
    return measured(place / "one", base=[BAD] * len(first), tuned=first), measured(
        place / "two", base=[BAD] * len(second), tuned=second
    )


def test_two_evaluations_are_compared_row_by_row(tmp_path: Path) -> None:
    first, second = _two(tmp_path, [BAD] * 7 + [GOOD] * 3, [GOOD] * 9 + [BAD])
    found = contrast(side(tmp_path, str(first)), side(tmp_path, str(second / "report.json")))
    paired = found.headline.paired
    assert (paired.fixed, paired.broken, paired.both, paired.neither) == (7, 1, 2, 0)
    assert found.rows == 10
    assert {item.metric for item in found.comparisons} == {"json", "schema", "forbidden", "contract"}
    assert found.headline.first == "tuned of 20261124-1412-shop"
    assert found.verdict.startswith("Cannot tell.")  # 7 to 1: p = 0.07


def test_a_clear_difference_is_called_better_and_the_other_way_round_worse(tmp_path: Path) -> None:
    first, second = _two(tmp_path, [BAD] * 10, [GOOD] * 10)
    one, two = side(tmp_path, str(first)), side(tmp_path, str(second))
    assert contrast(one, two).headline.word == "better"
    assert contrast(two, one).headline.word == "worse"


def test_what_a_side_says_of_its_own_failures_is_not_believed(tmp_path: Path) -> None:
    first, second = _two(tmp_path, [BAD] * 10, [BAD] * 10)
    outputs = second / "outputs.jsonl"
    records = [json.loads(line) for line in outputs.read_text().splitlines()]
    outputs.write_text("".join(json.dumps({**record, "failed": {}}) + "\n" for record in records))
    assert contrast(side(tmp_path, str(first)), side(tmp_path, str(second))).headline.paired.neither == 10


def test_pairs_are_compared_by_what_is_preferred_too(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    first, second = (measured(tmp_path / name, pairs=True) for name in ("one", "two"))
    found = contrast(side(tmp_path, str(first)), side(tmp_path, str(second)))
    assert [item.metric for item in found.comparisons] == ["json", "schema", "forbidden", "preference", "contract"]
    assert found.comparisons[3].paired.broken == found.comparisons[3].paired.fixed == 0


def test_other_rows_are_refused(tmp_path: Path) -> None:
    first, second = _two(tmp_path, [GOOD] * 4, [GOOD] * 5)
    with pytest.raises(InputError, match=r"cannot be compared: the held-out rows \(1 new, 0 gone\)"):
        contrast(side(tmp_path, str(first)), side(tmp_path, str(second)))


def test_without_a_tuned_arm_the_strongest_speaks(tmp_path: Path) -> None:
    folder = measured(tmp_path, **{"base": [BAD] * 3, "base+prompt": [GOOD, GOOD, BAD], "base+kshot": [GOOD, BAD, BAD]})
    assert side(tmp_path, str(folder)).arm == "base+prompt"


def test_a_run_stands_for_its_newest_evaluation(tmp_path: Path) -> None:
    folder = measured(tmp_path)
    run = tmp_path / "runs" / "r"
    run.mkdir(parents=True)
    (run / "recipe.toml").write_text("")
    assert side(tmp_path, "r").folder == folder
    (tmp_path / "runs" / "lonely").mkdir()
    (tmp_path / "runs" / "lonely" / "recipe.toml").write_text("")
    assert Run(tmp_path / "runs" / "lonely").id == "lonely"
    with pytest.raises(InputError, match="lonely was not evaluated"):
        side(tmp_path, "lonely")
    with pytest.raises(InputError, match="There is no evaluation nothing"):
        side(tmp_path, "nothing")
