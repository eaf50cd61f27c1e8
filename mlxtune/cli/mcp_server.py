"""The tools and resources of ``mlxtune mcp``, over the workspace in the working directory.

A tool runs the command of the same name in a process of its own, so that neither its output nor a crash reaches the protocol. Training,
evaluations, and exports are detached runs, whose ID a tool returns at once; other work that takes long becomes a job, which ``status`` polls.
"""

import asyncio
import json
import re
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Elicit, MCPServer, Resolve
from mcp.server.mcpserver.exceptions import ResourceError  # a tool's answer is an error, too
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

import mlxtune
from mlxtune import api
from mlxtune.cli.docs import documentation
from mlxtune.cli.evaluate import find_subject, what_is_sent
from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.evaluation import history
from mlxtune.evaluation import report as reports
from mlxtune.recipe import Recipe, load
from mlxtune.recipe.load import files_read
from mlxtune.serving.protocol import Sampling

PATIENCE = 45.0  # seconds after which a tool answers with the ID of a job; clients give up after 60

server = MCPServer(
    "mlxtune",
    version=mlxtune.__version__,
    instructions="Fine-tune a local model, and prove that it helped: create_recipe, check, plan, evaluate the recipe (the base model), train, "
    "evaluate the run, report. A tool that returns a run or a job goes on by itself: poll it with status. Paths are relative to the workspace.",
    log_level="WARNING",
)
_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_jobs: dict[str, asyncio.Task[dict[str, Any]]] = {}

Answer = dict[str, Any]
Overrides = Annotated[Sequence[str], Field(description="Keys of the recipe to override, such as training.epochs=3.")]
Adapter = Annotated[str, Field(description="An adapter's name, a run, RUN@STEP, or last.")]


class Consent(BaseModel):
    """The user's answer."""

    agree: bool = Field(description="Go on?")


async def _start(work: Coroutine[Any, Any, Answer]) -> Answer:
    job = f"job-{len(_jobs) + 1}"
    _jobs[job] = asyncio.create_task(work)
    return await _poll(job)


async def _poll(job: str) -> Answer:
    done, _ = await asyncio.wait({_jobs[job]}, timeout=PATIENCE)
    return _jobs[job].result() if done else {"job": job, "status": "running"}


async def run_command(*arguments: str) -> Answer:
    """Run ``mlxtune`` and return the JSON that it prints, with its message as ``failed`` if a check failed. It ends with the server."""
    pipe, command = asyncio.subprocess.PIPE, python_command("mlxtune", *arguments)
    process = await asyncio.create_subprocess_exec(
        *command, env=python_environment(), stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, start_new_session=True
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    message = err.decode(errors="replace").strip()
    if process.returncode not in (0, 1) or not out.strip():
        raise ResourceError(message)
    answer = json.loads(out)
    return (answer if isinstance(answer, dict) else {"items": answer}) | ({"failed": message} if process.returncode else {})


def _inside(name: str) -> str:
    """Return ``name``, which may be a path. Raise ``InputError`` if it leads out of the workspace, also through a link."""
    workspace = Path.cwd().resolve()
    if "\0" in name or not (workspace / name).resolve().is_relative_to(workspace):
        raise InputError(f"{name!r} is outside the workspace.", hint="Use a path inside it.")
    return name


def _require_inside(recipe: Recipe) -> Recipe:
    for file in files_read(recipe):
        _inside(str(file))
    return recipe


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except MlxtuneError as error:
        raise ResourceError(f"{error.message} {error.hint}".strip()) from error


async def _command(command: str, overrides: Sequence[str] = (), **values: str) -> Answer:
    """Run a command with ``values``, which stay inside the workspace, as do the files that recipes among them read."""
    with _errors():
        for name, value in values.items():
            if _inside(value).endswith(".toml") or name == "recipe":
                _require_inside(load(Path(value), overrides))
    words = [word for word in command.split() if word != "{overrides}"]
    options, names = ([word.format(**values) for word in words if word.startswith("{") == is_name] for is_name in (False, True))
    return await _start(run_command(*options, *(f"--set={one}" for one in overrides), "--json", "--", *names))


@server.tool(annotations=_READS)
async def status(run: Annotated[str, Field(description="The ID of a run or a job, or last.")] = "last") -> Answer:
    """Return how far a run is, or the answer of a job that has ended."""
    with _errors():
        return await _poll(run) if run in _jobs else await _command("runs show {run}", run=run)


def _may_send(subject: str, overrides: Sequence[str]) -> Consent | Elicit[Consent]:
    """Ask for consent if an evaluation sends rows to another machine, which the command refuses without."""
    with _errors():
        what = what_is_sent(_require_inside(find_subject(_inside(subject), list(overrides))[0]))
    return Elicit(f"{what}. Send them?", Consent) if what else Consent(agree=False)


@server.tool()
async def evaluate(subject: str, consent: Annotated[Consent, Resolve(_may_send)], overrides: Overrides = ()) -> Answer:
    """Start an evaluation of a recipe (its base alone), or a run or RUN@STEP (base and adapter), and return its ID.

    The user is asked if rows would be sent to another machine.
    """
    return await _command(f"eval --detach {'--send' if consent.agree else ''} {{subject}}", overrides, subject=subject)


@server.tool(annotations=_READS)
async def generate_text(
    prompt: str, adapter: Adapter = "", base: str = "", max_tokens: int = 512, temperature: float = 0
) -> Answer:
    """Answer a prompt with an adapter, or with a base model."""

    def answer() -> Answer:
        entry = api.load_adapter(_inside(adapter)) if adapter else None
        texts = api.generate(prompt, adapter=entry, base=_inside(base), sampling=Sampling(max_tokens, temperature))
        return {"text": texts[0]}

    with _errors():
        return await _start(asyncio.to_thread(answer))


TOOLS = {  # the command of each, with its parameters in braces, and what it does
    "create_recipe": ("init --from={file}", "Write a recipe for a file of rows: guess its format, columns, and contract."),
    "check": ("data check {source}", "Find problems in the rows of a recipe, a file, or a folder, and how to fix them."),
    "plan": ("plan {recipe} {overrides}", "Estimate memory, time, and cost of a training run on this machine."),
    "train": ("train --detach {recipe} {overrides}", "Start a training run and return its ID."),
    "stop": ("runs stop {run}", "Stop a run after its current step. It keeps its checkpoint or answers."),
    "report": ("report {evaluation}", "Return an evaluation's report: the verdict, rates with intervals, and comparisons."),
    "compare": ("compare {first} {second}", "Compare two evaluations, or runs that have been evaluated, on the same rows."),
    "score": ("score --recipe={recipe} {outputs}", "Score JSON Lines with output and reference against a recipe's contract."),
    "export": ("export --detach {form} {adapter}", "Export an adapter into exports/ for another program, and return the run's ID."),
}
_KINDS = {"overrides": Overrides, "form": Literal["mlx", "llamacpp", "ollama", "hf", "peft"], "adapter": Adapter}
_DEFAULTS = {"overrides": (), "evaluation": "last", "adapter": "last"}


def _add_tool(name: str, command: str, about: str) -> None:
    async def tool(**values: Any) -> Answer:
        return await _command(command, **values)

    names = re.findall(r"{(\w+)}", command)
    kinds: dict[str, Any] = {one: _KINDS.get(one, str) for one in names}
    parameters = [
        Parameter(one, Parameter.KEYWORD_ONLY, annotation=kinds[one], default=_DEFAULTS.get(one, Parameter.empty)) for one in names
    ]
    tool.__signature__ = Signature(parameters, return_annotation=Answer)  # type: ignore[attr-defined]
    tool.__annotations__ = kinds | {"return": Answer}
    server.add_tool(
        tool, name, description=about, annotations=None if {"--detach", "stop", "init"} & {*command.split()} else _READS
    )


for _name, _entry in TOOLS.items():
    _add_tool(_name, *_entry)


@server.resource("mlxtune://runs", mime_type="application/json")
async def runs() -> str:
    """The runs of the workspace, newest first."""
    return json.dumps((await run_command("runs", "--json"))["items"])


@server.resource("mlxtune://reports/{evaluation}", mime_type="text/markdown")
def report_page(evaluation: str) -> str:
    """An evaluation's report, to read."""
    with _errors():
        page = Path(_inside(str(history.find(Path.cwd(), _inside(evaluation)) / reports.PAGES[0])))
        return page.read_text("utf-8") if page.is_file() else ""


@server.resource("mlxtune://docs/{page}", mime_type="text/markdown")
def docs_page(page: str) -> str:
    """A page of the documentation."""
    pages = documentation()
    if page not in pages:
        raise ResourceError(f"There is no page {page}: {', '.join(pages)}.")
    return pages[page].read_text("utf-8")
