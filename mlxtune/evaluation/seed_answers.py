"""Generate the answers of several seeds' adapters to the validation and the held-out rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.data.rows import PromptRow
from mlxtune.evaluation.arms import TUNED, Arm
from mlxtune.evaluation.outputs import generate_answers
from mlxtune.evaluation.seed_evidence import SeedAdapter, SeedAnswer, SplitPart
from mlxtune.models import lora
from mlxtune.models.generate import Progress
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix_cache import PrefixCache


def answer_with_seeds(
    seeds: Sequence[SeedAdapter],
    rows: Mapping[SplitPart, Sequence[PromptRow]],
    tell: Callable[[str, str], Progress],
    *,
    loaded: LoadedModel,
    **options: Any,
) -> list[SeedAnswer]:
    """Return every seed's answers to ``rows``. ``loaded`` has no adapter before the call, and the last seed's after it.

    ``tell`` returns the progress callback for a seed and a kind of work. ``options`` are those of :func:`generate_answers`.
    """
    answers: list[SeedAnswer] = []
    for index, seed in enumerate(seeds):
        (lora.load_weights if index else lora.load)(loaded.model, Path(seed.adapter))
        prefixes = PrefixCache(loaded.model)
        for part, prompts in rows.items():
            arm = Arm(TUNED, Path(seed.adapter))
            progress = partial(tell, f"seed {seed.seed}")
            reply = generate_answers(
                arm, loaded, prompts, tell=progress, of=f"{part.replace('-', '_')}_row", shared=prefixes, **options
            )
            answers += [
                SeedAnswer(
                    seed.run, seed.seed, part, output.id, output.output, output.ended, output.nats, output.tokens, output.logprobs
                )
                for output in reply.outputs
            ]  # fmt: skip
    return answers
