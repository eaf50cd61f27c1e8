"""Generate answers to a few validation rows during training, so that problems show up early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.data.rows import Conversation, Preference, Row, Unpaired
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, LOOP, PASS, THINKING_LIMIT, THINKING_LOOP, ModelAnswer
from mlxtune.models.generate import GenerationSettings, generate
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.models.thoughts import LoopRule
from mlxtune.runs.events import SampleOutcome

_OUTCOMES: dict[str, SampleOutcome] = {"stop": "ended", LOOP: "loop", THINKING_LOOP: "loop"}  # by how an answer ended
MAX_BROKEN = 0.25  # fraction of the samples that may start to fail the contract before the run warns


@dataclass
class Sampler:
    """Generates answers to the first ``count`` of ``rows`` with the current model and emits ``sample`` events.

    With a ``contract``, it records in ``baseline_passes`` which answers passed before the first step, and warns when too many of
    them fail: a preference loss can keep falling while the model unlearns its format.
    """

    loaded: LoadedModel
    template: ChatTemplate
    rows: Sequence[Row]
    count: int
    max_tokens: int
    thinking_tokens: int
    emit: Callable[..., None]
    baseline_passes: list[bool]
    contract: Contract | None = None
    loops: LoopRule | None = None

    def __call__(self, step: int) -> bool:
        """Generate samples at ``step`` and return whether the format was lost, after a warning."""
        rows = [row for row in self.rows if isinstance(row, Conversation | Preference | Unpaired)][: self.count]
        if not rows:
            return False
        prompts = [self.template.prompt(row.prompt, row.tools) for row in rows]
        self.emit("sampling", step=step, rows=len(rows))
        self.loaded.model.eval()
        settings = GenerationSettings(
            max_tokens=self.max_tokens, stops=self.template.stop_tokens, batch_size=len(prompts),
            thinking_tokens=self.template.thinking_limit(self.thinking_tokens), loops=self.loops,
        )  # fmt: skip
        answers = generate(self.loaded.model, self.loaded.tokenizer, prompts, settings)
        self.loaded.model.train()
        passes = []
        for row, answer in zip(rows, answers, strict=True):
            text = self.template.calls.read(answer.text, row.tools)
            verdict: dict[str, Any] = {"outcome": _OUTCOMES.get(answer.ended, "cut_off")}
            if verdict["outcome"] == "cut_off":
                verdict["limit"] = self.thinking_tokens if answer.ended == THINKING_LIMIT else self.max_tokens
            if self.contract:
                prompt = "\n\n".join(message.content for message in row.prompt)
                scores = self.contract.score(ModelAnswer(text, answer.ended, row.reference, prompt))
                score = scores.get(CONTRACT) or scores.get(CORRECT, PASS)
                passes.append(score.passed)
                verdict = {"outcome": "passes"} if score.passed else {"outcome": "fails", "failure": score.kind}
            self.emit("sample", step=step, row=row.id, prompt=row.prompt[-1].content, output=text, **verdict)
        if not self.baseline_passes:
            self.baseline_passes.extend(passes)
        net_broken = sum(before - now for before, now in zip(self.baseline_passes, passes, strict=True))
        if net_broken < max(2, MAX_BROKEN * len(passes)):
            return False
        values = {"before": sum(self.baseline_passes), "now": sum(passes), "answers": len(passes)}
        self.emit("warning", code="format_lost", values=values)
        return True
