"""True lengths of every record, bad ones included, from a process that has the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlxtune.core.errors import ModelError
from mlxtune.data.checks import Tokens
from mlxtune.planning import ask
from mlxtune.recipe import load


def chatml(*turns: tuple[str, str]) -> int:
    """Tokens of whole turns by hand, a byte each but for the signs: start, role, line end, content, end, line end."""
    return sum(1 + len(role) + 1 + len(text) + 1 + 1 for role, text in turns)


def test_lengths_are_those_of_the_template_and_bad_rows_stop_nothing(workspace: Path) -> None:
    asked, said = [("user", "Why?")], ("assistant", "Because it was so.")
    rows = [
        json.dumps({"messages": [{"role": role, "content": text} for role, text in [*asked, said]]}),
        "{",
        json.dumps({"prompt": "Why?", "chosen": "Because it was so.", "rejected": "No."}),
        json.dumps({"prompt": "Why?", "completion": "No.", "label": False}),
        json.dumps({"text": "Just text"}),
    ]
    (workspace / "chat.jsonl").write_text("\n".join(rows) + "\n")
    prompt = chatml(*asked) + 1 + len("assistant") + 1
    whole = chatml(*asked, said)
    assert ask.tokens(load(workspace / "recipes" / "tiny.toml")) == [
        Tokens(whole, prompt),
        None,
        Tokens(whole - 1, prompt),  # a pair's answer ends with its stop, and not with the line end behind it
        Tokens(chatml(*asked, ("assistant", "No.")), prompt),
        Tokens(len("Just text") + 1, 1),
    ]


def test_a_model_that_is_not_there_is_said_to_be_so(workspace: Path) -> None:
    recipe = workspace / "recipes" / "tiny.toml"
    recipe.write_text(recipe.read_text().replace("../tiny", str(workspace / "nowhere")))
    with pytest.raises(ModelError):
        ask.tokens(load(recipe))
