"""``data generate``: have a teacher propose rows, which are used only after they are accepted in the review."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mlxtune.adapters import library
from mlxtune.cli.follow import announce, follow_answers
from mlxtune.cli.options import Detach, Json, ModelOptions, Overrides, RecipeFile, exclusive, option, with_option_groups
from mlxtune.cli.output import draw, info, progress_bar, require_consent, show_json
from mlxtune.core.errors import InputError
from mlxtune.core.files import user_path
from mlxtune.core.journal import read
from mlxtune.core.text import one_line, plural
from mlxtune.data.generate.lineage import Task
from mlxtune.data.generate.request import ALL_PROMPTS, DEFAULT_ROWS, GenerationRequest, TeacherSpec
from mlxtune.present.blocks import Cell, Column, Table
from mlxtune.present.generation import generation_document, thin_rows_text
from mlxtune.present.labels import most_text
from mlxtune.recipe import Recipe, load
from mlxtune.runs.registry import Run

if TYPE_CHECKING:  # imports numpy, which --help does not need
    from mlxtune.data.generate.start import GenerationQuote
    from mlxtune.evaluation.thin_rows import ThinRows

_TEACHER = "qwen3-4b"  # suggested


@dataclass(frozen=True)
class TaskOptions:
    """What to generate; new prompts like the training rows by default."""

    prompts: Annotated[str, option("--prompts", "Answer the prompts in this file (.jsonl, or .txt with one per line).")] = ""
    answers: Annotated[bool, option("--answers", "Answer the rows that have no answer, by default with the recipe's base.")] = False
    documents: Annotated[str, option("--documents", "Write prompts that the Markdown, text, or PDF files in a folder answer.")] = ""
    worse: Annotated[bool, option("--worse", "Write worse answers for preference pairs, each with a named flaw.")] = False
    score: Annotated[bool, option("--score", "Grade training rows by the rubric instead of writing new ones.")] = False

    @property
    def task(self) -> Task:
        """The task. Raises ``InputError`` if there are several."""
        exclusive(**vars(self))
        if self.prompts or self.answers:
            return "answers"
        return "documents" if self.documents else "pairs" if self.worse else "scores" if self.score else "variations"


@dataclass(frozen=True)
class RowOptions:
    like: Annotated[str, option("--like", "Use only training rows that match this filter, such as meta.category:account.")] = ""
    thin: Annotated[int | None, option("--thin", "The number of an area with too few rows; 0: all rows.", min=0)] = None
    about: Annotated[str, option("--about", "Subject of prompts.")] = ""
    n: Annotated[int | None, option("-n", "--rows", "Number of rows. Default: 20, or all of a file.", min=1, max=10_000)] = None
    candidates: Annotated[int, option("-k", "--candidates", "Answers per prompt, of which the best is kept.", min=1, max=32)] = 4
    rubric: Annotated[str, option("--rubric", "Let the teacher grade the answers: a TOML file of questions, or default.")] = ""
    seed: Annotated[int, option("--seed", "Random seed.", min=0)] = 7


@dataclass(frozen=True)
class TeacherOptions(ModelOptions):
    adapter: Annotated[str, option("--adapter", "The teacher is this adapter, on its own base.")] = ""

    @property
    def spec(self) -> TeacherSpec:
        """The teacher that the options name. Raises ``InputError`` if they name several."""
        exclusive(local=self.local, adapter=self.adapter, model=self.model)
        if self.adapter:
            entry = library.find_usable(Path.cwd(), self.adapter)
            return TeacherSpec(base=entry.base, adapter=str(entry.folder))
        if self.local:
            return TeacherSpec(base=self.local)
        return TeacherSpec(
            url=self.url, model=self.model, key_env=self.key_env, price_in=self.price_in, price_out=self.price_out, cap=self.cap
        )


@with_option_groups
def generate(
    recipe: RecipeFile,
    tasks: TaskOptions,
    rows: RowOptions,
    teacher: TeacherOptions,
    dry_run: Annotated[bool, option("--dry-run", "Only the cost.")] = False,
    detach: Detach = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Have a teacher write rows for a recipe's source, and follow its progress.

    Rows that pass the contract and all checks and do not repeat another row are proposed. They are trained on only after you accept
    them in the review, and are never held out. The teacher sees only training rows. Without --like or --about, it writes
    rows for an area that has too few; without a teacher, the command lists these areas.
    """
    from mlxtune.data.generate.start import quote, start

    loaded = load(recipe, overrides or [])
    spec = teacher.spec
    if tasks.answers and not spec.base and not spec.model:
        spec = TeacherSpec(base=loaded.model.base)
    request = _request(tasks, rows, spec)
    if request.task == "variations" and not (rows.like or rows.about):
        if rows.thin != 0:
            places = _thin_rows(recipe, loaded)
            if not request.teacher.base and not request.teacher.model:
                _show_thin_rows(places, recipe, json=json)
                return
            request = _choose_thin_rows(request, places, rows.thin, quiet=json)
    elif rows.thin is not None:
        raise InputError("--thin cannot be combined with other rows or tasks.")
    offer = quote(loaded, request)
    if not json:
        _show_quote(offer, request)
    if dry_run:
        if json:
            show_json({name: getattr(offer, name) for name in ("rows", "questions", "dollars", "host", "files")})
        return
    request = consent_to(offer, request, send=teacher.send)
    with progress_bar() as update:
        run = start(Path.cwd(), loaded, request, progress=update)
    if announce(run, "generation", detach=detach, json=json):
        code = follow_answers(run)
        if code == 0 and run.state().phase == "finished":
            show_json({"run": run.id, **run.state().summary}) if json else show_generation(run, recipe)
        raise typer.Exit(code)


def consent_to(offer: GenerationQuote, request: GenerationRequest, *, send: bool) -> GenerationRequest:
    """Return ``request`` with the user's consent if its teacher is on another machine. Raise ``InputError`` without consent."""
    if not offer.host:
        return request
    if offer.files:
        files = one_line(", ".join(offer.files))
        info(("  ! ", "bold warning"), f"Text of {plural(len(offer.files), 'document')} will be sent: {files}")
    what = f"Up to {offer.questions:,} requests with training rows will be sent to {offer.host}"
    return replace(request, teacher=replace(request.teacher, consent=require_consent(what, send)))


def _request(tasks: TaskOptions, rows: RowOptions, teacher: TeacherSpec) -> GenerationRequest:
    task, rubric = tasks.task, rows.rubric or ("default" if tasks.score else "")
    return GenerationRequest(
        task, teacher, rows.n or (ALL_PROMPTS if task == "answers" else DEFAULT_ROWS), 1 if task == "scores" else rows.candidates,
        rows.like, (), rows.about, _absolute(tasks.prompts), _absolute(tasks.documents),
        rubric if rubric == "default" else _absolute(rubric), seed=rows.seed,
    )  # fmt: skip


def _absolute(path: str) -> str:
    return str(user_path(path).resolve()) if path else ""


def show_generation(run: Run, recipe: Path | None = None) -> None:
    lines = read(run.folder / "scores.jsonl")[:10] if (run.folder / "scores.jsonl").is_file() else []
    target = shlex.quote(os.path.relpath(recipe)) if recipe else "RECIPE"
    draw(generation_document(run.state().summary, lines, run.folder / "refused.jsonl", target))


def _thin_rows(recipe: Path, loaded: Recipe) -> list[ThinRows]:
    """Return the areas with too few rows. The rows are clustered only if neither an evaluation nor the labels reveal any."""
    from mlxtune.evaluation.thin_rows import thin_clusters, thin_rows

    if places := thin_rows(Path.cwd(), loaded):
        return places
    with progress_bar("clustering rows") as update:
        return thin_clusters(recipe, loaded, update)


def _show_thin_rows(places: Sequence[ThinRows], recipe: Path, *, json: bool) -> None:
    if json:
        show_json({"thin": [asdict(place) for place in places]})
        return
    rows = []
    for number, place in enumerate(places, 1):
        about = f"{plural(len(place.examples), 'training row')}: {one_line(place.sample, 50)}"
        rows.append((Cell(str(number)), Cell(thin_rows_text(place)), Cell(about, "muted")))
    draw((Table("Too few rows", plural(len(places), "area"), (Column(right=True), Column(), Column()), tuple(rows)),))
    command = f"mlxtune data generate {shlex.quote(os.path.relpath(recipe))} --thin 1 --local {_TEACHER}"
    info("Write rows like the first:  ", (command, "primary"))


def _choose_thin_rows(
    request: GenerationRequest, places: Sequence[ThinRows], number: int | None, *, quiet: bool
) -> GenerationRequest:
    """Return ``request`` with the examples of area ``number`` (from 1, the default), or with all rows if there is no such area."""
    if number is not None and number > len(places):
        hint = "Leave out the teacher and --thin to show the list."
        raise InputError(f"The list of areas with too few rows has no entry {number}, only {len(places)}.", hint=hint)
    if not places:
        return request
    place = places[(number or 1) - 1]
    if not quiet:
        info(("  ", ""), f"Rows like {plural(len(place.examples), 'training row')}, because {thin_rows_text(place)}.")
    return replace(request, rows=place.examples)


def _show_quote(offer: GenerationQuote, request: GenerationRequest) -> None:
    spec = request.teacher
    teacher = spec.model or (Path(spec.adapter).parent.name if spec.adapter else spec.base)
    prompts, requests = plural(offer.rows, "prompt"), plural(offer.questions, "request")
    info(("  ", ""), f"{prompts}, up to {requests} to {one_line(teacher, 60)}{most_text(offer.dollars, offer.cap)}.")
