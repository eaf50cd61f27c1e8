"""Estimate how long each answer takes if it is generated alone, as for a single user who waits for it.

An evaluation generates many answers at once, and none of them takes as long as it would alone. Therefore, the first tokens of a few
answers are generated again, one row at a time, which gives the time to the first token and per subsequent token. The other answers'
times follow from their numbers of tokens. The part of the prompt that all rows share is already computed, as in a server that caches
it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from mlxtune.models.generate import Progress
from mlxtune.models.thoughts import GeneratedAnswer

PROBES = 3  # number of rows that are answered alone
PROBE_TOKENS = 24  # maximum length of each of these answers

GenerateOne = Callable[[Sequence[int], int, Progress], GeneratedAnswer]
"""Answers a prompt with at most some number of tokens. The progress callback is called after every token."""


@dataclass(frozen=True)
class Latency:
    """The seconds to the first token of an answer, and per subsequent token."""

    first: float
    further: float

    def seconds(self, tokens: int) -> float:
        """Return the time of an answer with ``tokens`` tokens, reasoning included."""
        return self.first + self.further * max(0, tokens - 1)


def measure_latency(
    prompts: Sequence[Sequence[int]], generate_one: GenerateOne, progress: Progress = lambda done, total: None
) -> Latency:
    """Answer :data:`PROBES` of ``prompts``, of different lengths, one at a time, and return the medians of their times."""
    by_length = sorted(prompts, key=len)
    probes = [by_length[(2 * index + 1) * len(by_length) // (2 * PROBES)] for index in range(PROBES)]
    first, further = [], []
    for number, prompt in enumerate(probes):
        progress(number, PROBES)
        times: list[float] = []
        start = time.perf_counter()
        answer = generate_one(prompt, PROBE_TOKENS, lambda done, total, times=times: times.append(time.perf_counter()))  # type: ignore[misc]
        count = max(1, answer.tokens + answer.thought_tokens + (answer.ended == "stop"))
        times = times[-count:]  # without the calls during prefill
        first.append(times[0] - start)
        further += [(times[-1] - times[0]) / (len(times) - 1)] if len(times) > 1 else []
    return Latency(median(first), median(further) if further else 0.0)
