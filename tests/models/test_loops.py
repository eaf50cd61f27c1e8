"""Answers that repeat themselves end early, and nothing else does."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from mlx_lm.utils import load as load_stock
from mlx_lm.utils import load_tokenizer

from mlxtune.data import samples
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.models.thoughts import COPIES, LEAST, MAX_PERIOD, AnswerBuilder, LoopDetector, LoopRule


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
