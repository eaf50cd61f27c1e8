"""The evaluation worker: ``python -m mlxtune.evaluation.worker EVAL_DIR``.

An evaluation is a run with the same folder layout and events as training. The launch request names the training run (``run``,
``adapter``) to compare with its base; without one, only the base is evaluated. With ``seeds``, runs that differ only in the seed,
it names the first one, and validation decides which one is compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.adapters.entry import adapter_step, read_lineage
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import PromptRow, prompt_text, shared_system_prompt
from mlxtune.data.source import Source, read_source
from mlxtune.data.split import Splits, prompt_rows, record_splits, sample_rows, split
from mlxtune.evaluation import arms as kinds
from mlxtune.evaluation import evidence, history, report_builder
from mlxtune.evaluation.answer_budget import AnswerBudget, answer_budget
from mlxtune.evaluation.answers import ArmAnswers, SeedAnswers, score_answers, score_seed, without_pairs
from mlxtune.evaluation.arms import BASE, CONSTANT, COPIER, PARENT, STRONGEST, TUNED, Arm, is_tuned, lacks_package
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.free_arms import AnsweredRows, free_arms, strongest
from mlxtune.evaluation.holdout import contamination, ledger
from mlxtune.evaluation.holdout.contamination import Contamination, TrainedRows
from mlxtune.evaluation.holdout.ledger import HoldoutHistory
from mlxtune.evaluation.judge.endpoint import require_endpoints
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, compare_off_task
from mlxtune.evaluation.report import LeftOut, ReportFacts, continued_arms, decoding
from mlxtune.evaluation.seed_report import recommend
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.training_rule import example_count, model_width, training_rule
from mlxtune.present.report import publish
from mlxtune.recipe import Recipe
from mlxtune.runs.events import read_all
from mlxtune.runs.registry import Run, run_of
from mlxtune.runs.worker import Worker, run_worker

if TYPE_CHECKING:  # these import mlx, which must come after the BLAS
    from mlxtune.evaluation.arm_runner import ArmRunner
    from mlxtune.evaluation.nearest_rows import RowVectors
    from mlxtune.models.load import LoadedModel
    from mlxtune.models.template import ChatTemplate


@dataclass(frozen=True)
class _Inputs:
    """The rows of an evaluation, and the adapter that is compared with its base. ``seeds`` differ only in the training seed."""

    contract: Contract
    source: Source
    splits: Splits
    rows: list[PromptRow]
    validation: list[PromptRow]
    adapter: Path | None
    seeds: list[Run]
    contamination: Contamination | None
    trained: tuple[TrainedRows, ...]  # what the adapters were trained on


def evaluate(worker: Worker) -> dict[str, Any]:
    """Evaluate every arm on the same held-out rows, the base first; write the outputs and the report; return the summary."""
    from mlxtune.evaluation import outputs
    from mlxtune.evaluation.arm_runner import ArmRunner
    from mlxtune.models import load
    from mlxtune.models.template import TemplateSettings, load_template

    recipe = worker.recipe
    worker.report_start("eval")
    require_endpoints(recipe, worker.request.get("consent", ""))
    inputs = _read_inputs(worker)
    source = resolve(recipe.model.base, relative_to=recipe.folder)
    loaded = load.load(source, quantize=recipe.model.quantize)
    worker.emit("model.loaded", **loaded.event)
    template = load_template(source, TemplateSettings.from_recipe(recipe), loaded.tokenizer)
    built = kinds.build_arms(recipe, inputs.adapter, inputs.splits.train)
    arms, budget = _budget(worker, inputs, built, loaded, template)
    facts = _facts(worker, inputs, loaded, template, budget)
    facts["left_out"] = _left_out(inputs, recipe, built, arms)
    if inputs.adapter:
        history.require_baseline_terms(worker.folder, facts, recipe)
    try:
        record_splits(inputs.source, recipe.data, inputs.splits, seal=Run(worker.folder).kind == "eval")
    except MachineError as error:
        worker.warn("split_not_recorded", error=error.message)
    vectors = _vectors(worker, inputs, loaded)
    compared = outputs.comparable_pairs(template, [*inputs.rows, *inputs.validation], recipe.data.max_tokens)
    runner = ArmRunner(worker, loaded, template, budget, compared, inputs.contract.schema_document)
    measured = _answer(worker, inputs, _without_weaker(worker, inputs, arms, runner, facts), runner, facts)
    _add_free_arms(measured, inputs, recipe, facts, vectors)
    return _finish(worker, inputs, measured, runner, facts, vectors)


@dataclass
class _Measured:
    """The answers of all arms and seeds, and the off-task answers by arm."""

    off_task: Sequence[OffTaskPrompt]
    arms: list[ArmAnswers] = field(default_factory=list)
    extensible: dict[str, Arm] = field(default_factory=dict)  # the arms whose answers can be continued, by name
    seeds: list[SeedAnswers] = field(default_factory=list)
    off_task_answers: dict[str, list[str]] = field(default_factory=dict)

    @property
    def has_pairs(self) -> bool:
        return any(answer.rejected for arm in self.arms for answer in arm.answers)


def _answer(worker: Worker, inputs: _Inputs, arms: Sequence[Arm], runner: ArmRunner, facts: ReportFacts) -> _Measured:
    """Let every arm answer. Validation decides which seed's adapter is evaluated, which ``facts`` then name."""
    recipe, contract, rows = worker.recipe, inputs.contract, evidence.evaluated_rows(inputs.rows)
    system = shared_system_prompt(inputs.splits.train) if recipe.evaluation.regression_system else ""
    off_task = prompts.in_both_conditions(prompts.load_prompts(recipe), system) if inputs.adapter else ()
    measured, chosen = _Measured(off_task), inputs.adapter
    for arm in arms:
        if arm.adapter and inputs.seeds and not measured.seeds:
            validation = evidence.evaluated_rows(inputs.validation)
            seeds = runner.answer_with_seeds(inputs.seeds, inputs.validation, inputs.rows)
            measured.seeds = [score_seed(contract, seed, validation, rows) for seed in seeds]
            metric = contract.headline(recipe, has_preferences=bool(runner.compared) and all(map(_has_pairs, measured.arms)))
            run = recommend(measured.seeds, metric)
            chosen = next(seed.adapter for seed in inputs.seeds if seed.id == run)
            facts |= {"run": run, "adapter": str(chosen)}
        if arm.adapter and arm.adapter == inputs.adapter:
            arm = replace(arm, adapter=chosen)
        if arm.name == kinds.OPTIMIZED:
            arm, facts["optimizer"] = runner.optimize(arm, contract, inputs.splits)
            write_text(worker.folder / evidence.OPTIMIZED_PROMPT, f"{arm.prompt}\n")
        if not (arm.endpoint or (arm.adapter and inputs.seeds)):  # validation compared the seeds at one limit
            measured.extensible[arm.name] = arm
        answers = (runner.answer_validation if Run(worker.folder).kind == "validate" else runner.answer)(arm, inputs.rows)
        measured.arms.append(replace(answers, answers=score_answers(contract, rows, answers.answers)))
        if off_task and arm.name in (BASE, TUNED):
            measured.off_task_answers[arm.name] = runner.answer_off_task(arm, off_task, system)
    if runner.endpoints:
        facts["endpoints"] = runner.endpoints
    if runner.compared and (missing := [arm.name for arm in measured.arms if not _has_pairs(arm)]):
        worker.warn("preferences_not_compared", arms=missing)
        measured.arms = [replace(arm, answers=without_pairs(arm.answers)) for arm in measured.arms]
        measured.seeds = [
            replace(seed, validation=without_pairs(seed.validation), held_out=without_pairs(seed.held_out))
            for seed in measured.seeds
        ]
    return measured


def _without_weaker(worker: Worker, inputs: _Inputs, arms: list[Arm], runner: ArmRunner, facts: ReportFacts) -> list[Arm]:
    """Return ``arms`` with only the strongest candidate on the validation rows if the recipe asks for it. ``facts`` then name it."""
    recipe, listed = worker.recipe, worker.recipe.evaluation.arms
    candidates = [arm for arm in arms if STRONGEST in listed and arm.name in kinds.strongest_candidates(recipe)]
    if not candidates or not inputs.validation:
        return arms
    answers = runner.answer_candidates(candidates, inputs.validation)
    rows, by_name = evidence.evaluated_rows(inputs.validation), {one.name: one.answers for one in answers}
    facts["strongest"] = strongest(inputs.contract, recipe, rows, by_name)
    evidence.save_outputs(worker.folder, by_name.items(), evidence.CANDIDATES)
    return [arm for arm in arms if arm.name not in by_name or arm.name in (facts["strongest"]["arm"], *listed)]


def _add_free_arms(measured: _Measured, inputs: _Inputs, recipe: Recipe, facts: ReportFacts, vectors: RowVectors | None) -> None:
    """Add the arms that generate nothing before those with an adapter, or say in ``facts`` why there are none."""
    contract, known = inputs.contract, AnsweredRows.from_splits(inputs.splits)
    if measured.has_pairs or not known.train:
        facts["left_out"] |= dict.fromkeys((CONSTANT, COPIER), "pairs" if measured.has_pairs else "no_answers")
        return
    free, nearest = free_arms(contract, contract.headline(recipe, has_preferences=False), known, inputs.rows, vectors)
    facts["free_arms"] = {"nearest": nearest, "training": known.hash}
    rows = evidence.evaluated_rows(inputs.rows)
    first = next((index for index, arm in enumerate(measured.arms) if arm.name == PARENT or is_tuned(arm.name)), len(measured.arms))
    measured.arms[first:first] = [replace(arm, answers=score_answers(contract, rows, arm.answers)) for arm in free]


def _left_out(inputs: _Inputs, recipe: Recipe, built: Sequence[Arm], arms: Sequence[Arm]) -> dict[str, LeftOut]:
    """Return why default arms are not among ``arms``: they could not be ``built``, or their prompts are too long."""
    listed = recipe.evaluation.arms
    names = kinds.strongest_candidates(recipe) if STRONGEST in listed else () if listed else kinds.default_arms(recipe)
    kept, too_long = {arm.name for arm in arms}, {arm.name for arm in built}
    missing = [name for name in names if name not in kept and (inputs.adapter or not is_tuned(name))]
    return {name: "no_llguidance" if lacks_package(name) else "no_room" if name in too_long else "few_rows" for name in missing}


def _has_pairs(arm: ArmAnswers) -> bool:
    return any(answer.preference for answer in arm.answers)


def _continue_answers(inputs: _Inputs, measured: _Measured, runner: ArmRunner, facts: ReportFacts, groups: Sequence[str]) -> None:
    """Let each arm that would decide the outcome by answers that were cut off continue them."""
    rows = evidence.evaluated_rows(inputs.rows)
    left = {arm.name for arm in measured.arms if arm.statistics.undecided} & measured.extensible.keys()
    while left:
        verdict = report_builder.build(facts, measured.arms, groups, measured.seeds).verdict
        if verdict.reason != "token_limit" or verdict.cut is None or verdict.cut.arm not in left:
            break
        left.remove(name := verdict.cut.arm)
        index = next(index for index, arm in enumerate(measured.arms) if arm.name == name)
        longer = runner.continue_answers(measured.extensible[name], inputs.rows, measured.arms[index])
        measured.arms[index] = replace(longer, answers=score_answers(inputs.contract, rows, longer.answers))
    if continued := continued_arms(facts, {arm.name: arm.answers for arm in measured.arms}):
        facts["continued"] = continued


def _finish(
    worker: Worker, inputs: _Inputs, measured: _Measured, runner: ArmRunner, facts: ReportFacts, vectors: RowVectors | None
) -> dict[str, Any]:
    from mlxtune.evaluation import nearest_rows

    recipe, folder, contract, rows = worker.recipe, worker.folder, inputs.contract, inputs.rows
    evidence.save_evidence(folder, recipe, rows, inputs.source.rows, inputs.validation)
    groups = [row.group for row in evidence.load_rows(folder)]
    facts["headline"] = headline = contract.headline(recipe, has_preferences=measured.has_pairs)
    use = HoldoutHistory(0, 0, 0, 0, 0)  # of validation rows
    if is_look := Run(folder).kind == "eval":
        use = replace(use, look=1 + ledger.looks(folder.parents[1], facts["row_ids"]))  # the level depends on it
    facts["holdout"] = to_json(use)
    _continue_answers(inputs, measured, runner, facts, groups)
    evidence.save_outputs(folder, ((arm.name, arm.answers) for arm in measured.arms))
    contamination.save(folder, inputs.trained)
    if measured.seeds:
        evidence.save_seed_answers(folder, measured.seeds)
    result_hash = ledger.result_hash(facts["contract"], {arm.name: arm.answers for arm in measured.arms})
    if is_look:
        adapter = facts["run"] or facts["adapter"]
        use = ledger.enter(folder, facts["row_ids"], result_hash, adapter, last=facts.get("last_look", False))
        facts["holdout"] = to_json(use)
    if costs := _costs(facts):
        facts["costs"] = costs
    if TUNED in measured.off_task_answers:
        evidence.save_off_task(folder, measured.off_task, measured.off_task_answers)
        both = (measured.off_task_answers[BASE], measured.off_task_answers[TUNED])
        facts["off_task"] = to_json(compare_off_task(measured.off_task, *both, recipe.evaluation.regression_margin))
    result = report_builder.build(facts, measured.arms, groups, measured.seeds)
    subject = next(arm for arm in measured.arms if arm.name == result.subject.name)
    failed = [row for row, scores in zip(rows, subject.scores, strict=True) if headline in scores and not scores[headline].passed]
    nearest_rows.save_nearest(folder, failed, inputs.splits.train, inputs.source, vectors)
    publish(result, folder)
    return {"outcome": result.outcome, "change": result.headline.change if result.headline else None, "rows": len(rows)}


def _costs(facts: ReportFacts) -> dict[str, dict[str, float]]:
    """Return what it took to train the adapter, according to its run, and to optimize a prompt."""
    costs: dict[str, dict[str, float]] = {}
    run = run_of(Path(facts["adapter"]))
    if tokens := sum(event["tokens"] for event in read_all(run.folder) if event["type"] == "step") if facts["run"] else 0:
        costs[TUNED] = {"tokens": tokens, "seconds": run.state().updated - run.state().started}
    if optimizer := facts.get("optimizer"):
        costs[kinds.OPTIMIZED] = {"tokens": optimizer["tokens"], "seconds": optimizer["seconds"]}
    return costs


def _read_inputs(worker: Worker) -> _Inputs:
    """Read and split the rows. Raise ``InputError`` if an adapter was trained on one of the held-out rows."""
    recipe, request, workspace = worker.recipe, worker.request, worker.folder.parent.parent
    contract = Contract.from_recipe(recipe)
    source = read_source(recipe.source, recipe.data)
    splits = split(source, recipe.data)
    is_validation, valid = Run(worker.folder).kind == "validate", [row for row in splits.valid if isinstance(row, PromptRow)]
    if is_validation and not valid:
        raise InputError("There are no validation rows.", hint="Set data.validation, for example to 0.1.")
    evaluated = valid if is_validation else prompt_rows(splits.prompts)
    rows = _reserved_rows(worker, splits) if request.get("last_look") else sample_rows(evaluated, recipe.evaluation.rows)
    if contract.section.correct and all(row.reference is None for row in rows):
        hint = "Set what answers must satisfy in [evaluation]: schema, disclaimers, forbid, length, or pattern."
        raise InputError("No held-out row has a reference answer, so there is nothing to measure.", hint=hint)
    contract.require_references(rows)
    if unknown := contract.unknown_conditions(rows):
        worker.warn("unknown_conditions", fields=unknown)
    adapter = Path(request["adapter"]) if request.get("adapter") else None
    seeds = [run_of(Path(folder)) for folder in request.get("seeds", ())]
    validation = valid if seeds or STRONGEST in recipe.evaluation.arms else []
    adapters = [seed.adapter for seed in seeds] or ([adapter] if adapter else [])
    found = contamination.check(workspace, [] if is_validation else adapters, rows)
    return _Inputs(contract, source, splits, rows, validation, adapter, seeds, *found)


def _reserved_rows(worker: Worker, splits: Splits) -> list[PromptRow]:
    """Return the rows of the last look. Raise ``InputError`` if none are reserved, or if they have been evaluated."""
    rows = [row for row in splits.reserved if isinstance(row, PromptRow)]
    if not rows:
        raise InputError("No held-out rows are reserved for a last look.", hint="Set data.reserve before the first evaluation.")
    if earlier := ledger.last_look(worker.folder, [row.id for row in rows]):
        raise InputError(f"{earlier} was the last look at the reserved rows.", hint="Hold out new rows.")
    return rows


def _budget(
    worker: Worker, inputs: _Inputs, arms: list[Arm], loaded: LoadedModel, template: ChatTemplate
) -> tuple[list[Arm], AnswerBudget]:
    """Return the arms and the token limit of their answers, and warn if the model's context reduces it.

    Default arms whose examples would reduce it are left out.
    """
    from mlxtune.evaluation.outputs import answer_room

    section, known = worker.recipe.evaluation, [*inputs.splits.train, *inputs.splits.valid]
    size = partial(answer_room, loaded=loaded, template=template, rows=inputs.rows, thinking_tokens=section.thinking_tokens)
    room = size(arms)
    if (
        room is not None
        and kinds.chooses_arms(worker.recipe)
        and room < answer_budget(section, known, template.count_tokens).max_tokens
    ):
        arms = [arm for arm in arms if not arm.shots]
        room = size(arms)
    budget = answer_budget(section, known, template.count_tokens, room, inputs.contract.schema_document)
    if budget.room == budget.max_tokens:
        worker.warn("answers_limited_by_context", max_tokens=budget.max_tokens)
    return arms, budget


def _facts(worker: Worker, inputs: _Inputs, loaded: LoadedModel, template: ChatTemplate, budget: AnswerBudget) -> ReportFacts:
    from mlxtune.models.thinking import prints_date

    recipe, settings = worker.recipe, template.settings
    facts: ReportFacts = {
        "name": recipe.name, "base": loaded.source.name, "base_fingerprint": loaded.source.fingerprint,
        "run": worker.request.get("run", ""), "adapter": str(inputs.adapter or ""),
        "rows": len(inputs.rows), "row_ids": [row.id for row in inputs.rows], "source": str(recipe.source),
        "schema": history.schema_hash(recipe),
        "contract": history.contract_hash(recipe), "required": inputs.contract.required_metrics,
        "template": sha256_json(settings.source or str(loaded.tokenizer.chat_template)),
        "decoding": decoding(budget.max_tokens, budget.grammar_tokens), "compute": loaded.description,
    }  # fmt: skip
    if thinking := template.thinking.effect(settings.thinking):
        facts |= {"thinking": thinking, "thinking_tokens": recipe.evaluation.thinking_tokens}
    if budget.longest_reference is not None:
        facts["longest_reference"] = budget.longest_reference
    if budget.room is not None:
        facts["room"] = budget.room
    if prints_date(template.source):
        facts["date"] = settings.date
    if inputs.adapter and not inputs.seeds and (step := adapter_step(read_lineage(inputs.adapter))):
        rows = example_count(inputs.splits.train, recipe.data.max_tokens)
        rule = training_rule(recipe.method.kind, model_width(loaded.source.config), rows)
        facts |= {"adapter_step": step, "least_updates": rule.least}
    if worker.request.get("last_look"):
        facts["last_look"] = True
    if inputs.contamination:
        facts["contamination"] = to_json(inputs.contamination)
    if changed := history.changed_terms(worker.folder, facts, recipe):
        facts["changed_terms"] = to_json(changed)
    return facts


def _vectors(worker: Worker, inputs: _Inputs, loaded: LoadedModel) -> RowVectors | None:
    """Return the base's vectors of all rows, to find similar ones. ``loaded`` must have no adapter. ``None`` if that would take too long."""
    from mlxtune.evaluation.nearest_rows import is_meaning_compared
    from mlxtune.models.text_vectors import standardized, text_vectors

    if not is_meaning_compared(len(inputs.rows), len(inputs.splits.train)):
        return None
    rows = [*inputs.splits.train, *inputs.splits.valid, *inputs.rows]
    progress = worker.progress_reporter(BASE, "prompt")
    vectors = text_vectors(loaded, [prompt_text(row) for row in rows], worker.folder.parent / "cache", progress)
    return None if vectors is None else {row.id: vector for row, vector in zip(rows, standardized(vectors), strict=True)}


if __name__ == "__main__":
    blas.preload()
    sys.exit(run_worker(Path(sys.argv[1]), evaluate))
