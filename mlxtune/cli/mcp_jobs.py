"""Work of ``mlxtune mcp`` that may take longer than a client waits: it gets an ID, and goes on until it is asked for."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

from mcp.server.mcpserver.exceptions import ToolError

from mlxtune.core.child_process import python_command, python_environment

PATIENCE = 45.0  # seconds after which a tool answers with the ID of its job; clients give up after 60

Answer = dict[str, Any]  # of a tool: a JSON object


class PendingWork:
    """Work that took longer than its tool waited, by ID."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[Answer]] = {}
        self._started = 0

    def __contains__(self, job: str) -> bool:
        return job in self._tasks

    async def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Return the answer of ``work``, or the ID of its job if it takes long. Raise its error."""
        self._started += 1
        job = f"job-{self._started}"
        self._tasks[job] = asyncio.create_task(work)
        try:
            return await self.poll(job)
        finally:
            if self._tasks[job].done():
                del self._tasks[job]

    async def poll(self, job: str) -> Answer:
        """Return the answer of ``job``, or its ID if it still runs. Raise its error."""
        done, _ = await asyncio.wait({self._tasks[job]}, timeout=PATIENCE)
        return self._tasks[job].result() if done else {"job": job, "status": "running"}


async def run_command(*arguments: str) -> Answer:
    """Run ``mlxtune`` and return the JSON that it prints, with its message as ``failed`` if a check failed. Raise ``ToolError``.

    It is killed if the server ends. A run that it started continues.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *python_command("mlxtune", *arguments),
        env=python_environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=pipe,
        stderr=pipe,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    message = err.decode(errors="replace").strip()
    if process.returncode not in (0, 1) or not out.strip():
        raise ToolError(message or f"mlxtune {arguments[0]} ended with exit code {process.returncode}.")
    answer = json.loads(out)
    answer = answer if isinstance(answer, dict) else {"items": answer}
    return answer | ({"failed": message} if process.returncode else {})
