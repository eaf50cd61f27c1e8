"""What the model answers to a few validation rows while it trains: the quickest way to see that a run goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlxtune.data.rows import Conversation, Row
from mlxtune.models.generate import generate
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate

Sampler = Callable[[int], None]  # takes the step


def sampler(
    loaded: LoadedModel, template: ChatTemplate, rows: Sequence[Row], count: int, max_tokens: int, emit: Callable[..., None]
) -> Sampler:
    """A function that lets the model, as it is now, answer the first ``count`` conversations of ``rows`` and emits ``sample`` events."""
    asked = [row for row in rows if isinstance(row, Conversation)][:count]
    prompts = [template.prompt(row.prompt, row.tools) for row in asked]

    def sample(step: int) -> None:
        if not asked:
            return
        loaded.model.eval()
        answers = generate(
            loaded.model, loaded.tokenizer, prompts, max_tokens=max_tokens, stops=template.stops, batch_size=len(prompts)
        )
        loaded.model.train()
        for row, (output, ended) in zip(asked, answers, strict=True):
            verdict = "ended by itself" if ended == "stop" else f"cut at {max_tokens} tokens"
            emit("sample", step=step, row=row.id, prompt=row.prompt[-1].content, output=output, verdict=verdict)

    return sample
