import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import InputError, MachineError, RecipeError
from mlxtune.recipe import load
from mlxtune.recipe.edit import edit_recipe, edit_text, toml_literal, undo_edit
from mlxtune.recipe.load import parse_override

RECIPES = Path(__file__).parents[2] / "recipes"
MINIMAL = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "support-json.toml"
    path.write_bytes((RECIPES / "support-json.toml").read_bytes())
    return path


def test_only_the_line_of_the_key_changes(file):
    before = file.read_text()
    edit = edit_recipe(file, {"training.learning_rate": 2e-4})
    assert edit.recipe.training.learning_rate == 2e-4
    assert load(file) == edit.recipe
    assert file.read_text() == before.replace("learning_rate = 1.5e-3", "learning_rate = 2e-4")


def test_a_comment_after_a_value_keeps_its_column():
    text = (RECIPES / "brand-voice.toml").read_text()
    edited = edit_text(text, {"method.pairs": "all"})
    old, new = (next(line for line in version.splitlines() if line.startswith("pairs")) for version in (text, edited))
    assert (
        new
        == 'pairs = "all"               # only pairs that the parent ranks wrongly; there is little left to learn from the others'
    )
    assert new.index("#") == old.index("#")


def test_undo_restores_the_bytes(file):
    before = file.read_bytes()
    first = edit_recipe(file, {"training.epochs": 3})
    second = edit_recipe(file, {"method.kind": "dpo", "adapter.rank": 4})
    assert undo_edit(second).adapter.rank == 8
    assert undo_edit(first).training.epochs == 4
    assert file.read_bytes() == before


def test_undo_refuses_if_the_file_changed(file):
    edit = edit_recipe(file, {"training.epochs": 3})
    file.write_text(file.read_text() + "# mine\n")
    with pytest.raises(InputError, match="has changed since"):
        undo_edit(edit)
    assert file.read_text().endswith("# mine\n")


def test_a_new_key_joins_its_section_and_a_new_section_is_appended(file):
    before = file.read_text()
    edited = edit_text(before, {"training.steps": 3})
    assert edited == before.replace("samples = 1\n", "samples = 1\nsteps = 3\n")
    edited = edit_text(before, {"evaluation.arms": ["base", "tuned"]})
    assert edited == before.replace("are sent without it\n", 'are sent without it\narms = ["base", "tuned"]\n')
    assert edit_text(before, {"method.kind": "dpo"}) == before + '\n[method]\nkind = "dpo"\n'


def test_a_comment_before_a_section_stays_with_it():
    text = MINIMAL + "[adapter]\nrank = 4\n\n# how long\n[training]\nepochs = 1\n"
    assert edit_text(text, {"adapter.alpha": 8.0}) == text.replace("rank = 4\n", "rank = 4\nalpha = 8\n")


def test_none_removes_a_key(file):
    edit = edit_recipe(file, {"adapter.rank": None})
    assert edit.recipe.adapter.rank == 16
    assert "rank = 8" not in file.read_text()
    assert edit_recipe(file, {"method.beta": None}).before == edit.after


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training.epochs": -1}, "^training.epochs must be from 0 to 10,000, but is -1"),
        ({"training.epoch": 1}, "^unknown key epoch in .training."),
        ({"adapter.rank": "many"}, "^adapter.rank must be an integer, but is .many."),
        ({"name.x": 1}, "cannot be edited"),
        ({"model.base": ""}, "model.base must be an alias"),
    ],
)
def test_an_invalid_edit_is_refused_and_not_written(file, changes, words):
    before = file.read_bytes()
    with pytest.raises(RecipeError, match=words):
        edit_recipe(file, changes)
    assert file.read_bytes() == before


def test_missing_and_invalid_files_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="Cannot read"):
        edit_recipe(tmp_path / "missing.toml", {"training.epochs": 1})
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="Cannot read"):
        edit_recipe(tmp_path / "x.toml", {"training.epochs": 1})
    (tmp_path / "y.toml").write_text("[[[")
    with pytest.raises(RecipeError, match="cannot be edited"):
        edit_recipe(tmp_path / "y.toml", {"training.epochs": 1})


def test_a_failed_write_keeps_the_file(file, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="The disk is full"):
        edit_recipe(file, {"training.epochs": 3})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


LAYOUTS = [
    MINIMAL,
    MINIMAL.rstrip("\n"),
    MINIMAL.replace("\n", "\r\n"),
    MINIMAL + "[adapter]\n  rank = 4   # indented\n\n\n",
    MINIMAL + "adapter = { rank = 4 }  # misplaced\n".replace("adapter", "map"),
    'adapter = { rank = 4, alpha = 8 }  # inline\ntraining.epochs = 4 # dotted\n' + MINIMAL,
    MINIMAL + "[[evaluation.disclaimers]]\ntext = 'x'\n\n[[evaluation.disclaimers]]\ntext = 'y'\n",
    MINIMAL + "[adapter]\ntargets = [\n  'q_proj', # one\n  'k_proj',\n]   # list\n[training]\nepochs=1\n",
    MINIMAL + "[evaluation.length]\nmax = 4\n[training]\n\n[evaluation]\nmax_tokens = 3\n",
    MINIMAL + '[evaluation]\nprompt = """\n[training]\nepochs = 9\n"""\n',
]  # fmt: skip
CHANGES = st.dictionaries(
    st.sampled_from(["training.epochs", "training.learning_rate", "adapter.targets", "adapter.alpha", "evaluation.prompt", "evaluation.max_tokens", "method.kind", "name"]),
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**6), st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3)),
    min_size=1, max_size=3,
)  # fmt: skip


@given(st.sampled_from(LAYOUTS), CHANGES)
def test_in_any_layout_an_edit_makes_only_its_changes(text, changes):
    try:
        edited = edit_text(text, changes)
    except RecipeError:
        return
    expected = tomllib.loads(text)
    for key, value in changes.items():
        *sections, last = key.split(".")
        if value is None and any(section not in expected for section in sections):
            continue
        table = expected
        for section in sections:
            table = table.setdefault(section, {})
        if value is None:
            table.pop(last, None)
        else:
            table[last] = value
    assert tomllib.loads(edited) == expected
    for comment in (line.partition("#")[2] for line in text.splitlines() if "#" in line and "one" not in line):
        assert comment in edited or any(value is None for value in changes.values())


@pytest.mark.parametrize("text", LAYOUTS)
def test_common_layouts_can_be_edited_repeatedly(text):
    changes: dict[str, Any] = {"training.epochs": 7, "adapter.rank": 3, "evaluation.max_tokens": 5, "name": "m"}
    edited = edit_text(text, {**changes, "adapter.rslora": False, "adapter.dropout": 0.5, "adapter.targets": "attention"})
    edited = edit_text(edited, {"adapter.rslora": True, "adapter.dropout": 0.25, "adapter.targets": ["a", "b"]})
    edited = edit_text(edited, {"adapter.rslora": False, "adapter.targets": None})
    values = tomllib.loads(edited)
    assert (values["training"]["epochs"], values["evaluation"]["max_tokens"]) == (7, 5)
    assert {"rank": 3, "rslora": False, "dropout": 0.25}.items() <= values["adapter"].items()
    assert "targets" not in values["adapter"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-4, "2e-4"), (1e-05, "1e-5"), (0.0015, "1.5e-3"), (0.01, "0.01"), (64.0, "64"), (0.1, "0.1"), (True, "true"), ("a\"b\n", '"a\\"b\\n"'), ([1.0, 0.2], "[1, 0.2]"), (["a", "b"], '["a", "b"]'), (1e300, "1e+300"), (-3e-7, "-3e-7")],
)  # fmt: skip
def test_values_are_written_in_short_form(value, text):
    assert toml_literal(value) == text
    assert tomllib.loads(f"v = {text}")["v"] == value


def test_parse_override():
    assert parse_override("training.grad_checkpoint=true") == ("training.grad_checkpoint", True)
    assert parse_override("model.base=some-model") == ("model.base", "some-model")
    with pytest.raises(RecipeError, match="key=value"):
        parse_override("training.")
