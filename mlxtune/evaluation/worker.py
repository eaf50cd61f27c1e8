"""The evaluation worker: ``python -m mlxtune.evaluation.worker EVAL_DIR``.

An evaluation is a run with the same folder layout and events as training. The launch request names the training run (``run``,
``adapter``) to compare with its base; without one, only the base is evaluated. With ``seeds``, runs that differ only in the seed,
it names the first one, and validation decides which one is compared.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import Interrupted, MachineError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.data.rows import PromptRow, prompt_text, shared_system_prompt
from mlxtune.data.source import read_source
from mlxtune.data.split import record_splits, split
from mlxtune.evaluation import comparability, evidence, report
from mlxtune.evaluation.answer_budget import answer_budget
from mlxtune.evaluation.answer_statistics import answer_statistics
from mlxtune.evaluation.arms import BASE, TUNED, build_arms
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.endpoints import require_endpoints
from mlxtune.evaluation.holdout import contamination, ledger
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.off_task.result import compare_off_task
from mlxtune.evaluation.render.publish import publish
from mlxtune.evaluation.report import ReportFacts
from mlxtune.evaluation.scorers import CONTRACT, ModelAnswer, Score
from mlxtune.evaluation.scorers.preference import PREFERENCE, PairLogprobs
from mlxtune.evaluation.seed_evidence import SeedAdapter, SeedAnswer, load_seed_scores, save_seed_answers, score_seeds
from mlxtune.evaluation.seed_report import recommend
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.machine import this_machine
from mlxtune.runs.worker import Worker, run_worker

if TYPE_CHECKING:  # outputs imports mlx, which must come after the BLAS
    from mlxtune.evaluation.outputs import ArmAnswers

PROGRESS_INTERVAL = 0.5  # seconds between progress events
OFF_TASK = "off-task prompt"


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
            answer_statistics(outputs),
        )  # fmt: skip


def evaluate(worker: Worker) -> dict[str, Any]:
    """Evaluate every arm on the same held-out rows, the base first; write the outputs and the report; return the summary."""
    from mlxtune.evaluation import nearest_rows, outputs
    from mlxtune.evaluation.endpoint_answers import endpoint_answers
    from mlxtune.evaluation.seed_answers import answer_with_seeds
    from mlxtune.models import load, lora
    from mlxtune.models.prefix_cache import PrefixCache
    from mlxtune.models.template import TemplateSettings, load_template
    from mlxtune.models.text_vectors import standardized, text_vectors
    from mlxtune.models.thinking import prints_date

    recipe = worker.recipe
    worker.report_start("eval")
    require_endpoints(recipe, worker.request.get("consent", ""))
    contract = Contract.from_recipe(recipe)
    data = read_source(recipe.source, recipe.data.format, recipe.data.map)
    splits = split(data, recipe.data)
    rows = sample_rows(outputs.prompt_rows(splits.test), recipe.evaluation.rows)
    adapter = Path(worker.request["adapter"]) if worker.request.get("adapter") else None
    seeds = [SeedAdapter(**seed) for seed in worker.request.get("seeds", ())]
    validation = outputs.prompt_rows(splits.valid) if seeds else []
    for seed in seeds[1:]:
        contamination.check(worker.folder.parent.parent, Path(seed.adapter), rows)
    contamination_note = contamination.check(worker.folder.parent.parent, adapter, rows)
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit(
        "model.loaded", base=source.name, path=loaded.description, parameters=loaded.parameters, seconds=loaded.seconds,
        limit=load.memory_limit(this_machine().limit),
    )  # fmt: skip
    settings = TemplateSettings.from_recipe(recipe)
    template = load_template(source, settings, loaded.tokenizer)
    built = build_arms(recipe, adapter, splits.train)
    thinking_tokens = recipe.evaluation.thinking_tokens
    room = outputs.answer_room(built, loaded, rows, settings=settings, thinking_tokens=thinking_tokens)
    budget = answer_budget(recipe.evaluation, [*splits.train, *splits.valid], template.count_tokens, room)
    if budget.room is not None:
        worker.warn(
            f"The model's context leaves {budget.max_tokens:,} tokens for an answer, less than evaluation.max_tokens would allow."
        )
    row_ids = [row.id for row in rows]
    facts: ReportFacts = {
        "name": recipe.name,
        "base": source.name,
        "base_fingerprint": source.fingerprint,
        "run": worker.request.get("run", ""),
        "adapter": str(adapter or ""),
        "rows": len(rows),
        "row_ids": row_ids,
        "source": str(recipe.source),
        "schema": sha256_json(json.loads(recipe.schema_file.read_text())) if recipe.schema_file else "",
        "contract": comparability.contract_hash(recipe),
        "asks": contract.required_metrics,
        "template": sha256_json(settings.source or str(loaded.tokenizer.chat_template)),
        "decoding": {"kind": "greedy", "max_tokens": budget.max_tokens},
        "compute": loaded.description,
        "wording": report.WORDING,
        "untouched": contamination_note,
    }
    if thinking := template.thinking.describe(settings.thinking):
        facts |= {"thinking": thinking, "thinking_tokens": thinking_tokens}
    if budget.longest_reference is not None:
        facts["longest_reference"] = budget.longest_reference
    if budget.room is not None:
        facts["room"] = budget.room
    if prints_date(template.source):
        facts["date"] = settings.date
    facts["moved"] = comparability.describe_changes(worker.folder, facts, recipe)
    if adapter:
        comparability.require_baseline_terms(worker.folder, facts, recipe)
    try:
        record_splits(data, recipe.data, splits, seal=True)
    except MachineError as error:
        worker.emit("warning", text=f"{error.message} Later training may use the held-out rows.")
    system = shared_system_prompt(splits.train) if recipe.evaluation.regression_system else ""
    off_task_prompts = prompts.in_both_conditions(prompts.load_prompts(recipe), system) if adapter else ()
    off_task_answers: dict[str, list[str]] = {}
    compared = outputs.comparable_pairs(loaded, recipe, [*rows, *validation])
    arms: list[_ScoredArm] = []
    vectors = None
    if len(splits.train) <= nearest_rows.MAX_ROWS:  # before an adapter changes the base's hidden states
        compared_rows = [*splits.train, *rows]
        texts = [prompt_text(row) for row in compared_rows]
        of_texts = text_vectors(loaded, texts, worker.folder.parent / "cache", progress_reporter(worker, BASE, "prompt"))
        if of_texts is not None:
            vectors = {row.id: vector for row, vector in zip(compared_rows, standardized(of_texts), strict=True)}
    prefixes, likelihoods = PrefixCache(loaded.model), outputs.Likelihoods()
    current: Path | None = None
    endpoint_facts: dict[str, report.EndpointFacts] = {}
    seed_answers: list[SeedAnswer] = []
    for arm in built:
        if arm.adapter and seeds:
            if not seed_answers:
                seed_answers = answer_with_seeds(
                    seeds, {"validation": validation, "held-out": rows}, partial(progress_reporter, worker), loaded=loaded,
                    settings=settings, max_tokens=budget.max_tokens, thinking_tokens=thinking_tokens,
                    batch_size=recipe.evaluation.batch_size, cache=worker.folder.parent / "cache", compared=compared,
                )  # fmt: skip
                metric = PREFERENCE if recipe.method.kind == "dpo" and compared and all(one.logprobs for one in arms) else CONTRACT
                run = recommend(score_seeds(seed_answers, contract, *map(evidence.evaluated_rows, (validation, rows))), metric)
                chosen = next(seed for seed in seeds if seed.run == run)
                facts |= {"run": chosen.run, "adapter": chosen.adapter}
                prefixes, current = PrefixCache(loaded.model), Path(seeds[-1].adapter)
            arm = replace(arm, adapter=Path(chosen.adapter)) if arm.adapter == adapter else arm
        if arm.adapter != current:  # arms with the same adapter follow one another
            assert arm.adapter
            (lora.load_weights if current else lora.load)(loaded.model, arm.adapter)
            prefixes, current = PrefixCache(loaded.model), arm.adapter
        generate = partial(
            outputs.generate_answers,
            arm,
            loaded,
            settings=settings,
            thinking_tokens=thinking_tokens,
            batch_size=recipe.evaluation.batch_size,
            cache=worker.folder.parent / "cache",
            tell=partial(progress_reporter, worker, arm.name),
            shared=prefixes,
            likelihoods=likelihoods,
        )
        worker.emit("arm.started", arm=arm.name, rows=len(rows))
        if arm.endpoint:
            answers, spent = endpoint_answers(
                arm, arm.endpoint, rows, max_tokens=budget.max_tokens + (0 if settings.thinking == "off" else thinking_tokens),
                cache=worker.folder.parent / "cache", tell=partial(progress_reporter, worker, arm.name),
                count_tokens=template.count_tokens,
            )  # fmt: skip
            endpoint_facts[arm.name] = {"url": arm.endpoint.url, "model": arm.endpoint.model, "spent": spent}
        else:
            answers = generate(rows, max_tokens=budget.max_tokens, compared=compared, timed=True)
        worker.emit("arm.finished", arm=arm.name, rows=len(rows), cached=answers.cached, seconds=answers.seconds)
        if answers.no_likelihood_reason:
            worker.warn(f"{arm.name} has no perplexity: {answers.no_likelihood_reason}")
        arms.append(_score(contract, rows, answers))
        if off_task_prompts and arm.name in (BASE, TUNED):
            outputs_by_prompt: dict[prompts.OffTaskPrompt, str] = {}
            for limit, group in prompts.group_by_prefix(off_task_prompts):
                worker.emit("arm.started", arm=arm.name, rows=len(group), of=OFF_TASK)
                off_task = generate([prompt.row(system) for prompt in group], max_tokens=limit, of=OFF_TASK)
                worker.emit(
                    "arm.finished", arm=arm.name, rows=len(group), cached=off_task.cached, seconds=off_task.seconds, of=OFF_TASK
                )
                outputs_by_prompt |= {prompt: output.output for prompt, output in zip(group, off_task.outputs, strict=True)}
            off_task_answers[arm.name] = [outputs_by_prompt[prompt] for prompt in off_task_prompts]
    if endpoint_facts:
        facts["endpoints"] = endpoint_facts
    if compared and (missing := [arm.answers.arm for arm in arms if not arm.logprobs]):
        worker.warn(f"Preferences are not compared: the likelihoods of both answers are missing for {', '.join(missing)}.")
        compared = frozenset()
        drop_preferences([arm.scored for arm in arms])
        seed_answers = [replace(answer, logprobs=None) for answer in seed_answers]
        for scored_arm in arms:
            scored_arm.logprobs.clear()
    _write_outputs(worker.folder, rows, arms, contract)
    evidence.save_evidence(worker.folder, recipe, rows, {arm.answers.arm: arm.logprobs for arm in arms}, data.rows, validation)
    if seed_answers:
        save_seed_answers(worker.folder, seed_answers)
    ledger.record(ledger.ledger_path(worker.folder), "eval", worker.folder.name, row_ids)
    history = ledger.history(ledger.ledger_path(worker.folder), row_ids)
    headline = PREFERENCE if recipe.method.kind == "dpo" and compared else CONTRACT
    facts |= {"headline": headline, "looks": history.evaluations, "ledger": ledger.describe(history)}
    if TUNED in off_task_answers:
        evidence.save_off_task(worker.folder, off_task_prompts, off_task_answers)
        answers_by_arm, margin = (off_task_answers[BASE], off_task_answers[TUNED]), recipe.evaluation.regression_margin
        facts["off_task"] = to_json(compare_off_task(off_task_prompts, *answers_by_arm, margin))
    evaluated = evidence.load_rows(worker.folder)
    seed_scores = load_seed_scores(worker.folder, contract, evaluated)
    result = report.build(facts, [arm.scores(rows) for arm in arms], [row.group for row in evaluated], seed_scores)
    scored = next(arm.scored for arm in arms if arm.answers.arm == result.subject.name)
    failed = [row for row, scores in zip(rows, scored, strict=True) if headline in scores and not scores[headline].passed]
    nearest_rows.save_nearest(worker.folder, failed, splits.train, data, vectors)
    publish(result, worker.folder)
    return {"verdict": result.verdict, "rows": len(rows)}


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


def sample_rows(rows: Sequence[PromptRow], count: int) -> list[PromptRow]:
    """Return ``count`` of ``rows`` (0 means all) in their original order. The choice depends only on their content."""
    chosen = {row.hash for row in sorted(rows, key=lambda row: row.hash)[: count or None]}
    return [row for row in rows if row.hash in chosen]


def drop_preferences(scored: Sequence[list[dict[str, Score]]]) -> None:
    """Remove preferences from the scores of all arms, since a report compares only metrics that every arm has."""
    for rows in scored:
        for scores in rows:
            scores.pop(PREFERENCE, None)


def progress_reporter(worker: Worker, arm: str, of: str) -> Callable[[int, int], None]:
    """Return a progress callback that emits rate-limited events about ``of`` and honors stop requests."""
    last = 0.0

    def report_progress(done: int, total: int) -> None:
        nonlocal last
        if worker.stopping:
            raise Interrupted(0)
        if done == total or time.monotonic() - last > PROGRESS_INTERVAL:
            last = time.monotonic()
            worker.emit("arm.progress", arm=arm, done=done, total=total, of=of)

    return report_progress


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
