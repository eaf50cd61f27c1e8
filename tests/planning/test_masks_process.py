"""The process that knows the tokens: asked row after row, killed, put away."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mlxtune.core.errors import MachineError, ModelError, TooLongError
from mlxtune.data.rows import Conversation, Message, Place
from mlxtune.planning.masks import Masks
from mlxtune.recipe import load

ROW = Conversation(Place(Path("d.jsonl"), 1), {}, (Message("user", "Hi"), Message("assistant", "Yes?")))


def test_it_answers_row_after_row_dies_and_comes_back(workspace: Path) -> None:
    recipe = load(workspace / "recipes" / "tiny.toml")
    masks = Masks(recipe)
    first = masks.ask(ROW)
    assert [turn.trained for turn in first.turns] == [0, len("Yes?<")]
    assert first.turns[1].pieces("Yes?") == list("Yes?")
    process = masks._process
    assert process is not None
    assert masks.ask(replace(ROW, messages=(*ROW.messages[:1], Message("assistant", "No")))).trained == 3
    process.kill()
    with pytest.raises(MachineError, match="The process with the tokenizer died"):
        masks.ask(ROW)
    assert masks.ask(ROW) == first
    masks.close()
    assert process.poll() is not None
    with pytest.raises(MachineError):
        masks.ask(ROW)


def test_what_is_wrong_with_the_model_or_the_row_is_raised_here(workspace: Path) -> None:
    recipe = load(workspace / "recipes" / "tiny.toml")
    masks = Masks(replace(recipe, model=replace(recipe.model, base="./gone")))
    with pytest.raises(ModelError, match="There is no model called"):
        masks.ask(ROW)
    masks.close()
    settings = workspace / "tiny" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "chat_template": "{{ raise_exception('no') }}"}))
    masks = Masks(recipe)
    with pytest.raises(Exception, match="refuses this conversation") as caught:
        masks.ask(ROW)
    assert not isinstance(caught.value, TooLongError)
    masks.close()
