"""What a recipe will cost on this machine, from shapes and lengths, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from mlxtune.data.rows import Conversation, Row, Text
from mlxtune.data.split import Split
from mlxtune.planning.machine import Machine
from mlxtune.recipe import Recipe

Word = Literal["go", "warn", "refuse"]
_TURN = 6  # tokens a chat template adds around a turn, about
_FLOAT = 4


@dataclass(frozen=True)
class Plan:
    """An estimate, rounded honestly: ``memory`` is the expected peak in bytes, ``limit`` what the machine should give at most."""

    train: int
    valid: int
    test: int
    steps: int
    tokens: int
    longest: int
    memory: int
    limit: int
    word: Word

    @property
    def sentence(self) -> str:
        """What the plan means."""
        used, there = self.memory / 1e9, self.limit / 1e9
        if self.word == "refuse":
            return f"This does not fit: about {used:.1f} of {there:.1f} GB. Lower training.batch_tokens or training.batch_size."
        if self.word == "warn":
            return f"This is tight: about {used:.1f} of {there:.1f} GB. Close other apps, or lower training.batch_tokens."
        return f"This fits: about {used:.1f} of {there:.1f} GB."


def plan(recipe: Recipe, shares: Split, folder: Path, config: dict[str, Any], machine: Machine) -> Plan:
    """Estimate ``recipe`` on ``machine``. Lengths are counted with the model's tokenizer; a template's own tokens are guessed."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    lengths = [min(length, recipe.data.max_tokens) for length in _lengths(tokenizer, shares.train)]
    section = recipe.training
    longest = max(lengths)
    size = section.batch_size or max(1, section.batch_tokens // max(1, round(sum(lengths) / len(lengths))))
    steps = section.steps or section.epochs * math.ceil(math.ceil(len(lengths) / size) / section.accumulate)
    widest = sum(sorted(lengths)[-size:]) if section.batch_size else max(section.batch_tokens, longest)
    memory = _weights(folder, config, machine) + _activations(config, recipe, widest, longest)
    share = memory / machine.limit
    word: Word = "refuse" if share > 1 else "warn" if share > 0.8 else "go"
    return Plan(len(shares.train), len(shares.valid), len(shares.test), steps, sum(lengths), longest, memory, machine.limit, word)


def _lengths(tokenizer: Tokenizer, rows: Sequence[Row]) -> list[int]:
    texts = [_texts(row) for row in rows]
    counts = iter(
        len(item.ids) for item in tokenizer.encode_batch([text for parts in texts for text in parts], add_special_tokens=False)
    )
    return [sum(next(counts) + _TURN for _ in parts) for parts in texts]


def _texts(row: Row) -> list[str]:
    if isinstance(row, Conversation):
        return [message.content for message in row.messages]
    return [row.text] if isinstance(row, Text) else [*(message.content for message in row.prompt), row.chosen]


def _weights(folder: Path, config: dict[str, Any], machine: Machine) -> int:
    """Bytes of the weights as they will compute: as saved on a GPU, in float32 on a CPU."""
    saved = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    if machine.backend != "cpu":
        return saved
    bits = (config.get("quantization") or {}).get("bits")
    return saved * 32 // (bits + 1) if bits else saved * 2  # a group's scale and bias add about one bit a weight


def _activations(config: dict[str, Any], recipe: Recipe, tokens: int, longest: int) -> int:
    """Bytes kept for the backward pass of ``tokens`` tokens, and the adapter with its optimizer."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    adapted = layers if recipe.adapter.layers == "all" else min(recipe.adapter.layers, layers)
    per_token = 12 * width + 6 * inner + 3 * heads * longest
    adapter = adapted * recipe.adapter.rank * (8 * width + 3 * inner)
    return int(_FLOAT * (adapted * tokens * per_token + 4 * adapter))
