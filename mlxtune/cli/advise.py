"""``advise``: give advice on whether to fine-tune at all."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mlxtune.advice import evidence, interview
from mlxtune.advice.evidence import SAMPLE_ROWS
from mlxtune.advice.interview import Answers
from mlxtune.advice.rules import InterviewQuestion, rules
from mlxtune.advice.verdict import give_advice
from mlxtune.cli.evaluate import measure
from mlxtune.cli.options import Json, Overrides, argument, option
from mlxtune.cli.output import err, info, out, show, show_json, show_result
from mlxtune.core.errors import InputError
from mlxtune.present.advice import advice_document
from mlxtune.present.terminal import print_heading, styled
from mlxtune.recipe import Recipe, load


def advise(
    recipe: Annotated[Path | None, argument("The recipe.")] = None,
    overrides: Overrides = None,
    answers: Annotated[Path | None, option("--answers", "A .json file with the interview's answers.")] = None,
    measure_first: Annotated[bool, option("--measure", f"First measure the base on {SAMPLE_ROWS} held-out rows.")] = False,
    questions: Annotated[bool, option("--questions", "Show the questions, or with --json the schema of an answers file.")] = False,
    json: Json = False,
) -> None:
    """Advise on whether to fine-tune at all, based on a short interview and the workspace's data and evaluations."""
    if questions:
        show_json(interview.schema()) if json else _questions()
        return
    loaded = load(recipe, overrides or []) if recipe else None
    if measure_first and loaded is None:
        raise InputError("--measure requires a recipe.")
    interactive = answers is None and sys.stdin.isatty() and err.is_terminal
    given = interview.read_answers(answers) if answers else _answers(interactive)
    if not answers:
        interview.save_answers(Path.cwd(), given)
    known = evidence.collect(Path.cwd(), loaded, str(recipe)) if loaded else evidence.AdviceEvidence()
    if loaded and (measure_first or (interactive and not known.arms and _confirm_measuring(loaded))):
        measure(evidence.sample_recipe(loaded))
        known = evidence.collect(Path.cwd(), loaded, str(recipe))
    advice = give_advice(given, known)
    document = {"advice": advice.as_json(), "answers": interview.answers_json(given), "evidence": known.as_json()}
    show_result(document, advice_document(advice, known), json=json)


def _confirm_measuring(recipe: Recipe) -> bool:
    if not evidence.can_measure(recipe):
        return False
    info("")
    arms = f"base, prompt, and few-shot examples on {SAMPLE_ROWS} held-out rows"
    return typer.confirm(f"  Nothing has been evaluated yet. Evaluate {arms} first?", default=True, err=True)


def _answers(interactive: bool) -> Answers:
    """Return the answers given in this terminal, or else the last saved ones. Raise ``InputError`` if there are none."""
    last = interview.load_last(Path.cwd())
    if interactive:
        return interview.parse_answers({question.key: _ask(question, last) for question in rules().questions})
    if last is None:
        hint = "Use --answers FILE.json; mlxtune advise --questions shows its keys."
        raise InputError("There are no saved answers, and no terminal for the interview.", hint=hint)
    return last


def _ask(question: InterviewQuestion, last: Answers | None) -> Any:
    """Ask until the answer is valid. The default is the last answer."""
    default = interview.answers_json(last or {}).get(question.key, question.default)
    info("")
    info((question.ask, "bold"))
    names = list(question.options)
    for number, (name, meaning) in enumerate(question.options.items(), 1):
        info("  ", (f"{number:>2} ", "primary"), (f"{name:13}", ""), (meaning, "muted"))
    hint = {"some": "numbers or names, separated by commas; - for none", "one": "a number or a name", "number": "a number"}
    shown = (",".join(default) or "-") if isinstance(default, list) else "" if default is None else str(default)
    while True:
        text = _input(hint[question.kind], shown)
        parts = [part.strip() for part in text.split(",") if part.strip() not in ("", "-")]
        choices = [names[int(part) - 1] if names and part.isdigit() and 0 < int(part) <= len(names) else part for part in parts]
        number_value, one = interview.parse_number(text), choices[0] if len(choices) == 1 else text
        value = {"some": choices, "one": one, "number": text if number_value is None else number_value}[question.kind]
        try:
            interview.parse_answer(question, value)
            return value
        except InputError as error:
            info("  ", ("✗ ", "bold error"), error.message, " ", (error.hint, "muted"))


def _input(hint: str, default: str) -> str:
    """Prompt on stderr and read a line. An empty line means ``default``."""
    try:
        return err.input(styled(f"  {hint}", (f" [{default}]" if default else "", "muted"), ": ")).strip() or default
    except EOFError as error:
        raise typer.Abort from error


def _questions() -> None:
    print_heading(out, "Questions", "an answers file is a JSON object with these keys")
    for question in rules().questions:
        note = {"some": "a list", "one": "one of", "number": "a number"}[question.kind]
        default = "" if question.default is None else f", default {question.default}"
        show("  ", (question.key, "bold primary"), "  ", question.ask, f"  ({note}{default})")
        for name, meaning in question.options.items():
            show("      ", (f"{name:13}", ""), (meaning, "muted"))
