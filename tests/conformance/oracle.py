"""The marks of training templates, and what Transformers renders after a prompt, as independent opinions on the trained text of a turn.

The marks are TRL's, and those that SmolLM3's own template has. Differences from ours are known, and so are the templates that render a prompt differently once it is answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bases import Base, template_file
from downloads import TRL
from row_shapes import Record
from verdict import THOUGHT_KEYS, spans, thought_and_content

PROMPT_THOUGHT = "With thinking off, the empty think block is the end of the prompt, so the model never generates it."
PROMPT_TAG = "The generation prompt ends with the opening think tag."
NEWLINE = "We stop at the stop token. TRL also trains the newline after it, which is never generated."
HEADER = "The marks include the header of the turn, which is the end of the prompt."


@dataclass(frozen=True)
class Difference:
    """``before`` and ``after`` our text, the marks include more, in the templates whose names start with one of ``templates``."""

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
    Difference(("smollm3",), "<|im_start|>assistant\n", "\n", f"{HEADER} {NEWLINE}"),
)


def expected_text(tokenizer: Any, base: Base, turns: Sequence[Record], tools: Any) -> str:
    """Return the text of the last of ``turns`` that the base's training template marks, or its own if there is none."""
    twin = TRL.folder() / f"{base.template}_training.jinja"
    marked = tokenizer.apply_chat_template(
        _plain_turns(base, turns),
        tools=tools,
        chat_template=(twin if twin.exists() else template_file(base)).read_text(),
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    start, end = spans(marked["assistant_masks"])[-1]
    return tokenizer.decode(marked["input_ids"][start:end])


REWRITTEN = {  # the end of the prompt, if the template renders what is before it differently once it is answered
    "Gemma 4 31B": ("<|turn>model\n", PROMPT_THOUGHT),
    "Command R7B": ("<|CHATBOT_TOKEN|>", PROMPT_THOUGHT),
    "Mistral Nemo": (
        "[/INST]",
        "The template renders system text in the last user turn, and only if the conversation ends with it.",
    ),
    "Bielik 3": (
        "<|im_start|>assistant\n",
        "The template ends a tool's result with a stop token only before the generation prompt.",
    ),
    "Hermes 3": ("<|im_start|>assistant\n", "The template writes a line break after a tool's result only if another turn follows."),
    "gpt-oss": ("<|start|>assistant", "The template leaves out the thoughts before calls once the final answer follows."),
}
ALWAYS_PROMPTS = {"Command R7B": "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_THINKING|><|END_THINKING|>"}  # also at the end
INLINE_THOUGHT = {  # how the template takes a thought, if not as ``reasoning_content``
    "SmolLM3": lambda thought, text: f"<think>\n{thought}\n</think>\n\n{text}",
    "OLMo 3 Think": lambda thought, text: f"<think>\n{thought}\n</think>\n\n{text}",
    "Ministral 3 Reasoning": lambda thought, text: [
        {"type": "thinking", "thinking": thought},
        *([{"type": "text", "text": text}] if text else []),
    ],
}


def rendered_text(tokenizer: Any, base: Base, turns: Sequence[Record], tools: Any, *, thinking: bool) -> str:
    """Return the text that Transformers renders of the last of ``turns`` after the prompt for it, up to the first stop token.

    Raise ``TemplateError`` if the template refuses the turns, and ``AssertionError`` if it rewrites the prompt for an unknown reason.
    """

    def render(turns: Sequence[Record], *, prompt: bool) -> str:
        options = {"tools": tools, "enable_thinking": thinking, "add_generation_prompt": prompt}
        return tokenizer.apply_chat_template(_plain_turns(base, turns), tokenize=False, **options)

    prompt = render(turns[:-1], prompt=True)
    whole = render(turns, prompt=False).removesuffix(ALWAYS_PROMPTS.get(base.name, ""))
    if whole.startswith(prompt):
        answer = whole.removeprefix(prompt)
    else:
        assert base.name in REWRITTEN, f"{base.name}: {prompt!r} does not begin {whole!r}"
        answer = whole.rpartition(REWRITTEN[base.name][0])[2]
    ends = [answer.index(stop) + len(stop) for stop in base.stops if stop in answer]
    return answer[: min(ends)] if ends else answer


def _plain_turns(base: Base, turns: Sequence[Record]) -> list[Record]:
    """Return ``turns`` as the templates of ``base`` take them."""
    plain = [_plain(turn) for turn in turns]
    for turn in plain if base.name in INLINE_THOUGHT else []:
        if thought := turn.pop("reasoning_content", ""):
            turn["content"] = INLINE_THOUGHT[base.name](thought, turn["content"])
    return plain


def _plain(turn: Record) -> Record:
    """Return a turn with a role that templates know, text content, and its thought in ``reasoning_content``."""
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
    """Return the known difference between the trained and the marked text of a turn. Raises ``AssertionError`` for an unknown one."""
    if ours == theirs:
        return None
    for known in DIFFERENCES:
        if base.template.startswith(known.templates) and theirs == known.before + ours + known.after:
            return known
    raise AssertionError(f"{base.name}: the marked text is {theirs!r}, and we train {ours!r}")
