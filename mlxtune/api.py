"""The Python API: the core of the commands, for notebooks and scripts.

    from mlxtune import check_data, evaluate, generate, load_adapter, load_recipe, train

    recipe = load_recipe("recipes/support-json.toml", "training.epochs=2")
    run = train(recipe)
    print(evaluate(run).outcome)
    print(generate("My parcel is late.", adapter=load_adapter(run.id)))

Training, evaluation, and generation run in worker processes, as they do from the command line, so that they do not load a model into
your process. Interrupting ``train`` or ``evaluate`` leaves the run going; ``mlxtune runs`` lists and stops it. All errors are
``MlxtuneError`` or its subclasses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.adapters.library import base_of
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line
from mlxtune.data.column_map import named_columns
from mlxtune.data.rows import Message
from mlxtune.data.split import with_recorded_settings
from mlxtune.evaluation import history
from mlxtune.evaluation import report as reports
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.models import bundled
from mlxtune.models.resolve import resolve
from mlxtune.recipe import DataSection, Recipe, load
from mlxtune.runs.events import Event
from mlxtune.runs.launch import require_finished, watch
from mlxtune.runs.registry import Run
from mlxtune.serving.client import Client, PendingAnswer
from mlxtune.serving.protocol import GREEDY, Failed, Piece, Sampling
from mlxtune.workspace import control

if TYPE_CHECKING:  # checks load numpy
    from mlxtune.data.checks.report import CheckReport

Prompt = str | Sequence[Mapping[str, Any]]
EventHandler = Callable[[Event], None]


def load_recipe(path: str | Path, *overrides: str) -> Recipe:
    """Read a recipe file. ``overrides`` are written as for ``--set``: ``"training.epochs=3"``. Raise ``RecipeError``."""
    return load(Path(path), overrides)


def check_data(source: Recipe | str | Path) -> CheckReport:
    """Check the rows of a recipe, or of a file or folder. Raise ``InputError`` if they cannot be read.

    With a recipe, the rows are also checked against its contract, and their tokens are counted.
    """
    from mlxtune.evaluation.check_process import check_source

    if isinstance(source, Recipe):
        return check_source(source.source, source.data, source)
    path = Path(source)
    return check_source(path, named_columns(path, with_recorded_settings(path, DataSection(str(path)))), None)


def train(recipe: Recipe, *, workspace: str | Path = ".", on_event: EventHandler = lambda event: None) -> Run:
    """Train ``recipe`` to its end and return the run; its adapter is in ``run.adapter``.

    ``on_event`` gets each event, such as a step with its loss. Raise ``InputError`` if the recipe cannot be trained, ``Interrupted`` if
    the run is stopped, and ``MlxtuneError`` if it fails.
    """
    return _finish(control.train(Path(workspace).absolute(), recipe), on_event)


def evaluate(
    what: Run | Recipe,
    *,
    adapter: AdapterEntry | None = None,
    workspace: str | Path = ".",
    on_event: EventHandler = lambda event: None,
) -> EvaluationReport:
    """Evaluate a run's adapter against its base on the held-out rows, or a recipe's base, with ``adapter`` if given.

    ``run.at(48)`` is the run with its checkpoint of step 48 as its adapter; a run that ended early has its last checkpoint.
    Raise ``InputError`` if something cannot be evaluated, and ``MlxtuneError`` if the evaluation fails. Endpoints among the arms need
    the consent that only the command line asks for.
    """
    if isinstance(what, Run):
        if adapter:
            raise InputError(f"{what.id} can only be evaluated with its own adapter.", hint="Pass its recipe: run.recipe()")
        recipe, run = what.recipe(), what
    else:
        recipe, run = what, None
    return reports.load(_finish(control.evaluate(Path(workspace).absolute(), recipe, run, adapter), on_event).folder)


def load_report(which: str | Path = "last", *, workspace: str | Path = ".") -> EvaluationReport:
    """Load a report: a ``report.json``, an evaluation's folder or ID, or ``"last"``. Raise ``InputError`` if there is none."""
    return reports.load(history.find(Path(workspace), str(which)))


def load_adapter(which: str = "last", *, workspace: str | Path = ".") -> AdapterEntry:
    """Find an adapter by its name, run, ``RUN@STEP``, or folder, or the newest one with ``"last"``. Raise ``InputError`` if it cannot be used."""
    return library.find_usable(Path(workspace), which)


def generate(
    prompts: Prompt | Sequence[Prompt], *, adapter: AdapterEntry | None = None, base: str = "", system: str | None = None,
    schema: Mapping[str, Any] | None = None, sampling: Sampling = GREEDY, workspace: str | Path = ".",
) -> list[str]:  # fmt: skip
    """Answer each prompt with a base model, with or without an adapter, in one model process; return the answers in order.

    A prompt is a question, or a conversation as a list of messages (``{"role": …, "content": …}``). ``base`` defaults to the
    adapter's base, or the bundled model. ``system`` defaults to the system prompt of the adapter's training rows; an empty string is
    no system prompt. ``schema`` is a JSON Schema that the answers are constrained to. Answers exclude reasoning. Raise ``InputError``
    for an invalid prompt or adapter, and ``MachineError`` if the model process dies.
    """
    conversations = [_messages(prompt, adapter, system) for prompt in _separate(prompts)]
    base = base or (base_of(adapter) if adapter else bundled.DEFAULT.alias)
    resolve(base)
    name = adapter.name if adapter else ""
    with Client(base, Path(workspace), queue=max(1, len(conversations))) as client:
        client.ready()
        answers = [client.ask(messages, adapter=name, sampling=sampling, schema=schema) for messages in conversations]
        return [_text(answer) for answer in answers]


def _separate(prompts: Prompt | Sequence[Prompt]) -> Sequence[Prompt]:
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], Mapping))
    return [cast(Prompt, prompts)] if is_one else cast(Sequence[Prompt], prompts)


def _messages(prompt: Prompt, adapter: AdapterEntry | None, system: str | None) -> list[Message]:
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    messages = [_message(turn) for turn in turns]
    if system is None:
        system = adapter.system if adapter else ""
    has_system = any(message.role == "system" for message in messages)
    return [Message("system", system), *messages] if system and not has_system else messages


def _message(turn: Mapping[str, Any]) -> Message:
    if not (isinstance(turn, Mapping) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
        raise InputError(f"Not a message: {one_line(repr(turn), 80)}.", hint='Use {"role": "user", "content": "…"}.')
    return Message(turn["role"], turn["content"])


def _text(answer: PendingAnswer) -> str:
    """Wait for ``answer`` and return its text without the reasoning. Raise its error if it failed."""
    text = ""
    for event in answer:
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Piece) and not event.reasoning:
            text += event.text
    return text


def _finish(run: Run, on_event: EventHandler) -> Run:
    for events, state in watch(run):
        for event in events:
            on_event(event)
        if state.ended:
            require_finished(state)
    return run
