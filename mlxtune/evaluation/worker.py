"""The evaluation worker: ``python -m mlxtune.evaluation.worker EVAL_DIR``.

An evaluation is a run with the same folder layout and events as training. The launch request names the training run (``run``,
``adapter``) to compare with its base; without one, only the base is evaluated. With ``seeds``, runs that differ only in the seed,
it names the first one, and validation decides which one is compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.adapters.entry import adapter_step, read_lineage
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import PromptRow, prompt_text, shared_system_prompt
from mlxtune.data.source import Source, read_source
from mlxtune.data.split import Splits, prompt_rows, record_splits, sample_rows, split
from mlxtune.evaluation import comparability, evidence, report
from mlxtune.evaluation.answer_budget import AnswerBudget, answer_budget
from mlxtune.evaluation.answer_statistics import answer_statistics
from mlxtune.evaluation.arms import BASE, TUNED, Arm, build_arms
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.endpoints import require_endpoints
from mlxtune.evaluation.holdout import contamination, ledger
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.off_task.result import compare_off_task
from mlxtune.evaluation.progress import progress_reporter
from mlxtune.evaluation.render.publish import publish
from mlxtune.evaluation.report import ReportFacts
from mlxtune.evaluation.scorers import ModelAnswer, Score
from mlxtune.evaluation.scorers.preference import PREFERENCE, PairLogprobs
from mlxtune.evaluation.seed_evidence import SeedAdapter, SeedAnswer, load_seed_scores, save_seed_answers, score_seeds
from mlxtune.evaluation.seed_report import recommend
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import this_machine
from mlxtune.runs.worker import Worker, run_worker

if TYPE_CHECKING:  # these import mlx, which must come after the BLAS
    from mlxtune.evaluation.nearest_rows import RowVectors
    from mlxtune.evaluation.outputs import ArmAnswers
    from mlxtune.models.load import LoadedModel
    from mlxtune.models.template import ChatTemplate


@dataclass(frozen=True)
class _ScoredArm:
    """An arm's answers with their scores, and the log-probabilities of preference pairs by row ID."""

    answers: ArmAnswers
    scored: list[dict[str, Score]]
    logprobs: dict[str, PairLogprobs]

    def scores(self, rows: Sequence[PromptRow]) -> report.ArmScores:
        outputs, pairs = self.answers.outputs, self.logprobs
        margins = [pairs[row.id].margin if row.id in pairs else None for row in rows] if pairs else []
        nats, tokens = sum(output.nats for output in outputs), sum(output.tokens for output in outputs)
        thought_tokens = sum(output.thought_tokens for output in outputs)
        return report.ArmScores(
            self.answers.arm, self.answers.cached, self.answers.seconds, self.scored, margins, nats, tokens, thought_tokens,
            answer_statistics(outputs, self.scored),
        )  # fmt: skip


@dataclass(frozen=True)
class _Inputs:
    """The rows of an evaluation, and the adapter that is compared with its base. ``seeds`` differ only in the training seed."""

    contract: Contract
    source: Source
    splits: Splits
    rows: list[PromptRow]
    validation: list[PromptRow]
    adapter: Path | None
    seeds: list[SeedAdapter]
    contamination: str


def evaluate(worker: Worker) -> dict[str, Any]:
    """Evaluate every arm on the same held-out rows, the base first; write the outputs and the report; return the summary."""
    from mlxtune.evaluation import nearest_rows, outputs
    from mlxtune.evaluation.arm_runner import ArmRunner
    from mlxtune.models import load
    from mlxtune.models.template import TemplateSettings, load_template

    recipe, folder = worker.recipe, worker.folder
    worker.report_start("eval")
    require_endpoints(recipe, worker.request.get("consent", ""))
    inputs = _read_inputs(worker)
    rows, splits, contract = inputs.rows, inputs.splits, inputs.contract
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.description, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(this_machine().limit),
    )  # fmt: skip
    template = load_template(source, TemplateSettings.from_recipe(recipe), loaded.tokenizer)
    arms = build_arms(recipe, inputs.adapter, splits.train)
    budget = _budget(worker, inputs, arms, loaded, template)
    facts = _facts(worker, inputs, loaded, template, budget)
    if inputs.adapter:
        comparability.require_baseline_terms(folder, facts, recipe)
    _seal(worker, inputs)
    vectors = _vectors(worker, inputs, loaded)
    compared = outputs.comparable_pairs(loaded, recipe, [*rows, *inputs.validation])
    system = shared_system_prompt(splits.train) if recipe.evaluation.regression_system else ""
    off_task = prompts.in_both_conditions(prompts.load_prompts(recipe), system) if inputs.adapter else ()
    off_task_answers: dict[str, list[str]] = {}
    runner = ArmRunner(worker, loaded, template, budget.max_tokens, compared)
    scored: list[_ScoredArm] = []
    seed_answers: list[SeedAnswer] = []
    chosen = inputs.adapter
    for arm in arms:
        if arm.adapter and inputs.seeds and not seed_answers:
            seed_answers = runner.answer_with_seeds(inputs.seeds, inputs.validation, rows)
            has_preferences = bool(compared) and all(one.logprobs for one in scored)
            metric = contract.headline(recipe, has_preferences=has_preferences)
            run = recommend(score_seeds(seed_answers, contract, *map(evidence.evaluated_rows, (inputs.validation, rows))), metric)
            seed = next(seed for seed in inputs.seeds if seed.run == run)
            facts |= {"run": seed.run, "adapter": seed.adapter}
            chosen = Path(seed.adapter)
        if arm.adapter and arm.adapter == inputs.adapter:
            arm = replace(arm, adapter=chosen)
        scored.append(_score(contract, rows, runner.answer(arm, rows)))
        if off_task and arm.name in (BASE, TUNED):
            off_task_answers[arm.name] = runner.answer_off_task(arm, off_task, system)
    if runner.endpoints:
        facts["endpoints"] = runner.endpoints
    if compared and (missing := [arm.answers.arm for arm in scored if not arm.logprobs]):
        worker.warn("preferences_not_compared", arms=missing)
        compared = frozenset()
        drop_preferences([arm.scored for arm in scored])
        seed_answers = [replace(answer, logprobs=None) for answer in seed_answers]
        for scored_arm in scored:
            scored_arm.logprobs.clear()
    _write_outputs(folder, rows, scored, contract)
    logprobs = {arm.answers.arm: arm.logprobs for arm in scored}
    evidence.save_evidence(folder, recipe, rows, logprobs, inputs.source.rows, inputs.validation)
    if seed_answers:
        save_seed_answers(folder, seed_answers)
    answers = [(arm.answers.arm, [[output.id, output.output, output.ended] for output in arm.answers.outputs]) for arm in scored]
    shown = sha256_json([facts["contract"], answers])
    ledger.record(ledger.ledger_path(folder), "eval", folder.name, facts["row_ids"], result=shown)
    history = ledger.history(ledger.ledger_path(folder), facts["row_ids"])
    headline = contract.headline(recipe, has_preferences=bool(compared))
    facts |= {"headline": headline, "looks": history.evaluations, "ledger": ledger.describe(history)}
    if TUNED in off_task_answers:
        evidence.save_off_task(folder, off_task, off_task_answers)
        answers_by_arm, margin = (off_task_answers[BASE], off_task_answers[TUNED]), recipe.evaluation.regression_margin
        facts["off_task"] = to_json(compare_off_task(off_task, *answers_by_arm, margin))
    evaluated = evidence.load_rows(folder)
    seed_scores = load_seed_scores(folder, contract, evaluated)
    result = report.build(facts, [arm.scores(rows) for arm in scored], [row.group for row in evaluated], seed_scores)
    subject_scores = next(arm.scored for arm in scored if arm.answers.arm == result.subject.name)
    failed = [row for row, scores in zip(rows, subject_scores, strict=True) if headline in scores and not scores[headline].passed]
    nearest_rows.save_nearest(folder, failed, splits.train, inputs.source, vectors)
    publish(result, folder)
    return {"verdict": result.verdict, "rows": len(rows)}


def _read_inputs(worker: Worker) -> _Inputs:
    """Read and split the rows. Raise ``InputError`` if an adapter was trained on one of the held-out rows."""
    recipe, request, workspace = worker.recipe, worker.request, worker.folder.parent.parent
    contract = Contract.from_recipe(recipe)
    source = read_source(recipe.source, recipe.data.format, recipe.data.map)
    splits = split(source, recipe.data)
    rows = sample_rows(prompt_rows(splits.test), recipe.evaluation.rows)
    if contract.is_empty and all(row.reference is None for row in rows):
        raise InputError(
            "The recipe has no contract, and no held-out row has a reference answer, so there is nothing to measure.",
            hint="In the recipe's [evaluation] section, set what answers must satisfy: schema, disclaimers, forbid, length, or pattern.",
        )
    adapter = Path(request["adapter"]) if request.get("adapter") else None
    seeds = [SeedAdapter(**seed) for seed in request.get("seeds", ())]
    for seed in seeds[1:]:
        contamination.check(workspace, Path(seed.adapter), rows)
    validation = prompt_rows(splits.valid) if seeds else []
    return _Inputs(contract, source, splits, rows, validation, adapter, seeds, contamination.check(workspace, adapter, rows))


def _budget(worker: Worker, inputs: _Inputs, arms: Sequence[Arm], loaded: LoadedModel, template: ChatTemplate) -> AnswerBudget:
    """Return the token limit of all arms' answers, and warn if the model's context reduces it."""
    from mlxtune.evaluation.outputs import answer_room

    section, splits = worker.recipe.evaluation, inputs.splits
    room = answer_room(arms, loaded, inputs.rows, settings=template.settings, thinking_tokens=section.thinking_tokens)
    budget = answer_budget(section, [*splits.train, *splits.valid], template.count_tokens, room)
    if budget.room is not None:
        worker.warn("answers_limited_by_context", max_tokens=budget.max_tokens)
    return budget


def _facts(worker: Worker, inputs: _Inputs, loaded: LoadedModel, template: ChatTemplate, budget: AnswerBudget) -> ReportFacts:
    """Return the facts that are known before the first answer."""
    from mlxtune.models.thinking import prints_date

    recipe, settings = worker.recipe, template.settings
    facts: ReportFacts = {
        "name": recipe.name,
        "base": loaded.source.name,
        "base_fingerprint": loaded.source.fingerprint,
        "run": worker.request.get("run", ""),
        "adapter": str(inputs.adapter or ""),
        "rows": len(inputs.rows),
        "row_ids": [row.id for row in inputs.rows],
        "source": str(recipe.source),
        "schema": sha256_json(json.loads(recipe.schema_file.read_text())) if recipe.schema_file else "",
        "contract": comparability.contract_hash(recipe),
        "asks": inputs.contract.required_metrics,
        "template": sha256_json(settings.source or str(loaded.tokenizer.chat_template)),
        "decoding": {"kind": "greedy", "max_tokens": budget.max_tokens},
        "compute": loaded.description,
        "wording": report.WORDING,
        "untouched": inputs.contamination,
    }
    if thinking := template.thinking.describe(settings.thinking):
        facts |= {"thinking": thinking, "thinking_tokens": recipe.evaluation.thinking_tokens}
    if budget.longest_reference is not None:
        facts["longest_reference"] = budget.longest_reference
    if budget.room is not None:
        facts["room"] = budget.room
    if prints_date(template.source):
        facts["date"] = settings.date
    if inputs.adapter and not inputs.seeds and (step := adapter_step(read_lineage(inputs.adapter))):
        facts["adapter_step"] = step
    facts["moved"] = comparability.describe_changes(worker.folder, facts, recipe)
    return facts


def _seal(worker: Worker, inputs: _Inputs) -> None:
    """Record the split, so that its held-out rows can never be used for training."""
    try:
        record_splits(inputs.source, worker.recipe.data, inputs.splits, seal=True)
    except MachineError as error:
        worker.emit("warning", text=f"{error.message} Later training may use the held-out rows.")


def _vectors(worker: Worker, inputs: _Inputs, loaded: LoadedModel) -> RowVectors | None:
    """Return the base's vectors of all rows, to find similar ones. ``loaded`` must have no adapter. ``None`` if that would take too long."""
    from mlxtune.evaluation.nearest_rows import is_meaning_compared
    from mlxtune.models.text_vectors import standardized, text_vectors

    if not is_meaning_compared(len(inputs.rows), len(inputs.splits.train)):
        return None
    rows = [*inputs.splits.train, *inputs.rows]
    progress = progress_reporter(worker, BASE, "prompt")
    vectors = text_vectors(loaded, [prompt_text(row) for row in rows], worker.folder.parent / "cache", progress)
    return None if vectors is None else {row.id: vector for row, vector in zip(rows, standardized(vectors), strict=True)}


def _score(contract: Contract, rows: Sequence[PromptRow], answers: ArmAnswers) -> _ScoredArm:
    scored = []
    logprobs = {output.id: output.logprobs for output in answers.outputs if output.logprobs}
    for row, output in zip(rows, answers.outputs, strict=True):
        prompt = "\n\n".join(message.content for message in row.prompt)
        scores = contract.score(ModelAnswer(output.output, output.ended, row.reference, prompt))
        if row.id in logprobs:
            scores[PREFERENCE] = logprobs[row.id].score
        scored.append(scores)
    return _ScoredArm(answers, scored, logprobs)


def drop_preferences(scored: Sequence[list[dict[str, Score]]]) -> None:
    """Remove preferences from the scores of all arms, since a report compares only metrics that every arm has."""
    for rows in scored:
        for scores in rows:
            scores.pop(PREFERENCE, None)


def _write_outputs(folder: Path, rows: Sequence[PromptRow], arms: Sequence[_ScoredArm], contract: Contract) -> None:
    """Write ``outputs.jsonl``: each arm's answer to each row, with its line in the source and its failures."""
    lines = []
    for arm in arms:
        for row, output, scores in zip(rows, arm.answers.outputs, arm.scored, strict=True):
            record = {
                "id": row.id,
                "line": row.location.line,
                "arm": arm.answers.arm,
                "output": output.output,
                "ended": output.ended,
                **({"thought": output.thought, "thought_tokens": output.thought_tokens} if output.thought else {}),
                "failed": contract.failures(scores),
                "nats": output.nats,
                "tokens": output.tokens,
                "answer_tokens": output.answer_tokens,
                "seconds": output.seconds,
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text(folder / evidence.OUTPUTS, "".join(lines))


def main() -> int:
    """Run the evaluation in the folder given on the command line; return the exit code."""
    blas.preload()
    return run_worker(Path(sys.argv[1]), evaluate)


if __name__ == "__main__":
    sys.exit(main())
