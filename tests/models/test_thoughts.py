"""Reasoning is separated from the answer, whatever the pieces in which the text arrives, and answers that repeat themselves end early."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from mlx_lm.utils import load as load_stock
from mlx_lm.utils import load_tokenizer

from mlxtune.data import samples
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.models.thoughts import COPIES, LEAST, MAX_PERIOD, AnswerBuilder, LoopDetector, LoopRule, ThoughtSplitter

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


def end_of(tokens: list[int]) -> int | None:
    """Return the number of tokens after which the output counts as a loop."""
    detector = LoopDetector()
    return next((count for count, token in enumerate(tokens, 1) if detector.add(token)), None)


@pytest.mark.parametrize("period", [1, 2, 7, LEAST // 2, LEAST, MAX_PERIOD])
def test_repeated_passage_is_a_loop_after_enough_copies(period: int) -> None:
    start, passage = list(range(1000, 1011)), list(range(period))
    tokens = start + passage * (LEAST + COPIES + 1)
    assert end_of(tokens) == len(start) + period + max(LEAST, COPIES * period)


def test_passage_that_is_too_long_or_changes_is_no_loop() -> None:
    assert end_of(list(range(MAX_PERIOD + 1)) * 9) is None
    assert end_of([token for number in range(50) for token in (1, 2, 3, 4, 100 + number)]) is None  # a list with rising numbers
    copies = list(range(LEAST)) * COPIES
    assert end_of([*copies, 500, *copies]) is None


def test_no_reference_answer_is_a_loop(tiny: Path) -> None:
    tokenizer = load_tokenizer(tiny)
    lines = (samples.samples_root() / "data/samples/support.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["messages"][-1]["content"] for line in lines[::4]]
    assert not any(end_of(tokenizer.encode(answer)) for answer in answers)


@pytest.mark.slow
def test_answers_are_the_beginning_of_the_whole_answers(tiny: Path) -> None:
    """A random model loops. What it writes up to there is what it would have written anyway, and the rest is a repetition of it."""
    model, tokenizer = load_stock(str(tiny))
    prompts = [[70, 71, 72], [73], [74, 75, 76, 77]]
    settings = GenerationSettings(max_tokens=200, stops=frozenset(), batch_size=3)
    whole = generate(model, tokenizer, [PromptGroup(prompts, settings)])
    stopped = generate(model, tokenizer, [PromptGroup(prompts, replace(settings, loops=LoopRule()))])
    assert "loop" in [answer.ended for answer in stopped]
    for full, answer in zip(whole, stopped, strict=True):
        assert (full.ended, full.tokens) == ("length", 200)
        assert full.text.startswith(answer.text)
        assert (answer.tokens < 200) == (answer.ended == "loop")


def test_loop_in_a_thought_ends_the_reasoning() -> None:
    builder = AnswerBuilder(lambda tokens: "".join(map(chr, tokens)), [], 50, 500, loops=LoopRule())
    endings = [builder.add(ord(character)) for character in "<think>" + "Wait. " * 50]
    ended = next(ending for ending in endings if ending)
    answer = builder.finish(ended)
    assert (ended, answer.ended, answer.text) == ("thinking_loop", "thinking_loop", "")
    assert endings.index("thinking_loop") < 7 + LEAST + 2 * len("Wait. ")
