"""The dialogs that start a generation: first the task, then the teacher with its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from operator import call
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlxtune.adapters import library
from mlxtune.core.errors import MlxtuneError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line, plural
from mlxtune.data.generate import start  # its imports would slow down the app's start
from mlxtune.data.generate.lineage import Task
from mlxtune.data.generate.request import ALL_PROMPTS, DEFAULT_ROWS, GenerationRequest, TeacherSpec
from mlxtune.data.generate.start import GenerationQuote, quote
from mlxtune.evaluation.thin_rows import ThinRows, thin_rows
from mlxtune.present.generation import thin_rows_text
from mlxtune.present.words import WORDS
from mlxtune.recipe import Recipe, load
from mlxtune.tui.notices import Notice
from mlxtune.tui.widgets import ChoiceOption

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp

    _Offer = tuple[str, GenerationRequest, GenerationQuote]  # a teacher's name, what to generate, and the cost

_Choice = Task | Literal["unanswered"]


def choose_task(app: MlxtuneApp, recipe: Path, rows: tuple[str, ...], what: str) -> None:
    """Ask what to generate. Variations are based on the training rows with the IDs ``rows``, or on all; ``what`` describes these rows."""

    def chosen(choice: _Choice) -> None:
        teacher = partial(choose_teacher, app, recipe, "answers" if choice == "unanswered" else choice)
        if choice == "documents":
            text = "Markdown, text, or PDF files. Each question is stored with the sentence that answers it."
            _ask_path(app, "Which folder?", text, lambda path: teacher(documents=path))
        elif choice == "answers":
            text = "A .jsonl file with prompts or messages, or a .txt file with one prompt per line."
            _ask_path(app, "Which prompts?", text, lambda path: teacher(prompts=path))
        elif choice == "unanswered":
            teacher()
        elif rows or choice == "pairs":
            teacher(rows=rows)
        else:
            _choose_thin_rows(app, recipe)

    with app.notices.showing_errors():
        are_pairs = load(recipe).method.kind == "dpo"
        words = {task: words for task, words in WORDS.generated.items() if (task == "pairs") == are_pairs}
        options = [ChoiceOption(task, title, about.format(rows=what)) for task, (title, about) in words.items()]
        app.choose("Generate rows", options, chosen, "A teacher writes them; they wait for your review.")


def _choose_thin_rows(app: MlxtuneApp, recipe: Path) -> None:
    """Ask which training rows to write variations of. If no area has too few rows, use all rows without asking."""

    def show(places: list[ThinRows]) -> None:
        if not places:
            choose_teacher(app, recipe, "variations")
            return

        options = [ChoiceOption(place.examples, thin_rows_text(place), one_line(place.sample, 60)) for place in places]
        options.append(ChoiceOption((), "All training rows"))
        title = "Which rows should the new ones resemble?"
        app.choose(title, options, lambda examples: choose_teacher(app, recipe, "variations", rows=examples))

    app.jobs.run(lambda: thin_rows(app.workspace, load(recipe)), show, busy="Looking for areas with too few rows.")


def choose_teacher(
    app: MlxtuneApp, recipe: Path, task: Task, *, rows: tuple[str, ...] = (), documents: str = "", prompts: str = ""
) -> None:
    """Ask which teacher writes the rows, showing the maximum cost of each, and start the generation."""

    def teachers() -> tuple[Recipe, list[_Offer]]:
        loaded = load(recipe)
        offers: list[_Offer] = []
        reason: MlxtuneError | None = None
        for name, spec in _teachers(app.workspace, loaded):
            request = GenerationRequest(
                task, spec, ALL_PROMPTS if task == "answers" else DEFAULT_ROWS, rows=rows, documents=documents, prompts=prompts
            )
            try:
                offers.append((name, request, quote(loaded, request)))
            except MlxtuneError as error:
                reason = reason or error
        if reason and not offers:
            raise reason
        return loaded, offers

    def show(found: tuple[Recipe, list[_Offer]]) -> None:
        loaded, offers = found
        _, first, cost = offers[0]

        def start_with(teacher: TeacherSpec) -> None:
            _start(app, loaded, replace(first, teacher=teacher))

        def ask_for_model() -> None:
            app.ask("Which model?", "", lambda name: start_with(TeacherSpec(base=name)), label="start")

        options = []
        for name, request, offer in offers:
            teacher = replace(request.teacher, consent="asked in the app") if offer.host else request.teacher
            options.append(ChoiceOption(partial(start_with, teacher), one_line(name, 30), _cost(offer)))
        options.append(ChoiceOption(ask_for_model, "Another model", "an alias, a Hub ID, or a folder"))
        title = f"Which teacher should write up to {plural(min(first.count, cost.rows), 'row')}?"
        seen = ", ".join(("training rows" if cost.files else "only training rows", *cost.files))
        app.choose(title, options, call, f"The teacher sees {one_line(seen, 300)}. Generation starts as soon as you choose one.")

    app.jobs.run(teachers, show, busy="Counting the requests.")


def _teachers(workspace: Path, recipe: Recipe) -> list[tuple[str, TeacherSpec]]:
    adapters = [entry for entry in library.all_adapters(workspace) if not entry.problem and entry.base == recipe.model.base]
    adapters.sort(key=lambda entry: -entry.created)
    result = [(entry.name, TeacherSpec(base=entry.base, adapter=str(entry.folder))) for entry in adapters[:3]]
    result.append((recipe.model.base, TeacherSpec(base=recipe.model.base)))
    for name, endpoint in recipe.evaluation.endpoints.items():
        spec = TeacherSpec(
            url=endpoint.url, model=endpoint.model, key_env=endpoint.key_env, price_in=endpoint.price_in, price_out=endpoint.price_out,
            cap=endpoint.cap or None,
        )  # fmt: skip
        result.append((name, spec))
    return result


def _cost(offer: GenerationQuote) -> str:
    text = f"up to {plural(offer.questions, 'request')}"
    if not offer.host:
        return f"{text}, on this machine"
    return f"{text}, at most ${min(offer.dollars, offer.cap or offer.dollars):.2f}; training rows are sent to {offer.host}"


def _start(app: MlxtuneApp, recipe: Recipe, request: GenerationRequest) -> None:
    def job() -> Notice:
        start.start(app.workspace, recipe, request)
        return Notice("working", f"Generating rows for {one_line(recipe.name)}.", "A notice appears when they can be reviewed.")

    app.runs.start_worker(job, busy="Starting the teacher.")


def _ask_path(app: MlxtuneApp, title: str, text: str, then: Callable[[str], None]) -> None:
    def chosen(path: str) -> None:
        then(str((app.workspace / user_path(path)).resolve()))

    app.ask(title, text, chosen, label="continue", check=user_path, folder=app.workspace)
