"""TRL's training templates as an independent opinion on the trained text of a turn, and the known differences from ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bases import Base
from downloads import TRL
from row_shapes import Record
from verdict import THOUGHT_KEYS, spans, thought_and_content

PROMPT_THOUGHT = "With thinking off, the empty think block is the end of the prompt, so the model never generates it."
PROMPT_TAG = "The generation prompt ends with the opening think tag."
NEWLINE = "We stop at the stop token. TRL also trains the newline after it, which is never generated."
HEADER = "TRL trains the header of the turn, which is the end of the prompt."


@dataclass(frozen=True)
class Difference:
    """``before`` and ``after`` our text, TRL trains more, in the templates whose names start with one of ``templates``."""

    templates: tuple[str, ...]
    before: str
    after: str
    reason: str


DIFFERENCES = (
    Difference(("qwen3_5", "qwen3_6", "qwen3_8", "qwen3"), "<think>\n\n</think>\n\n", "\n", f"{PROMPT_THOUGHT} {NEWLINE}"),
    Difference(("nemotron",), "<think></think>", "\n", f"{PROMPT_THOUGHT} {NEWLINE}"),
    Difference(("qwen3_5", "qwen3_6", "qwen3_8", "nemotron"), "<think>\n", "\n", f"{PROMPT_TAG} {NEWLINE}"),
    Difference(("qwen3", "gemma", "lfm2"), "", "\n", NEWLINE),
    Difference(("qwen2_5",), "\n", "\n", f"{HEADER} {NEWLINE}"),
    Difference(("phi3",), "", "\n<|endoftext|>", "The first stop token ends the answer. TRL trains a second one behind it."),
    Difference(("gptoss", "muse"), "<|start|>assistant", "", HEADER),
)


def expected_text(tokenizer: Any, base: Base, turns: Sequence[Record], tools: Any) -> str:
    """Return the text that TRL trains of the last of ``turns``, rendered with the base's training template."""
    twin = TRL.folder() / f"{base.template}_training.jinja"
    marked = tokenizer.apply_chat_template(
        [_plain(turn) for turn in turns],
        tools=tools,
        chat_template=(twin if twin.exists() else TRL.folder() / f"{base.template}.jinja").read_text(),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    start, end = spans(marked["assistant_masks"])[-1]
    return tokenizer.decode(marked["input_ids"][start:end])


def _plain(turn: Record) -> Record:
    """Return a turn as TRL's templates take it: roles that they know, text content, and thoughts in ``reasoning_content``."""
    plain = {key: value for key, value in turn.items() if key not in ("weight", *THOUGHT_KEYS)}
    content = turn["content"]
    plain["content"] = "".join(part["text"] for part in content) if isinstance(content, list) else content or ""
    if turn["role"] == "developer":
        plain["role"] = "system"
    if turn["role"] == "assistant":
        thought, plain["content"] = thought_and_content(turn)
        plain |= {"reasoning_content": thought} if thought else {}
    return plain


def difference(base: Base, ours: str, theirs: str) -> Difference | None:
    """Return the known difference between the trained texts of a turn. Raises ``AssertionError`` for an unknown one."""
    if ours == theirs:
        return None
    for known in DIFFERENCES:
        if base.template.startswith(known.templates) and theirs == known.before + ours + known.after:
            return known
    raise AssertionError(f"{base.name}: TRL trains {theirs!r} and we train {ours!r}")
