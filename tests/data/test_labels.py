import json
from pathlib import Path

import pytest

from mlxtune.data import scaffold
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.fixes import apply_fixes
from mlxtune.data.checks.labels import label_set
from mlxtune.data.checks.run import check
from mlxtune.data.readers.formats import parse
from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.data.transforms.row_verbs import row_value
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.recipe.schema import EvaluationSection

ASKED = {
    "get_refund": "I want my money back for the {}",
    "cancel_order": "Please cancel my order of the {}",
    "track_parcel": "Where is the parcel with the {}",
}
THINGS = [
    f"{color} {thing}" for color in ("red", "blue", "green", "black", "white") for thing in ("tent", "stove", "lamp", "rope", "map")
]


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    rows = [(text.format(thing), label) for label, text in ASKED.items() for thing in THINGS]
    rows[3] = (rows[3][0], "get_refnd")
    rows[30] = (rows[30][0], "CANCEL_ORDER")
    rows[60] = (rows[60][0], "get_refund")
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt, "completion": label}) + "\n" for prompt, label in rows))
    return path


def test_labels_that_are_misspelled_or_doubtful(labeled: Path) -> None:
    findings = check(labeled).findings
    assert [(one.rows[0], one.values["other"]) for one in findings if one.check == "label-spelling"] == [
        (3, "get_refund"),
        (30, "cancel_order"),
    ]
    assert next((one.rows[0], one.values["other"]) for one in findings if one.check == "label-noise") == (60, "track_parcel")
    (rare,) = [one.values["values"] for one in findings if one.check == "coverage"]
    assert rare == {"get_refnd": 1, "CANCEL_ORDER": 1}


def test_a_label_with_other_case_or_spaces_is_corrected(labeled: Path) -> None:
    rows = [json.loads(line) for line in labeled.read_text().splitlines()]
    for number in (5, 6, 7):
        rows[number]["completion"] = "Get_Refund "
    labeled.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert scaffold.guess(labeled).labels == (
        "CANCEL_ORDER",
        "Get_Refund",
        "cancel_order",
        "get_refnd",
        "get_refund",
        "track_parcel",
    )
    spelled = [one for one in check(labeled).findings if one.check == "label-spelling" and one.rows[0] in (5, 6, 7)]
    assert len(spelled) == 3
    row = parse(rows[5], Location(labeled, 6))
    fixed = apply_fixes(row, spelled[:1])
    assert scored_answer(fixed)[1] == "get_refund"


def test_short_labels_that_differ_in_case_are_different(tmp_path: Path) -> None:
    labels = ["AA"] * 30 + ["Aa"] * 15 + ["1 0"] * 30 + ["10"] * 15 + ["ready"] * 15 + ["Ready"] * 15
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"case {at}", "completion": one}) + "\n" for at, one in enumerate(labels)))
    assert {one.values["label"] for one in check(path).findings if one.check == "label-spelling"} == {"Ready"}


def test_a_label_with_another_word_is_no_misspelling(tmp_path: Path) -> None:
    labels = (
        ["track_parcel"] * 60
        + ["track_parcel_no", "TrackParcel"]
        + ["ES"] * 30
        + ["SE"]
        + ["occupation<|end of text|>"] * 30
        + ["location<|end of text|>"]
    )
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"parcel {at}", "completion": label}) + "\n" for at, label in enumerate(labels)))
    assert [one.values["label"] for one in check(path).findings if one.check == "label-spelling"] == ["TrackParcel"]


def test_the_recipe_of_a_classifier_lists_its_labels(labeled: Path) -> None:
    guessed = scaffold.guess(labeled)
    assert "labels = [" in scaffold.recipe_text(guessed, "shop", "rows.jsonl", "")
    assert label_set(["a" * 100] * 3 + ["b"] * 3) == ("a" * 100, "b")
    assert label_set(["a" * 101] * 3 + ["b"] * 3) == label_set(["a", "b"]) == ()


@pytest.mark.parametrize(("output", "passed"), [(" billing\n", True), ("Billing", False), ("biling", False)])
def test_an_answer_must_be_one_of_the_labels(output: str, passed: bool) -> None:
    contract = Contract(EvaluationSection(labels=["billing", "shipping"]))
    assert contract.score(ModelAnswer(output))["pattern"].passed is passed
    assert contract.required_metrics == ["pattern"]


def test_a_label_is_the_value_of_its_row() -> None:
    row = Conversation(Location(Path("rows.jsonl"), 1), {}, (Message("user", "Where is it?"), Message("assistant", "track_parcel")))
    assert row_value(row, "answer") == "track_parcel"
