"""The tools and resources of ``mlxtune mcp``, over the workspace in the working directory.

A tool runs the command of the same name in a process of its own, so that neither its output nor a crash reaches the protocol. Training,
evaluations, and exports are detached runs, whose ID a tool returns at once; other work gets an ID if it takes long.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ResourceError, ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

import mlxtune
from mlxtune import api
from mlxtune.adapters.export import start as exports
from mlxtune.cli.docs import documentation
from mlxtune.cli.evaluate import find_subject, what_is_sent
from mlxtune.cli.mcp_jobs import Answer, PendingWork, run_command
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.json_fields import to_json
from mlxtune.data import scaffold
from mlxtune.evaluation import report as reports
from mlxtune.recipe import Recipe, load
from mlxtune.recipe.load import files_read
from mlxtune.runs import registry
from mlxtune.runs.registry import Run
from mlxtune.serving.protocol import Sampling

server = MCPServer(
    "mlxtune",
    version=mlxtune.__version__,
    instructions="Fine-tune a local model, and prove that it helped: create_recipe, check, plan, evaluate the recipe (the base model), train, "
    "evaluate the run, report. A tool that returns a run or a job goes on by itself: poll it with status. Paths are relative to the workspace.",
    log_level="WARNING",
)
jobs = PendingWork()
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

RecipeName = Annotated[str, Field(description="A recipe, such as recipes/shop.toml.")]
Overrides = Annotated[Sequence[str], Field(description="Keys of the recipe to override, such as training.epochs=3.")]
RunName = Annotated[str, Field(description="A run's ID, or last.")]
Evaluation = Annotated[str, Field(description="An evaluation's ID, or last.")]
Adapter = Annotated[str, Field(description="An adapter's name, a run, RUN@STEP, or last.")]
Subject = Annotated[str, Field(description="A recipe (its base alone), or a run or RUN@STEP (base and adapter).")]


class Consent(BaseModel):
    """The user's answer."""

    agree: bool = Field(description="Go on?")


def _inside(name: str) -> str:
    """Return ``name``, which may be a path. Raise ``InputError`` if it leads out of the workspace, also through a link."""
    workspace = Path.cwd().resolve()
    if "\0" in name or not (workspace / name).resolve().is_relative_to(workspace):
        raise InputError(f"{name!r} is outside the workspace.", hint="Use a path inside it.")
    return name


def _require_inside(recipe: Recipe) -> None:
    for file in files_read(recipe):
        _inside(str(file))


def _recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    recipe = load(Path(_inside(name)), overrides)
    _require_inside(recipe)
    return recipe


@contextmanager
def _errors_as(kind: type[ToolError] | type[ResourceError]) -> Iterator[None]:
    try:
        yield
    except MlxtuneError as error:
        raise kind(f"{error.message} {error.hint}".strip()) from error


async def _command(*verb: str, names: Sequence[str], recipe: str = "", overrides: Sequence[str] = ()) -> Answer:
    """Run a command on ``names`` that stay inside the workspace, as do the files that ``recipe`` reads."""
    with _errors_as(ToolError):
        names = [_inside(name) for name in names]
        if recipe:
            _recipe(recipe, overrides)
    return await jobs.run(run_command(*verb, *(f"--set={one}" for one in overrides), "--json", "--", *names))


@server.tool()
async def create_recipe(file: Annotated[str, Field(description="A file of rows: CSV, JSON Lines, …")], name: str = "") -> Answer:
    """Write a recipe for a file of rows: guess its format, its columns, and what an answer must satisfy."""

    def create() -> Answer:
        guessed = scaffold.guess(Path(_inside(file)))
        return {"recipe": str(scaffold.write(guessed, Path(), name)), "guessed": to_json(guessed) | {"source": file}}

    with _errors_as(ToolError):
        return await jobs.run(asyncio.to_thread(create))


@server.tool(annotations=_READS)
async def check(source: Annotated[str, Field(description="A recipe, or a file or folder of rows.")]) -> Answer:
    """Find problems in the rows, and how to fix them."""
    return await _command("data", "check", names=[source], recipe=source if source.endswith(".toml") else "")


@server.tool(annotations=_READS)
async def plan(recipe: RecipeName, overrides: Overrides = ()) -> Answer:
    """Estimate memory, time, and cost of a training run on this machine."""
    return await _command("plan", names=[recipe], recipe=recipe, overrides=overrides)


@server.tool()
async def train(recipe: RecipeName, overrides: Overrides = ()) -> Answer:
    """Start a training run and return its ID."""
    return await _command("train", "--detach", names=[recipe], recipe=recipe, overrides=overrides)


@server.tool(annotations=_READS)
async def status(run: Annotated[str, Field(description="The ID of a run or a job, or last.")] = "last") -> Answer:
    """Return how far a run is, or the answer of a job that has ended."""
    return await jobs.poll(run) if run in jobs else await _command("runs", "show", names=[run])


@server.tool()
async def stop(run: RunName) -> Answer:
    """Stop a run after its current step. It keeps its checkpoint or answers."""
    return await _command("runs", "stop", names=[run])


def _find_run(name: str) -> Run:
    with _errors_as(ToolError):
        return registry.find_run(Path.cwd(), _inside(name), None)


def _may_remove(run: str) -> Elicit[Consent]:
    return Elicit(f"Delete {_find_run(run).id} with everything in its folder?", Consent)


@server.tool(annotations=ToolAnnotations(destructive_hint=True))
async def remove(run: RunName, consent: Annotated[Consent, Resolve(_may_remove)]) -> Answer:
    """Delete a run's folder, after the user has agreed."""
    _require(consent)
    found = _find_run(run)
    with _errors_as(ToolError):
        exports.remove_unfinished(found)
        registry.remove(found)
    return {"removed": found.id}


def _sent_by(subject: str, overrides: Sequence[str]) -> str:
    """Return a sentence on what an evaluation sends to other machines, empty if nothing."""
    with _errors_as(ToolError):
        recipe, _ = find_subject(_inside(subject), list(overrides))
        _require_inside(recipe)
        return what_is_sent(recipe)


def _may_send(subject: str, overrides: Sequence[str]) -> Consent | Elicit[Consent]:
    what = _sent_by(subject, overrides)
    return Elicit(f"{what}. Send them?", Consent) if what else Consent(agree=True)


@server.tool()
async def evaluate(subject: Subject, consent: Annotated[Consent, Resolve(_may_send)], overrides: Overrides = ()) -> Answer:
    """Start an evaluation on the held-out rows and return its ID. The user is asked if rows would be sent to another machine."""
    _require(consent)
    send = ["--send"] if _sent_by(subject, overrides) else []
    return await _command("eval", "--detach", *send, names=[subject], overrides=overrides)


def _require(consent: Consent) -> None:
    if not consent.agree:
        raise ToolError("The user did not agree.")


@server.tool(annotations=_READS)
async def report(evaluation: Evaluation = "last") -> Answer:
    """Return an evaluation's report: the verdict, rates with intervals, and comparisons."""
    return await _command("report", names=[evaluation])


@server.tool(annotations=_READS)
async def compare(first: Evaluation, second: Evaluation) -> Answer:
    """Compare two evaluations, or runs that have been evaluated, on the same rows."""
    return await _command("compare", names=[first, second])


@server.tool(annotations=_READS)
async def score(outputs: Annotated[str, Field(description="JSON Lines with output and reference.")], recipe: RecipeName) -> Answer:
    """Score outputs from any source against a recipe's contract."""
    with _errors_as(ToolError):
        _inside(recipe)
    return await _command("score", f"--recipe={recipe}", names=[outputs], recipe=recipe)


@server.tool()
async def export(form: Literal["mlx", "llamacpp", "ollama", "hf", "peft"], adapter: Adapter = "last") -> Answer:
    """Export an adapter into exports/ for another program, and return the run's ID. peft copies the adapter at once."""
    return await _command("export", "--detach", names=[form, adapter])


@server.tool(annotations=_READS)
async def generate_text(
    prompt: str,
    adapter: Adapter = "",
    base: Annotated[str, Field(description="A base model, if there is no adapter.")] = "",
    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 512,
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0,
) -> Answer:
    """Answer a prompt with an adapter, or with a base model."""

    def answer() -> Answer:
        entry = api.load_adapter(_inside(adapter)) if adapter else None
        texts = api.generate(prompt, adapter=entry, base=_inside(base), sampling=Sampling(max_tokens, temperature))
        return {"text": texts[0]}

    with _errors_as(ToolError):
        return await jobs.run(asyncio.to_thread(answer))


@server.resource("mlxtune://runs", mime_type="application/json")
async def runs() -> str:
    """The runs of the workspace, newest first."""
    return json.dumps((await run_command("runs", "--json"))["items"])


@server.resource("mlxtune://runs/{run}", mime_type="application/json")
async def run(run: str) -> str:
    """A run: its status, warnings, and validations."""
    return json.dumps(await _command("runs", "show", names=[run]))


@server.resource("mlxtune://reports/{evaluation}", mime_type="text/markdown")
def report_page(evaluation: str) -> str:
    """An evaluation's report, to read."""
    with _errors_as(ResourceError):
        page: Path = reports.find(Path.cwd(), _inside(evaluation)) / "report.md"
        return page.read_text("utf-8") if page.is_file() else ""


@server.resource("mlxtune://docs", mime_type="application/json")
def docs() -> str:
    """The names of the pages of the documentation."""
    return json.dumps(list(documentation()))


@server.resource("mlxtune://docs/{page}", mime_type="text/markdown")
def docs_page(page: str) -> str:
    """A page of the documentation."""
    pages = documentation()
    if page not in pages:
        raise ResourceError(f"There is no page {page}: {', '.join(pages)}.")
    return pages[page].read_text("utf-8")
