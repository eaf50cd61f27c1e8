from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxtune.core.errors import InputError, MachineError, RecipeError
from mlxtune.recipe import load
from mlxtune.recipe.edit import edit, edited, literal, undo
from mlxtune.recipe.load import setting

RECIPES = Path(__file__).parents[2] / "recipes"
LEAST = 'name = "n"\n[model]\nbase = "m"\n[data]\nsource = "d.jsonl"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "support-json.toml"
    path.write_bytes((RECIPES / "support-json.toml").read_bytes())
    return path


def test_only_the_line_of_the_key_changes(file: Path) -> None:
    before = file.read_text()
    done = edit(file, {"training.learning_rate": 2e-4})
    assert done.recipe.training.learning_rate == 2e-4
    assert load(file) == done.recipe
    assert file.read_text() == before.replace("learning_rate = 1e-3", "learning_rate = 2e-4")


def test_a_comment_behind_a_value_keeps_its_column() -> None:
    text = (RECIPES / "brand-voice.toml").read_text()
    made = edited(text, {"method.pairs": "all"})
    old, new = (next(line for line in one.splitlines() if line.startswith("pairs")) for one in (text, made))
    assert new == 'pairs = "all"               # only those that the parent ranks wrongly: the others have little left to teach'
    assert new.index("#") == old.index("#")


def test_undo_gives_the_bytes_back(file: Path) -> None:
    before = file.read_bytes()
    first = edit(file, {"training.epochs": 3})
    second = edit(file, {"method.kind": "dpo", "adapter.rank": 4})
    assert undo(second).adapter.rank == 8
    assert undo(first).training.epochs == 2
    assert file.read_bytes() == before


def test_undo_spares_what_was_written_since(file: Path) -> None:
    done = edit(file, {"training.epochs": 3})
    file.write_text(file.read_text() + "# mine\n")
    with pytest.raises(InputError, match="was changed since"):
        undo(done)
    assert file.read_text().endswith("# mine\n")


def test_a_new_key_joins_its_section_and_a_new_section_the_end(file: Path) -> None:
    before = file.read_text()
    made = edited(before, {"training.epochs": 3})
    assert made == before.replace("samples = 1\n", "samples = 1\nepochs = 3\n")
    made = edited(before, {"evaluation.arms": ["base", "tuned"]})
    assert made == before.replace("max_tokens = 112\n", 'max_tokens = 112\narms = ["base", "tuned"]\n')
    assert edited(before, {"method.kind": "dpo"}) == before + '\n[method]\nkind = "dpo"\n'


def test_a_comment_on_the_next_section_stays_with_it() -> None:
    text = LEAST + "[adapter]\nrank = 4\n\n# how long\n[training]\nepochs = 1\n"
    assert edited(text, {"adapter.alpha": 8.0}) == text.replace("rank = 4\n", "rank = 4\nalpha = 8\n")


def test_none_takes_a_key_out_so_that_its_default_holds(file: Path) -> None:
    done = edit(file, {"adapter.rank": None})
    assert done.recipe.adapter.rank == 16
    assert "rank = 8" not in file.read_text()
    assert edit(file, {"method.beta": None}).before == done.after


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training.epochs": -1}, "^training.epochs must be 0 or more, not -1"),
        ({"training.epoch": 1}, "^unknown key epoch in .training."),
        ({"adapter.rank": "many"}, "^adapter.rank must be a whole number, not .many."),
        ({"name.x": 1}, "cannot be changed here"),
        ({"model.base": ""}, "model.base must be an alias"),
    ],
)
def test_what_would_be_no_recipe_is_refused_and_nothing_is_written(file: Path, changes: dict[str, Any], told: str) -> None:
    before = file.read_bytes()
    with pytest.raises(RecipeError, match=told):
        edit(file, changes)
    assert file.read_bytes() == before


def test_a_file_that_is_gone_or_no_text_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        edit(tmp_path / "gone.toml", {"training.epochs": 1})
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="cannot be read"):
        edit(tmp_path / "x.toml", {"training.epochs": 1})
    (tmp_path / "y.toml").write_text("[[[")
    with pytest.raises(RecipeError, match="cannot be changed here"):
        edit(tmp_path / "y.toml", {"training.epochs": 1})


def test_a_write_that_fails_leaves_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    before = file.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match="The disk is full"):
        edit(file, {"training.epochs": 3})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


LAYOUTS = [
    LEAST,
    LEAST.rstrip("\n"),
    LEAST.replace("\n", "\r\n"),
    LEAST + "[adapter]\n  rank = 4   # indented\n\n\n",
    LEAST + "adapter = { rank = 4 }  # not in its place\n".replace("adapter", "map"),
    'adapter = { rank = 4, alpha = 8 }  # inline\ntraining.epochs = 4 # dotted\n' + LEAST,
    LEAST + "[[evaluation.disclaimers]]\ntext = 'x'\n\n[[evaluation.disclaimers]]\ntext = 'y'\n",
    LEAST + "[adapter]\ntargets = [\n  'q_proj', # one\n  'k_proj',\n]   # list\n[training]\nepochs=1\n",
    LEAST + "[evaluation.length]\nmax = 4\n[training]\n\n[evaluation]\nmax_tokens = 3\n",
    LEAST + '[evaluation]\nprompt = """\n[training]\nepochs = 9\n"""\n',
]  # fmt: skip
CHANGES = st.dictionaries(
    st.sampled_from(["training.epochs", "training.learning_rate", "adapter.targets", "adapter.alpha", "evaluation.prompt", "evaluation.max_tokens", "method.kind", "name"]),
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**6), st.floats(allow_nan=False, allow_infinity=False), st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3)),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LAYOUTS), CHANGES)
def test_whatever_the_layout_the_text_means_the_change_and_nothing_else(text: str, changes: dict[str, Any]) -> None:
    try:
        made = edited(text, changes)
    except RecipeError:
        return
    wanted = tomllib.loads(text)
    for key, value in changes.items():
        *sections, last = key.split(".")
        if value is None and any(section not in wanted for section in sections):
            continue
        table = wanted
        for section in sections:
            table = table.setdefault(section, {})
        if value is None:
            table.pop(last, None)
        else:
            table[last] = value
    assert tomllib.loads(made) == wanted
    for comment in (line.partition("#")[2] for line in text.splitlines() if "#" in line and "one" not in line):
        assert comment in made or any(value is None for value in changes.values())


@pytest.mark.parametrize("text", LAYOUTS)
def test_usual_layouts_can_all_be_edited_again_and_again(text: str) -> None:
    changes: dict[str, Any] = {"training.epochs": 7, "adapter.rank": 3, "evaluation.max_tokens": 5, "name": "m"}
    made = edited(text, {**changes, "adapter.rslora": False, "adapter.dropout": 0.5, "adapter.targets": "attention"})
    made = edited(made, {"adapter.rslora": True, "adapter.dropout": 0.25, "adapter.targets": ["a", "b"]})
    made = edited(made, {"adapter.rslora": False, "adapter.targets": None})
    found = tomllib.loads(made)
    assert (found["training"]["epochs"], found["evaluation"]["max_tokens"]) == (7, 5)
    assert {"rank": 3, "rslora": False, "dropout": 0.25}.items() <= found["adapter"].items()
    assert "targets" not in found["adapter"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(2e-4, "2e-4"), (1e-05, "1e-5"), (0.0015, "1.5e-3"), (0.01, "0.01"), (64.0, "64"), (0.1, "0.1"), (True, "true"), ("a\"b\n", '"a\\"b\\n"'), ([1.0, 0.2], "[1, 0.2]"), (["a", "b"], '["a", "b"]'), (1e300, "1e+300"), (-3e-7, "-3e-7")],
)  # fmt: skip
def test_values_are_written_as_people_write_them(value: object, text: str) -> None:
    assert literal(value) == text
    assert tomllib.loads(f"v = {text}")["v"] == value


def test_a_setting_is_read_as_the_command_line_reads_it() -> None:
    assert setting("training.grad_checkpoint=true") == ("training.grad_checkpoint", True)
    assert setting("model.base=some-model") == ("model.base", "some-model")
    with pytest.raises(RecipeError, match="key=value"):
        setting("training.")
