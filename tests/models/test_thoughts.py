"""Reasoning is separated from the answer, whatever the pieces in which the text arrives."""

import random

import pytest

from mlxtune.models.thoughts import AnswerBuilder, ThoughtSplitter

GPT_OSS = "<|channel|>analysis<|message|>Hm <b>.<|end|><|start|>assistant<|channel|>final<|message|>"
CASES = [
    ("", "Hello", "", "Hello"),
    ("", "  Hello ", "", "  Hello "),
    ("", "", "", ""),
    ("", " \n", "", " \n"),
    ("", " " * 12, "", " " * 12),
    ("", "<thi", "", "<thi"),
    ("", "<b>bold</b> <think>not a thought</think>", "", "<b>bold</b> <think>not a thought</think>"),
    ("", '["a"]', "", '["a"]'),
    ("", '<think>\nHm < 3.\n</think>\n\n{"a": 1}', "\nHm < 3.\n", '{"a": 1}'),
    ("", "\n<think>\n\n</think>\n\nYes", "\n\n", "Yes"),
    ("", "<think>never closed</thin", "never closed</thin", ""),
    ("", "<think>one</think><think>two</think>Yes", "onetwo", "Yes"),
    ("<|im_start|>assistant\n<think>\n", "Hm.</think>\n\nYes", "Hm.", "Yes"),
    ("<|im_start|>assistant\n<think>\n", "Hm.</think>\n\n", "Hm.", ""),
    ("<think>\n\n</think>\n\n", "Yes", "", "Yes"),
    ("[/INST]", "[THINK]Hm.[/THINK]Yes [THINK]", "Hm.", "Yes [THINK]"),
    ("<|turn>model\n", "<|channel>thought\nHm.<channel|>Yes", "\nHm.", "Yes"),
    ("<|start|>assistant", f"{GPT_OSS}Yes", "Hm <b>.", "Yes"),
    ("<|start|>assistant", "<|channel|>final<|message|>Yes", "", "Yes"),
    ("<|start|>assistant", "<|channel|>commentary to=functions.f<|message|>{}", "", "<|channel|>commentary to=functions.f<|message|>{}"),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "text", "thought", "answer"), CASES)
def test_thoughts_are_separated_from_the_answer(prompt, text, thought, answer):
    rng = random.Random(7)
    for most in (1, 4, len(text) + 1):
        splitter, parts, index = ThoughtSplitter(prompt), [("", "")], 0
        while index < len(text):
            size = rng.randint(1, most)
            parts.append(splitter.add(text[index : index + size]))
            index += size
        parts.append(splitter.end())
        assert tuple("".join(part) for part in zip(*parts, strict=True)) == (thought, answer)


def _build(prompt: str, text: str, **limits: int):
    """Feed ``text`` to a builder, one character a token, until it has to end."""
    builder = AnswerBuilder(lambda tokens: "".join(map(chr, tokens)), [ord(char) for char in prompt], **limits)
    ended = ""
    for char in text:
        if ended := builder.add(ord(char)):
            break
    return builder.finish(ended or "stop")


def test_thoughts_have_a_limit_of_their_own():
    text = "<think>12345</think>answer"
    answer = _build("", text, max_tokens=6, thinking_tokens=21)
    assert (answer.text, answer.ended, answer.thought, answer.thought_tokens) == ("answer", "length", "12345", 20)
    assert _build("", text, max_tokens=7, thinking_tokens=20).ended == "stop"
    cut = _build("", text, max_tokens=7, thinking_tokens=9)
    assert (cut.text, cut.ended, cut.thought, cut.thought_tokens) == ("", "thinking", "12", 9)


def test_without_a_limit_of_their_own_thoughts_count_as_answer():
    assert _build("", "<think>12345</think>answer", max_tokens=23).text == "ans"
    assert _build("", "<think>12345</think>answer", max_tokens=10).ended == "thinking"
    assert _build("", "answer", max_tokens=3) == _build("", "ans", max_tokens=3)


def test_an_empty_thought_does_not_count():
    answer = _build("", "<think>\n\n</think>\n\nYes", max_tokens=50, thinking_tokens=50)
    assert (answer.text, answer.thought, answer.thought_tokens) == ("Yes", "", 0)
    assert _build("<think>\n", "Hm</think>Yes", max_tokens=50, thinking_tokens=50).thought_tokens == 10
