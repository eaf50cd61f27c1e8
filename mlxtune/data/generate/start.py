"""Check a generation's request, estimate its cost, and start its run. Imports no mlx."""

import json
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.child_process import Progress
from mlxtune.core.json_fields import to_json
from mlxtune.data.export import native_record
from mlxtune.data.generate import questions
from mlxtune.data.generate.context import first_stage, load_context
from mlxtune.data.generate.prompt_rules import LONGER
from mlxtune.data.generate.request import GenerationRequest
from mlxtune.data.generate.teachers import make_meter, remote_host, require_consent, require_teacher
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.judge import rubric
from mlxtune.evaluation.judge.endpoint import REPLY_TOKENS
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe
from mlxtune.runs import launch
from mlxtune.runs.locks import require_free_accelerator
from mlxtune.runs.registry import Run

_GRADING_BYTES = 2000  # size of the instructions in a grading question


@dataclass(frozen=True)
class GenerationQuote:
    """The maximum cost of a generation: ``questions`` to the teacher, ``dollars``, and the cost ``cap``. ``host`` receives the
    rows and text of the documents ``files``."""

    rows: int
    questions: int
    dollars: float
    cap: float | None
    host: str
    files: tuple[str, ...] = ()


def quote(recipe: Recipe, request: GenerationRequest) -> GenerationQuote:
    """Return the maximum cost of a generation. Raises ``InputError`` if the request or the recipe's rows cannot be used."""
    require_teacher(request.teacher)
    Contract.from_recipe(recipe)
    context = load_context(recipe, request)
    meter = make_meter(request.teacher)
    first = first_stage(context, recipe, request)
    costs = [meter.worst_case(question.messages) for question in first.questions]
    subjects = first.most_subjects(request.count)
    longest = max(len(json.dumps(native_record(row))) for row in context.train)
    known = max((len(json.dumps(to_json(one))) for one in (*first.subjects, *first.passages)), default=0)
    prompt = known + longest * (LONGER if first.questions else 1)
    messages = [{"role": "user", "content": "x" * (longest * questions.SHOTS + prompt)}]
    answers = subjects * request.candidates
    costs += [meter.worst_case(messages)] * answers
    graded = answers if request.task != "scores" else min(request.count, len(context.examples))
    if request.rubric:
        graded_by = rubric.load_rubric(request.rubric)
        grading = [{"role": "user", "content": "x" * (prompt + REPLY_TOKENS + _GRADING_BYTES)}]
        costs += [meter.worst_case(grading)] * (graded * len(graded_by.questions))
    files = tuple(dict.fromkeys(passage.file for passage in first.passages))
    return GenerationQuote(subjects or graded, len(costs), sum(costs), request.teacher.cap, remote_host(request.teacher), files)


def start(workspace: Path, recipe: Recipe, request: GenerationRequest, *, progress: Progress = lambda what, share: None) -> Run:
    """Start a generation. Raises ``InputError`` if the request cannot be used, and ``MachineError`` if another process holds the
    accelerator."""
    require_teacher(request.teacher)
    require_consent(request.teacher)
    load_context(recipe, request)
    require_free_accelerator()
    resolve(recipe.model.base, relative_to=recipe.folder, progress=progress)
    if request.teacher.base:
        resolve(request.teacher.base, relative_to=recipe.folder, progress=progress)
    return launch.start(workspace, "generate", recipe, to_json(request))
