"""What to do next in a workspace, as a code with arguments that follows from the workspace's index.

:mod:`mlxtune.present.next_step` has the words, keys, and commands.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum, auto
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.errors import DataError
from mlxtune.data.check_cache import CheckOutcome
from mlxtune.recipe import DataSection, load
from mlxtune.workspace.index import RecipeView, RunView, Snapshot

if TYPE_CHECKING:  # loads a schema validator, which the app's first screen must not wait for
    from mlxtune.data.checks.report import CheckReport
    from mlxtune.evaluation.history import Evaluation

_GOOD_ENOUGH = 0.95  # the share of answers that advice asks for by default
_MOST_ROWS = 10  # multiple of the evaluated rows; a change that needs more is not worth proving


class StepCode(StrEnum):
    """A step. The comments say what its ``number`` and ``name`` are."""

    # While something is running
    WATCH_TRAINING = auto()
    WATCH_EVALUATION = auto()
    WATCH_SEARCH = auto()
    WATCH_GENERATION = auto()
    WATCH_EXPORT = auto()
    CONNECT_POWER = auto()
    COOL_DOWN = auto()
    INSPECT_QUIET_RUN = auto()  # seconds without an event
    # Before the first run
    CREATE_SAMPLES = auto()
    OPEN_FILE = auto()
    WRITE_RECIPE = auto()  # name: the open file
    FIX_RECIPE = auto()
    CHECK_ROWS = auto()
    FIX_ROWS = auto()  # rows that block training
    REVIEW_ROWS = auto()  # rows without a decision
    MAP_COLUMNS = auto()  # of the file ``name``
    APPLY_FIXES = auto()  # to the rows of ``name``
    EVALUATE_BASE = auto()
    REPEAT_EVALUATION = auto()  # of the evaluation ``run``, which failed
    ASK_ADVICE = auto()  # the share of correct answers of the arm ``name``, which needs no training
    ESTIMATE_COST = auto()
    TRAIN = auto()
    CHOOSE_RECIPE = auto()  # recipes that can be trained now
    # After a run
    RESUME_RUN = auto()  # the step that it reached
    INSPECT_RUN = auto()  # the step that it reached
    EVALUATE_ADAPTER = auto()
    # After a verdict
    READ_WIDER_EVALUATION = auto()  # other rows in the evaluation ``run``
    TRAIN_LONGER = auto()  # the share of the rows that were used
    RAISE_ANSWER_LIMIT = auto()  # answers of the arm ``name`` that were cut off
    EVALUATE_EXAMPLES = auto()
    EVALUATE_MORE_ROWS = auto()  # rows so far
    ADD_ROWS = auto()
    USE_ADAPTER = auto()
    EXPORT = auto()
    READ_ROWS = auto()
    COMPARE_BLIND = auto()
    CHANGE_SETTING = auto()
    SEARCH = auto()
    TRAIN_AGAIN = auto()
    # After an interview
    DEFINE_METRIC = auto()
    MEASURE = auto()
    MEASURE_METRIC = auto()  # name: the metric
    WRITE_PROMPT = auto()
    ADD_PROMPTS = auto()
    EVALUATE_LARGER_BASE = auto()
    SET_UP_RETRIEVAL = auto()
    RETRIEVE_THEN_TRAIN = auto()


@dataclass(frozen=True)
class NextStep:
    """A step, and alternatives to it."""

    code: StepCode
    run: str = ""  # the ID of the run or evaluation that it is about
    recipe: Path | None = None
    name: str = ""
    number: float = 0.0
    options: str = ""  # at the end of the command
    evaluation: str = ""  # the ID of the evaluation whose verdict it follows
    also: tuple[NextStep, ...] = ()


def of_recipe(snapshot: Snapshot, view: RecipeView) -> Snapshot:
    """Return ``snapshot`` with only the runs, the evaluations, and the verdicts of the recipe ``view``, which comes first."""
    name = view.recipe.name if view.recipe else ""
    verdicts = tuple(verdict for verdict in snapshot.verdicts if verdict.name == name)
    return replace(
        snapshot, recipes=(view, *(other for other in snapshot.recipes if other is not view)),
        runs=tuple(run for run in snapshot.runs if run.name == name),
        evals=tuple(run for run in snapshot.evals if run.name == name), verdicts=verdicts,
        blind_status=snapshot.blind_status if snapshot.newest_comparison in verdicts else None,
    )  # fmt: skip


def next_step(snapshot: Snapshot, open_file: str = "") -> NextStep:
    """Return the one thing to do now. ``open_file`` is the name of a file that is open without a recipe."""
    if live := snapshot.live:
        if live.run.kind in _WATCH:
            return NextStep(_WATCH[live.run.kind], live.id)
        match live.status:
            case "waiting":
                return NextStep(StepCode.CONNECT_POWER, live.id)
            case "cooling":
                return NextStep(StepCode.COOL_DOWN, live.id)
            case "quiet":
                return NextStep(StepCode.INSPECT_QUIET_RUN, live.id, number=snapshot.now - live.updated)
        checks = ((item.last_check, item.reviewed_rows) for item in snapshot.recipes if is_recipe_of(item, live))
        undecided = sum(max(0, check.rows - reviewed) for check, reviewed in checks if check)
        review = (NextStep(StepCode.REVIEW_ROWS, number=undecided),) if undecided else ()
        return NextStep(StepCode.WATCH_TRAINING, live.id, also=review)
    if open_file:
        return NextStep(StepCode.WRITE_RECIPE, name=open_file, also=(NextStep(StepCode.CHECK_ROWS),))
    if view := next((view for view in snapshot.runs if view.id not in snapshot.removed_runs), None):
        return after_run(view, snapshot)
    if snapshot.recipes:
        return _before_first_run(snapshot)
    return NextStep(StepCode.CREATE_SAMPLES, also=(NextStep(StepCode.OPEN_FILE), NextStep(StepCode.ASK_ADVICE)))


_WATCH = {
    "eval": StepCode.WATCH_EVALUATION, "search": StepCode.WATCH_SEARCH, "generate": StepCode.WATCH_GENERATION,
    "export": StepCode.WATCH_EXPORT,
}  # fmt: skip


def is_recipe_of(item: RecipeView, view: RunView) -> bool:
    return item.recipe is not None and item.recipe.name == view.name


def after_run(view: RunView, snapshot: Snapshot) -> NextStep:
    recipe = next((item for item in snapshot.recipes if is_recipe_of(item, view)), None)
    if view.status != "finished":
        code = StepCode.RESUME_RUN if view.can_resume else StepCode.INSPECT_RUN
        return NextStep(code, view.id, recipe.path if recipe else None, number=view.state.step)
    if verdict := snapshot.verdict_on(view.id):
        return after_verdict(verdict, snapshot.evaluations, recipe, view.state.epochs, snapshot.best)
    failed = _failed_evaluation(snapshot.evals)
    if failed and failed.updated > view.updated:  # the adapter's evaluation may need another one first, of the base
        return NextStep(StepCode.REPEAT_EVALUATION, failed.id)
    return NextStep(StepCode.EVALUATE_ADAPTER, view.id)


def after_evaluation(folder: Path, snapshot: Snapshot) -> NextStep | None:
    """Return the next step after the evaluation in ``folder``, or ``None`` if its report cannot be read."""
    verdict = next((one for one in snapshot.evaluations if one.run.folder == folder), None)
    if verdict is None:
        return None
    recipe = next((item for item in snapshot.recipes if item.recipe and item.recipe.name == verdict.name), None)
    if not verdict.outcome or verdict.run_id in snapshot.removed_runs:
        return next_step(of_recipe(snapshot, recipe) if recipe else snapshot)
    view = snapshot.find_run(verdict.run_id)
    return after_verdict(verdict, snapshot.evaluations, recipe, view.state.epochs if view else 0.0)


def after_verdict(
    verdict: Evaluation,
    others: Sequence[Evaluation],
    recipe: RecipeView | None = None,
    epochs: float = 0.0,
    best: Evaluation | None = None,
) -> NextStep:
    """Return the next step after an evaluation. ``epochs`` is how often its run used its rows; Chat offers the ``best`` adapter."""
    first, *also = _after_verdict(verdict, others, recipe, epochs, best or verdict)
    return replace(first, evaluation=verdict.run.id, also=tuple(also))


def _after_verdict(
    verdict: Evaluation, others: Sequence[Evaluation], recipe: RecipeView | None, epochs: float, best: Evaluation
) -> Iterator[NextStep]:
    """Yield what a verdict suggests, most useful first."""
    run, path = verdict.run_id, recipe.path if recipe else None
    is_better = verdict.outcome == "better"
    is_usable = is_better and (verdict.caveat is None or verdict.caveat.reason == "off_task_unknown")  # no loss was shown
    if wider := next((one for one in others if verdict.is_part_of(one)), None):
        yield NextStep(StepCode.READ_WIDER_EVALUATION, wider.run.id, number=len(wider.row_ids - verdict.row_ids))
    if recipe and recipe.last_check and recipe.last_check.needs_attention and not is_better:
        yield _rows_step(recipe, recipe.last_check)
    if not is_better and 0 < epochs < 1:
        yield NextStep(StepCode.TRAIN_LONGER, run, path, number=epochs)
    yield from _evaluate_more(verdict)
    if is_usable:
        yield NextStep(StepCode.USE_ADAPTER, best.run_id)
        yield NextStep(StepCode.EXPORT, run)
    else:
        yield NextStep(StepCode.CHANGE_SETTING, run, path)
        yield NextStep(StepCode.SEARCH, run, path)
    yield NextStep(StepCode.READ_ROWS, verdict.run.id)
    if verdict.outcome == "cannot_tell":
        yield NextStep(StepCode.COMPARE_BLIND, verdict.run.id)
    yield NextStep(StepCode.CHANGE_SETTING if is_usable else StepCode.TRAIN_AGAIN, run, path)


def _evaluate_more(verdict: Evaluation) -> Iterator[NextStep]:
    """Yield what to evaluate next, if anything would help: longer answers, examples in the prompt, or more rows."""
    from mlxtune.evaluation.arms import BASE, is_free, is_tuned
    from mlxtune.evaluation.scorers import PREFERENCE
    from mlxtune.evaluation.statistics.significance import needed_rows

    report, run = verdict.report, verdict.run_id
    untrained = [arm.name for arm in report.arms if not (is_tuned(arm.name) or is_free(arm.name))]
    if cut := report.verdict.cut:
        yield NextStep(StepCode.RAISE_ANSWER_LIMIT, run, name=cut.arm, number=cut.count)
    elif verdict.outcome == "better" and untrained == [BASE] and report.headline_metric != PREFERENCE:
        yield NextStep(StepCode.EVALUATE_EXAMPLES, run)
    elif report.headline and verdict.outcome == "cannot_tell":
        paired = report.headline.paired
        if paired.fixed + paired.broken and (needed_rows(paired) or 0) <= _MOST_ROWS * paired.total:
            limited = verdict.recipe is not None and verdict.recipe.evaluation.rows == verdict.rows
            yield NextStep(StepCode.EVALUATE_MORE_ROWS if limited else StepCode.ADD_ROWS, run, number=verdict.rows)


def _before_first_run(snapshot: Snapshot) -> NextStep:
    """Return the next step before the first run: check the rows, measure the base model, then train."""
    valid = [view for view in snapshot.startable if view.recipe]
    if not valid:
        return NextStep(StepCode.FIX_RECIPE, recipe=snapshot.startable[0].path)
    view = valid[0]
    train = NextStep(StepCode.TRAIN, recipe=view.path)
    check = view.last_check
    if view.source_exists and (check is None or check.outcome == "blocked" or check.changed == "recipe"):
        return replace(_rows_step(view, check), also=(train,))
    evals = [one for one in snapshot.evals if not is_sample(one.name)]
    if view.source_exists and not any(map(base_measured, evals)):
        if failed := _failed_evaluation(evals):
            return NextStep(StepCode.REPEAT_EVALUATION, failed.id, also=(train,))
        return NextStep(StepCode.EVALUATE_BASE, recipe=view.path, also=(train,))
    plan = NextStep(StepCode.ESTIMATE_COST, recipe=view.path)
    if (verdict := snapshot.verdict) and verdict.changes and (share := verdict.changes[-1][1].share) >= _GOOD_ENOUGH:
        return NextStep(StepCode.ASK_ADVICE, recipe=view.path, name=verdict.report.subject.name, number=share, also=(train, plan))
    if len(snapshot.startable) > 1:
        return NextStep(StepCode.CHOOSE_RECIPE, number=len(snapshot.startable), also=(plan,))
    return replace(train, also=(plan,))


def _rows_step(view: RecipeView, check: CheckOutcome | None) -> NextStep:
    """Return the step for rows that were not checked, or not with this recipe or review, or that must be fixed."""
    if check and check.outcome == "blocked" and not check.changed:
        return NextStep(StepCode.FIX_ROWS, recipe=view.path, number=check.flagged)
    return NextStep(StepCode.CHECK_ROWS, recipe=view.path)


def after_check(source: Path, section: DataSection, report: CheckReport, snapshot: Snapshot) -> NextStep | None:
    """Return the next step after a check of ``source``, a recipe or rows read as ``section`` says."""
    from mlxtune.data.checks.registry import get_check
    from mlxtune.data.column_map import first_records, proposed_mapping
    from mlxtune.data.readers.columns import mapping_option
    from mlxtune.recipe.edit import toml_literal

    recipe, name = load(source, []) if source.suffix == ".toml" else None, str(source)
    if not section.map and (report.kept == 0 or set(report.formats) == {"text"}):
        with suppress(DataError):
            if proposed := proposed_mapping(first_records(report.path, 100)):
                return None if recipe else NextStep(StepCode.MAP_COLUMNS, name=name, options=mapping_option(proposed))
    read_as = [f"--format {section.format}"] if section.format != "auto" and not recipe else []
    read_as += [mapping_option(section.map)] if section.map and not recipe else []
    blocks = {finding.check for finding in report.findings if finding.severity == "block"}
    if not report.kept or report.improvement.code == "change_recipe":
        return None
    if blocks:
        unsafe = sorted(id for id in blocks if not get_check(id).fix.safe and get_check(id).fix.kind != "hand")
        return NextStep(StepCode.APPLY_FIXES, name=name, options=" ".join((*read_as, "--fix", *(f"--also {id}" for id in unsafe))))
    if recipe:
        settings = [f"data.map={toml_literal(section.map)}"] if section.map != recipe.data.map else []
        settings += [f"data.format={section.format}"] if section.format != recipe.data.format else []
        measured = any(base_measured(view) for view in snapshot.evals if view.name == recipe.name)
        code = StepCode.TRAIN if measured else StepCode.EVALUATE_BASE
        return NextStep(code, recipe=source, options=" ".join(f"--set {shlex.quote(one)}" for one in settings))
    paths = (view.path for view in snapshot.recipes if view.recipe and view.recipe.source.resolve() == report.path.resolve())
    if path := next(paths, None):
        return NextStep(StepCode.CHECK_ROWS, recipe=path)
    return NextStep(StepCode.WRITE_RECIPE, name=name, options=" ".join(read_as))


def _failed_evaluation(evals: Sequence[RunView]) -> RunView | None:
    return next((view for view in evals[:1] if view.status in ("failed", "crashed")), None)


def base_measured(view: RunView) -> bool:
    """Return whether the base has answered every row in an evaluation."""
    return view.status == "finished" or any(arm == "base" and done >= rows for arm, (done, rows) in view.state.arms.items())


_SAMPLE = "-advice"  # ends the names of the evaluations of a sample of rows, which the advice starts


def sample_name(name: str) -> str:
    return f"{name[: 64 - len(_SAMPLE)]}{_SAMPLE}"


def is_sample(name: str) -> bool:
    """Whether an evaluation with this name is a sample, and therefore not a baseline."""
    return name.endswith(_SAMPLE)
