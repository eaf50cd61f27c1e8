"""What the model answers to a few validation rows while it trains: the quickest way to see that a run goes wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlxtune.data.rows import Conversation, Preference, Row, Unpaired
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import Answer
from mlxtune.models.generate import generate
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate

BROKEN = 0.25  # of the samples: so many that held the contract before the first step and do not now are no accident


@dataclass
class Sampler:
    """Lets the model, as it is now, answer the first ``count`` of ``rows``, and emits ``sample`` events.

    With a ``contract`` it also remembers, in ``before``, which answers held it before the first step, and says when too many do not any
    more: a preference loss falls on while the model forgets the format.
    """

    loaded: LoadedModel
    template: ChatTemplate
    rows: Sequence[Row]
    count: int
    max_tokens: int
    emit: Callable[..., None]
    before: list[bool]
    contract: Contract | None = None

    def __call__(self, step: int) -> str:
        """A warning, or nothing."""
        chosen = [row for row in self.rows if isinstance(row, Conversation | Preference | Unpaired)][: self.count]
        if not chosen:
            return ""
        prompts = [self.template.prompt(row.prompt, row.tools) for row in chosen]
        self.loaded.model.eval()
        answers = generate(
            self.loaded.model, self.loaded.tokenizer, prompts, max_tokens=self.max_tokens, stops=self.template.stops,
            batch_size=len(prompts),
        )  # fmt: skip
        self.loaded.model.train()
        held = []
        for row, (output, ended) in zip(chosen, answers, strict=True):
            verdict = "ended by itself" if ended == "stop" else f"cut at {self.max_tokens} tokens"
            if self.contract:
                asked = "\n\n".join(message.content for message in row.prompt)
                score = self.contract.score(Answer(output, ended, row.reference, asked))["contract"]
                held.append(score.holds)
                verdict = "holds the contract" if score.holds else score.kind
            self.emit("sample", step=step, row=row.id, prompt=row.prompt[-1].content, output=output, verdict=verdict)
        if not self.before:
            self.before.extend(held)
        return self._lost(held)

    def _lost(self, held: Sequence[bool]) -> str:
        broken = sum(was and not now for was, now in zip(self.before, held, strict=True))
        fixed = sum(now and not was for was, now in zip(self.before, held, strict=True))
        if broken - fixed < max(2, BROKEN * len(held)):
            return ""
        return (
            f"The format is being unlearned: {sum(self.before)} of {len(held)} validation answers held the contract before the first "
            f"step, {sum(held)} do now. Lower training.learning_rate."
        )
