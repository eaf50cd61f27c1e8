"""Generate answers to a few validation rows during training, so that problems show up early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlxtune.data.rows import Conversation, Preference, PromptRow, Row, Unpaired
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import evaluated_rows
from mlxtune.evaluation.scorers import CONTRACT, CORRECT, LOOP, PASS, THINKING_LIMIT, THINKING_LOOP, Score
from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.models.thoughts import GeneratedAnswer, LoopRule
from mlxtune.runs.events import SampleOutcome

_OUTCOMES: dict[str, SampleOutcome] = {"stop": "ended", LOOP: "loop", THINKING_LOOP: "loop"}  # by how an answer ended
MOST_COUNTED = 64  # maximum number of rows to compare two checkpoints on
MAX_BROKEN = 0.25  # fraction of the samples that may start to fail the contract before the run warns


@dataclass
class Sampler:
    """Generates answers to the first ``count`` of ``rows`` with the current model and emits ``sample`` events.

    If they are ``checked``, because the recipe has a contract, it records in ``baseline_passes`` which answers passed before the first
    step, and warns when too many of them fail: a preference loss can keep falling while the model unlearns its format.
    """

    loaded: LoadedModel
    template: ChatTemplate
    rows: Sequence[Row]
    count: int
    max_tokens: int
    thinking_tokens: int
    emit: Callable[..., None]
    baseline_passes: list[bool]
    contract: Contract
    checked: bool
    loops: LoopRule | None = None

    def __call__(self, step: int) -> bool:
        """Generate samples at ``step`` and return whether the format was lost, after a warning."""
        if not (rows := self._prompt_rows[: self.count]):
            return False
        self.emit("sampling", step=step, rows=len(rows))
        passes = []
        for row, text, answer in self._answers(rows):
            verdict: dict[str, Any] = {"outcome": _OUTCOMES.get(answer.ended, "cut_off")}
            if verdict["outcome"] == "cut_off":
                verdict["limit"] = self.thinking_tokens if answer.ended == THINKING_LIMIT else self.max_tokens
            if self.checked:
                scores = self._score(row, text, answer)
                score = scores.get(CONTRACT) or scores.get(CORRECT, PASS)
                passes.append(score.passed)
                verdict = {"outcome": "passes"} if score.passed else {"outcome": "fails", "failure": score.kind}
            self.emit("sample", step=step, row=row.id, prompt=row.prompt[-1].content, output=text, **verdict)
        if not self.checked:
            return False
        if not self.baseline_passes:
            self.baseline_passes.extend(passes)
        net_broken = sum(before - now for before, now in zip(self.baseline_passes, passes, strict=True))
        if net_broken < max(2, MAX_BROKEN * len(passes)):
            return False
        values = {"before": sum(self.baseline_passes), "now": sum(passes), "answers": len(passes)}
        self.emit("warning", code="format_lost", values=values)
        return True

    def count_correct(self, metric: str) -> int:
        """Return how many answers to validation rows, of at most ``MOST_COUNTED``, pass ``metric``."""
        scores = (self._score(*item) for item in self._answers(self._prompt_rows[:MOST_COUNTED]))
        return sum(score[metric].passed for score in scores if metric in score)

    @property
    def _prompt_rows(self) -> list[PromptRow]:
        return [row for row in self.rows if isinstance(row, Conversation | Preference | Unpaired)]

    def _answers(self, rows: Sequence[PromptRow]) -> list[tuple[PromptRow, str, GeneratedAnswer]]:
        """Return the rows, the texts of the current model's answers to them, and the answers."""
        prompts = [self.template.prompt(row.prompt, row.tools) for row in rows]
        self.loaded.model.eval()
        settings = GenerationSettings(
            max_tokens=self.max_tokens, stops=self.template.stop_tokens, batch_size=len(prompts),
            thinking_tokens=self.template.thinking_limit(self.thinking_tokens), loops=self.loops,
        )  # fmt: skip
        answers = generate(self.loaded.model, self.loaded.tokenizer, [PromptGroup(prompts, settings)])
        self.loaded.model.train()
        return [(row, self.template.calls.read(answer.text, row.tools), answer) for row, answer in zip(rows, answers, strict=True)]

    def _score(self, row: PromptRow, text: str, answer: GeneratedAnswer) -> dict[str, Score]:
        return self.contract.score(evaluated_rows([row])[0].answer(text, answer.ended))
