"""``advise``: should this be fine-tuned at all?"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.advice import answers as interview
from mlxtune.advice import evidence as workspace
from mlxtune.advice.answers import Answers
from mlxtune.advice.evidence import Evidence
from mlxtune.advice.rules import Question, rules
from mlxtune.advice.verdict import Advice, verdict
from mlxtune.cli.evaluate import measure
from mlxtune.cli.screen import Cell, columns, err, heading, line, out, say, show, show_json
from mlxtune.cli.train import Json, Overrides
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.models import catalog
from mlxtune.recipe import Recipe, load

_MARKS: dict[str, Cell] = {
    "right": ("✓ ", "success"), "wrong": ("→ ", "primary"), "gate": ("■ ", "bold warning"), "caution": ("! ", "warning"),
}  # fmt: skip
_NAMES = {"rag": "retrieve", "fine-tune": "fine-tune", "": "·"}


def advise(
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe: its data and what was measured of it count.", show_default=False)
    ] = None,
    overrides: Overrides = None,
    answers: Annotated[
        Path | None, typer.Option("--answers", help="The interview's answers, a .json file.", show_default=False)
    ] = None,
    measure_first: Annotated[
        bool,
        typer.Option("--measure", help=f"First run the base, your prompt and a few examples on {workspace.ENOUGH} held-out rows."),
    ] = False,
    questions: Annotated[
        bool,
        typer.Option(
            "--questions", help="Show the questions and what may be answered; with --json, the schema of an answers file."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Should this be fine-tuned at all? A short interview, what the workspace knows, and a verdict with its reasons."""
    if questions:
        show_json(interview.schema()) if json else _questions()
        return
    loaded = load(recipe, overrides or []) if recipe else None
    if measure_first and loaded is None:
        raise InputError(
            "--measure needs a recipe: its rows and its contract are what is measured.", mend="mlxtune advise RECIPE --measure"
        )
    asking = answers is None and sys.stdin.isatty() and err.is_terminal
    given = interview.read(answers) if answers else _given(asking)
    if not answers:
        interview.keep(Path.cwd(), given)
    found = _evidence(loaded, recipe)
    if loaded and (measure_first or (asking and not found.arms and _offered(loaded))):
        sample(loaded, quiet=json)
        found = _evidence(loaded, recipe)
    advice = verdict(given, found)
    if json:
        show_json({"advice": asdict(advice), "answers": given.as_json(), "evidence": found.as_json()})
    else:
        table(advice, found)


def sample(recipe: Recipe, *, quiet: bool = False) -> None:
    """Measure what needs no training on a few held-out rows. Raises ``InputError`` where there is nothing to measure by."""
    code, _ = measure(workspace.sampled(recipe), None, quiet=quiet)
    if code:
        raise typer.Exit(code)


def table(advice: Advice, evidence: Evidence) -> None:
    """The advice on a terminal: the verdict, why, the nine questions, what does not go together, and what to do next."""
    heading(out, "Advice", evidence.recipe or "from answers alone")
    _paragraph(advice.sentence, ("▌ ", "primary"), "bold")
    if advice.measured:
        show("")
        heading(out, "Measured", "held-out rows, 95 % Wilson intervals")
        for text in advice.measured:
            _paragraph(text, ("· ", "muted"))
    show("")
    heading(out, "Why")
    for reason in advice.reasons:
        _paragraph(reason.text, _MARKS[reason.side])
        _paragraph("; ".join(reason.because), "  ", "muted")
    if advice.contradictions:
        show("")
        heading(out, "What does not go together")
        for text in advice.contradictions:
            _paragraph(text, ("✗ ", "bold error"))
    show("")
    heading(out, "RAG or fine-tuning", "nine questions; a dot where yours is not about it")
    columns(
        [
            [(row.ask, "" if row.points else "muted"), (_NAMES[row.points], "primary" if row.points else "muted")]
            for row in advice.table
        ]
    )
    if advice.changes:
        show("")
        heading(out, "What would change this")
        for text in advice.changes:
            _paragraph(text, ("· ", "muted"))
    for text in evidence.passed:
        _paragraph(text, ("○ ", "muted"), "muted")
    show("")
    _paragraph(advice.next, ("Next  ", "bold primary"))


def _evidence(recipe: Recipe | None, called: Path | None) -> Evidence:
    """What this workspace knows of ``recipe``; nothing where none is named."""
    base = catalog.find(recipe.model.base) if recipe else None
    return workspace.gather(Path.cwd(), recipe, str(called), base.shapes.parameters if base else None) if recipe else Evidence()


def _offered(recipe: Recipe) -> bool:
    """Whether to measure first: the offer, where there is something to measure by."""
    if not workspace.measurable(recipe):
        return False
    say("")
    return typer.confirm(
        f"  Nothing was measured yet. Run the base, your prompt and a few examples on {workspace.ENOUGH} held-out rows first?",
        default=True,
        err=True,
    )


def _given(asking: bool) -> Answers:
    """The interview on this terminal if ``asking``, else the answers of last time. Raises ``InputError``."""
    before = interview.last(Path.cwd())
    if asking:
        return interview.check({question.key: _ask(question, before) for question in rules().questions})
    if before is None:
        raise InputError(
            "There is no terminal to ask on, and no answers.",
            mend="--answers FILE.json; mlxtune advise --questions shows what it holds.",
        )
    return before


def _ask(question: Question, before: Answers | None) -> Any:
    """Ask until the answer is one; what was answered last is the default."""
    default = (before.as_json() if before else {}).get(question.key, question.default)
    say("")
    say((question.ask, "bold"))
    names = list(question.options)
    for at, (name, meaning) in enumerate(question.options.items(), 1):
        say("  ", (f"{at:>2} ", "primary"), (f"{name:13}", ""), (meaning, "muted"))
    hint = {"some": "numbers or names, with commas; - for none", "one": "a number or a name", "number": "a number"}[question.kind]
    shown = (",".join(default) or "-") if isinstance(default, list) else "" if default is None else str(default)
    while True:
        text = _typed(hint, shown)
        parts = [part.strip() for part in text.split(",") if part.strip() not in ("", "-")]
        chosen = [names[int(part) - 1] if names and part.isdigit() and 0 < int(part) <= len(names) else part for part in parts]
        try:
            figure = interview.number(text)
            value: Any = chosen if question.kind == "some" else text if len(chosen) != 1 else chosen[0]
            value = (text if figure is None else figure) if question.kind == "number" else value
            interview.one(question, value)
            return value
        except InputError as error:
            say("  ", ("✗ ", "bold error"), error.message, " ", (error.mend, "muted"))


def _typed(hint: str, default: str) -> str:
    """A line that somebody types; ``default`` for an empty one. What is asked stands on stderr alone."""
    try:
        return err.input(line(f"  {hint}", (f" [{default}]" if default else "", "muted"), ": ")).strip() or default
    except EOFError as error:
        raise typer.Abort from error


def _questions() -> None:
    """The interview as a list: keys and values of an answers file."""
    heading(out, "Questions", "an answers file is one JSON object with these keys")
    for question in rules().questions:
        note = {"some": "a list", "one": "one of", "number": "a number"}[question.kind]
        default = "" if question.default is None else f", {question.default} if left out"
        show("  ", (question.key, "bold primary"), "  ", question.ask, f"  ({note}{default})")
        for name, meaning in question.options.items():
            show("      ", (f"{name:13}", ""), (meaning, "muted"))


def _paragraph(text: str, mark: Cell = "", style: str = "") -> None:
    """``text`` wrapped behind ``mark``."""
    lead = mark if isinstance(mark, str) else mark[0]
    width = max(40, min(out.width, 100)) - 2 - len(lead)
    for number, part in enumerate(textwrap.wrap(one_line(text), width, break_on_hyphens=False) or [""]):
        show("  ", mark if not number else " " * len(lead), (part, style))
