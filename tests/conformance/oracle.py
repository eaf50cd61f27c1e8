"""TRL's training templates as an independent opinion on the trained text of each turn, and the known differences from ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from bases import Base
from downloads import TRL
from row_shapes import Record
from verdict import spans, turns

# Ours is TRL's without what stands before and after it.
PROMPT_THOUGHTS = "With thinking off, the empty think block is the end of the prompt, so the model never generates it."
PROMPT_TAG = "The generation prompt ends with the opening think tag."
NEWLINE = "We stop at the stop token. TRL also trains the newline after it, which is never generated."
HEADER = "TRL trains the header of the turn, which is the end of the prompt."


@dataclass(frozen=True)
class Difference:
    """``before`` and ``after`` are trained by TRL only, ``stop`` by us only, in templates whose names start with one of ``templates``."""

    templates: tuple[str, ...]
    before: str
    after: str
    reason: str
    stop: str = ""


DIFFERENCES = (
    Difference(("qwen3_5", "qwen3_6", "qwen3_8", "qwen3"), "<think>\n\n</think>\n\n", "\n", f"{PROMPT_THOUGHTS} {NEWLINE}"),
    Difference(("nemotron",), "<think></think>", "\n", f"{PROMPT_THOUGHTS} {NEWLINE}"),
    Difference(("qwen3_5", "qwen3_6", "qwen3_8", "nemotron"), "<think>\n", "\n", f"{PROMPT_TAG} {NEWLINE}"),
    Difference(("qwen3", "gemma", "lfm2", "phi3"), "", "\n", NEWLINE),
    Difference(("qwen2_5",), "\n", "\n", f"{HEADER} {NEWLINE}"),
    Difference(("phi3",), "", "\n<|endoftext|>", "The first stop token ends the answer. TRL trains a second one behind it."),
    Difference(
        ("cohere2",), "", "<|END_OF_TURN_TOKEN|>", "The first token that ends the answer ends it. TRL trains the next one, too."
    ),
    Difference(("gptoss", "muse"), "<|start|>assistant", "", HEADER),
    Difference(
        ("gptoss",),
        "<|start|>assistant",
        "<|end|>",
        f"{HEADER} An earlier answer ends as it does when it is the last.",
        "<|return|>",
    ),
)


def expected_texts(tokenizer: Any, base: Base, record: Record) -> tuple[str, ...]:
    """Return the text that TRL trains of each assistant turn of ``record``, rendered with the base's training template."""
    name = f"{base.template}_training.jinja"
    file = TRL.folder() / name
    messages = copy.deepcopy(turns(record))
    for message in messages:
        message.pop("weight", None)
        if isinstance(message["content"], list):
            message["content"] = "".join(part["text"] for part in message["content"])
        message["content"] = message["content"] or ""
        if "</think>" in message["content"]:  # a reader separates it from the answer
            thought, message["content"] = message["content"].split("</think>\n\n")
            message["reasoning_content"] = thought.removeprefix("<think>\n").removesuffix("\n")
        for key in ("reasoning", "thinking"):
            if key in message:
                message["reasoning_content"] = message.pop(key)
    marked = tokenizer.apply_chat_template(
        messages,
        tools=record.get("tools"),
        chat_template=(file if file.exists() else TRL.folder() / f"{base.template}.jinja").read_text(),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    tokens = marked["input_ids"]
    return tuple(tokenizer.decode(tokens[start:end]) for start, end in spans(marked["assistant_masks"]))


def difference(base: Base, ours: str, theirs: str) -> Difference | None:
    """Return the known difference between the trained texts of a turn. Raises ``AssertionError`` for an unknown one."""
    if ours == theirs:
        return None
    for known in DIFFERENCES:
        if base.template.startswith(known.templates) and theirs == known.before + ours.removesuffix(known.stop) + known.after:
            return known
    raise AssertionError(f"{base.name}: TRL trains {theirs!r} and we train {ours!r}")
