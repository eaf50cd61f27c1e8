"""The time that an answer takes alone, estimated from a few answers."""

from collections.abc import Sequence

import pytest

from mlxtune.evaluation import outputs
from mlxtune.evaluation.outputs import Latency, measure_latency
from mlxtune.models.generate import Progress
from mlxtune.models.thoughts import GeneratedAnswer


def test_times_of_first_and_further_tokens_are_medians_of_single_answers(monkeypatch):
    clock, lengths = [0.0], []
    monkeypatch.setattr(outputs.time, "perf_counter", lambda: clock[0])

    def answer(prompt: Sequence[int], most: int, progress: Progress) -> GeneratedAnswer:
        lengths.append(len(prompt))
        clock[0] += 0.5 * len(prompt)
        progress(0, 1)  # prefill
        for _ in range(4):  # two tokens of reasoning, one of the answer, and the stop token
            clock[0] += 0.25
            progress(0, 1)
        return GeneratedAnswer("a", "stop", "b c", 2, 1)

    measured = measure_latency([[1] * length for length in (9, 1, 3, 5, 7, 2)], answer)
    assert lengths == [2, 5, 9]
    assert (measured.first, measured.further) == pytest.approx((0.5 * 5 + 0.25, 0.25))
    assert measured.seconds(5) == pytest.approx(2.75 + 4 * 0.25)


def test_single_row_and_single_token_are_enough():
    def answer(prompt: Sequence[int], most: int, progress: Progress) -> GeneratedAnswer:
        progress(1, 1)
        return GeneratedAnswer("", "stop")

    measured = measure_latency([[1, 2]], answer)
    assert measured.first >= 0
    assert measured.further == 0


def test_answer_without_tokens_takes_as_long_as_its_first_token():
    assert Latency(2.0, 1.0).seconds(0) == 2.0
