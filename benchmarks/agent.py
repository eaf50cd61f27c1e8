"""An agent's session without a language model: take a file of rows to a verdict through ``mlxtune mcp``, and print the transcript.

    python benchmarks/agent.py FILE [--workspace FOLDER] [--set KEY=VALUE]

The client is the MCP SDK's own, over standard input and output. The user, who is asked before rows are sent, agrees.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import ElicitResult

from mlxtune.core.child_process import python_command, python_environment

_SHOWN = 300  # characters of an answer in the transcript
Answer = dict[str, Any]


async def take_to_verdict(workspace: Path, file: str, overrides: Sequence[str] = ()) -> Answer:
    """Take ``file``, in ``workspace``, to a verdict, and return the report. Raise ``RuntimeError`` if a tool fails."""
    program, *arguments = python_command("mlxtune", "mcp", str(workspace))
    server = stdio_client(StdioServerParameters(command=program, args=arguments, env=python_environment()))
    async with Client(server, elicitation_callback=_agree) as client:
        recipe = (await _call(client, "create_recipe", file=file))["recipe"]
        changed = {"recipe": recipe, "overrides": list(overrides)}
        await _call(client, "check", source=file)
        await _call(client, "plan", **changed)
        baseline = await _finish(client, "evaluate", subject=recipe, overrides=list(overrides))
        run = await _finish(client, "train", **changed)
        rules = [one for one in overrides if one.startswith("evaluation.")]
        evaluation = await _finish(client, "evaluate", subject=run, overrides=rules)
        report = await _call(client, "report", evaluation=evaluation)
        await _call(client, "compare", first=baseline, second=evaluation)
        await _call(client, "generate_text", prompt="Hello", adapter=run, max_tokens=8)
        await _finish(client, "export", form="mlx", adapter=run)
        page = (await client.read_resource(f"mlxtune://reports/{evaluation}")).contents[0]
        _say(f"mlxtune://reports/{evaluation}", getattr(page, "text", ""))
        return report


async def _agree(_context: object, question: Any) -> ElicitResult:
    _say("the user is asked", question.message)
    return ElicitResult(action="accept", content={"agree": True})


async def _call(client: Client, tool: str, **arguments: Any) -> Answer:
    """Call a tool and return its answer, also if that is a job, which is polled until it ends."""
    result = await client.call_tool(tool, arguments)
    answer = result.structured_content or {}
    shown = getattr(result.content[0], "text", "") if result.is_error else json.dumps(answer, ensure_ascii=False)
    _say(f"{tool}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})", shown)
    if result.is_error:
        raise RuntimeError(shown)
    return await _call(client, "status", run=answer["job"]) if "job" in answer else answer


async def _finish(client: Client, tool: str, **arguments: Any) -> str:
    """Start a run with ``tool``, poll it until it has finished, and return its ID."""
    run: str = (await _call(client, tool, **arguments))["run"]
    while (state := await _call(client, "status", run=run))["status"] in ("starting", "running", "waiting", "cooling", "quiet"):
        await asyncio.sleep(2.0)
    if state["status"] != "finished":
        raise RuntimeError(f"{run} is {state['status']}")
    return run


def _say(what: str, answer: str) -> None:
    answer = " ".join(answer.split())
    print(f"→ {what}\n← {answer[:_SHOWN]}{'…' if len(answer) > _SHOWN else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--workspace", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    workspace = options.workspace or Path(tempfile.mkdtemp())
    shutil.copy(options.file, workspace / options.file.name)
    report = asyncio.run(take_to_verdict(workspace, options.file.name, options.overrides))
    print(f"verdict: {report['verdict']}")


if __name__ == "__main__":
    sys.exit(main())
