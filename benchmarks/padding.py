"""Padding and compiled steps of SFT, DPO, and KTO, on random row lengths. No model is loaded.

    python benchmarks/padding.py [--rows 2000] [--epochs 3]

*Computed* counts the positions that training computes per real one, in batches of four. A pair's prompt counts once if it is shared, as with
plain attention, or else twice. Lengths are log-normal; a pair's answers correlate, and KTO's second answer belongs to another prompt.
"""

from __future__ import annotations

import argparse
import math
import random

from mlxtune.data.batching import PairLengths
from mlxtune.planning.workload import DatasetLengths, RowLength, workload
from mlxtune.recipe import TrainingSection

LONGEST, CORRELATION = 1024, 0.5  # of prompts and answers in tokens; of the logarithms of a pair's lengths
LENGTHS = {  # median and deviation of the logarithm: of prompts, and of answers
    "narrow": ((60, 0.25), (40, 0.25)),
    "medium": ((120, 0.5), (90, 0.5)),
    "like UltraFeedback": ((110, 1.0), (240, 0.75)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    print(f"{'':42}computed  traces")
    for name in LENGTHS:
        pairs = pair_lengths(name, options.rows)
        others = [(prompt, own, pairs[index - 1][1]) for index, (prompt, own, _) in enumerate(pairs)]
        for method, rows in {"SFT": pairs, "DPO": pairs, "KTO": others}.items():
            for shared in (True,) if method == "SFT" else (True, False):
                computed, traces = padding(rows, options.epochs, paired=method != "SFT", shared=shared)
                label = f"{name}, {method}" + ("" if shared else ", prompts not shared")
                print(f"{label:<42}{computed:8.3f}{traces:8}")


def pair_lengths(name: str, count: int) -> list[PairLengths]:
    """Return the lengths of prompts and of both answers."""
    dice, rows = random.Random(7), []
    (prompt_median, prompt_sigma), (median, sigma) = LENGTHS[name]
    for _ in range(count):
        prompt = _clip(prompt_median * dice.lognormvariate(0, prompt_sigma))
        both = math.sqrt(CORRELATION) * dice.gauss()
        own = (both + math.sqrt(1 - CORRELATION) * dice.gauss() for _ in range(2))
        chosen, rejected = (_clip(median * math.exp(sigma * deviation)) for deviation in own)
        rows.append((prompt, chosen, rejected))
    return rows


def padding(rows: list[PairLengths], epochs: int, *, paired: bool, shared: bool) -> tuple[float, int]:
    """Return the computed positions per real one, and the number of compiled steps."""
    if paired:
        given = [RowLength(prompt + max(own, other), own + other, prompt, (prompt, own, other)) for prompt, own, other in rows]
        real = sum(prompt + own + other - 2 if shared else 2 * (prompt - 1) + own + other for prompt, own, other in rows)
    else:
        given = [RowLength(prompt + own, own, prompt) for prompt, own, _ in rows]
        real = sum(prompt + own - 1 for prompt, own, _ in rows)
    section = TrainingSection(epochs=epochs, batch_size=4)
    work = workload(DatasetLengths(tuple(given), (), 0, shared), section, 4 * LONGEST, compiled=True)
    return work.computed / (epochs * real), work.traces


def _clip(length: float) -> int:
    return min(LONGEST, max(4, round(length)))


if __name__ == "__main__":
    main()
