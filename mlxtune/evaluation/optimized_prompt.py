"""The arm ``base+optimized``: a system prompt that gepa improves on the training and validation rows, never on the held-out ones.

GEPA (Agrawal et al. 2025, arXiv:2507.19457): the base answers three training rows, a reflecting model reads its answers with their
failures and proposes a better prompt. Small models are poor at that, so every second proposal adds the correct answers as examples.
A prompt that scores higher on these rows is scored on the validation rows; the best one wins.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_json
from mlxtune.core.journal import Journal, read
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.data.rows import PromptRow
from mlxtune.data.split import Splits
from mlxtune.evaluation.answers import Answer, ArmAnswers
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.evidence import evaluated_rows
from mlxtune.evaluation.judge.endpoint import CostCapReached
from mlxtune.evaluation.report import OptimizerFacts
from mlxtune.models.resolve import ModelFolder
from mlxtune.planning.machine import this_machine
from mlxtune.planning.plan import local_planner
from mlxtune.runs.registry import Run
from mlxtune.runs.worker import Worker

VALIDATION_ROWS = 24  # at most, on which each kept prompt is scored
REFLECTION_TOKENS = 512  # the maximum length of a proposal
_MAX_ROUNDS = 500  # of proposals: a small data set with known answers takes no time
_CLIP = 1500  # characters of each text that the reflecting model reads
_PROMPT = "prompt"  # gepa's name for what it optimizes
_REFERENCE = "Correct Answer"
T = TypeVar("T")


@dataclass
class PromptOptimizer:
    """Optimizes a system prompt for ``contract``, as a ``gepa.core.adapter.GEPAAdapter``.

    ``answer`` returns the base's answers to rows with a system prompt, and ``reflect`` the reply to a request for a better prompt. Both are
    journaled in ``file`` by their input, so that an interrupted optimization continues, and a repeated one reads what it
    did. ``budget`` is in answers (``counts_calls``) or in seconds.
    """

    contract: Contract
    answer: Callable[[str, Sequence[PromptRow]], ArmAnswers]
    reflect: Callable[[str], tuple[str, int, float]]  # the reply, its length in tokens, and the dollars spent on it
    file: Path
    budget: float
    counts_calls: bool
    facts: OptimizerFacts = field(init=False)

    def __post_init__(self) -> None:
        self.facts = {"calls": 0, "reflections": 0, "tokens": 0, "seconds": 0.0, "spent": 0.0}
        self._known = {record.pop("input"): record for record in read(self.file)}
        self._used: set[str] = set()
        self._proposals = 0
        self._began: float | None = None  # when the computation that runs now began
        self._failure: Exception | None = None

    def optimize(self, start: str, train: Sequence[PromptRow], validation: Sequence[PromptRow], seed: int) -> str:
        """Return the prompt with the highest mean score on ``validation``, beginning with ``start``."""
        import gepa

        self.file.parent.mkdir(parents=True, exist_ok=True)
        with Journal(self.file) as self._journal:
            result = gepa.optimize(
                {_PROMPT: start}, list(train), list(validation), adapter=self, seed=seed, stop_callbacks=self._is_over,
                logger=SimpleNamespace(log=lambda _: None), track_best_outputs=False,
            )  # fmt: skip
        if self._failure and not isinstance(self._failure, CostCapReached):
            raise self._failure
        scores = result.val_aggregate_scores
        self.facts |= {"prompts": len(result.candidates), "start": scores[0], "score": max(scores)}
        return str(result.candidates[result.best_idx][_PROMPT])

    @property
    def used(self) -> float:
        """How much of the budget is used, including the computation that runs now if it is in seconds."""
        running = 0.0 if self._began is None else time.perf_counter() - self._began
        return min(self.budget, self.facts["calls"] if self.counts_calls else self.facts["seconds"] + running)

    def _timed(self, compute: Callable[[], T]) -> tuple[T, float]:
        """Return the result of ``compute`` and the seconds that it took."""
        self._began = began = time.perf_counter()
        try:
            return compute(), time.perf_counter() - began
        finally:
            self._began = None

    def evaluate(self, batch: list[PromptRow], candidate: Mapping[str, str], capture_traces: bool = False) -> Any:
        """Return a ``gepa.core.adapter.EvaluationBatch``. A prompt that leaves no room for answers scores 0."""
        from gepa.core.adapter import EvaluationBatch

        try:
            answers = self._answers(candidate[_PROMPT], batch)
        except InputError as error:
            answers, results = [Answer(row.id, "", "stop") for row in batch], [(0.0, error.message) for _ in batch]
        else:
            results = [self._score(row, answer) for row, answer in zip(batch, answers, strict=True)]
        traces = [(row, answer.output, *result) for row, answer, result in zip(batch, answers, results, strict=True)]
        return EvaluationBatch(
            [answer.output for answer in answers], [score for score, _ in results], traces if capture_traces else None
        )

    def make_reflective_dataset(
        self, candidate: Any, eval_batch: Any, components_to_update: Any
    ) -> dict[str, list[dict[str, str]]]:
        """Return the answers that can be better."""
        examples = []
        for row, output, score, why in eval_batch.trajectories:
            question = "\n\n".join(turn.content for turn in row.prompt if not turn.is_system)
            texts = {"Inputs": question, "Generated Outputs": output, "Feedback": why, _REFERENCE: row.reference or ""}
            if score < 1:
                examples.append({name: text[-_CLIP:] for name, text in texts.items() if text})
        return {_PROMPT: examples}

    def propose_new_texts(self, candidate: Mapping[str, str], reflective_dataset: Any, components_to_update: Any) -> dict[str, str]:
        """Return the prompt with the correct answers as examples or, every second time, the reflecting model's proposal.

        gepa ignores errors here, so the first one is kept and ends the optimization.
        """
        from gepa.strategies.instruction_proposal import InstructionProposalSignature as Proposal

        prompt, examples = candidate[_PROMPT], reflective_dataset[_PROMPT]
        self._proposals += 1
        shots = [f'For example, to "{one["Inputs"]}" you answer:\n{one[_REFERENCE]}' for one in examples if _REFERENCE in one]
        if shots and self._proposals % 2:
            return {_PROMPT: "\n\n".join([prompt, *shots])}
        try:
            if self._failure:
                raise self._failure
            request = Proposal.prompt_renderer({"current_instruction_doc": prompt, "dataset_with_feedback": examples})
            key = sha256_json([request])
            if key not in self._known:
                (text, tokens, spent), seconds = self._timed(lambda: self.reflect(str(request)))
                self._store(key, text=text, tokens=tokens, spent=spent, seconds=seconds)
            self._count("reflections", key)
        except Exception as error:
            self._failure = error
            raise
        return {_PROMPT: Proposal.output_extractor(self._known[key]["text"].strip())["new_instruction"]}

    def _answers(self, prompt: str, rows: Sequence[PromptRow]) -> list[Answer]:
        keys = [sha256_json([prompt, row.hash]) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._known}
        if new:
            made, seconds = self._timed(lambda: self.answer(prompt, list(new.values())).answers)
            for key, one in zip(new, made, strict=True):
                tokens = one.answer_tokens + one.thought_tokens
                self._store(key, answer=to_json(one), tokens=tokens, seconds=seconds / len(made))
        for key in keys:
            self._count("calls", key)
        return [from_json(Answer, self._known[key]["answer"]) for key in keys]

    def _score(self, row: PromptRow, answer: Answer) -> tuple[float, str]:
        """Return the share of the contract's metrics that ``answer`` passes, and which it fails and why."""
        (stored,) = evaluated_rows([row])
        scores = self.contract.score(stored.answer(answer.output, answer.ended))
        names = self.contract.required_metrics or [metric.name for metric in self.contract.metrics]
        counted = {name: scores[name] for name in names if name in scores}
        values = [float(score.passed) if score.value is None else score.value for score in counted.values()]
        failed = [f"{name}: {score.detail or score.kind}" for name, score in counted.items() if not score.passed]
        return sum(values) / len(values) if values else 0.0, "; ".join(failed)

    def _store(self, key: str, **record: Any) -> None:
        self._known[key] = record
        self._journal.append({"input": key, **record})

    def _count(self, what: Literal["calls", "reflections"], key: str) -> None:
        """Count what is read from the journal as if it were computed now."""
        if key not in self._used:
            self._used.add(key)
            record, facts = self._known[key], self.facts
            facts[what] += 1
            facts["tokens"] += record["tokens"]
            facts["seconds"] += record["seconds"]
            facts["spent"] += record.get("spent", 0.0)

    def _is_over(self, state: Any) -> bool:
        best = max(state.program_full_scores_val_set)
        return self._failure is not None or self.used >= self.budget or best >= 1 or state.i >= _MAX_ROUNDS


def training_seconds(worker: Worker, base: ModelFolder, splits: Splits) -> float:
    """Return how long the training of the evaluated adapter took or, without a run, would take. Raises ``InputError`` if it is unknown."""
    if worker.request.get("run"):
        state = Run(Path(worker.request["adapter"]).parent).state()
        return state.updated - state.started
    planner = local_planner(worker.recipe, base.folder, base.config, this_machine(), base.fingerprint)
    seconds = planner.plan(worker.recipe, splits).cost.seconds
    if seconds is None:
        hint = "Set evaluation.optimizer_calls, or measure the training with: mlxtune plan RECIPE --probe"
        raise InputError("The time of the training is unknown, and so is that of optimizing a prompt.", hint=hint)
    return seconds
