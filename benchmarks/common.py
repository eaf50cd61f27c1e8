"""Helpers of the benchmarks: run a script in its own process, and describe the machine."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxtune.data.rows import Conversation
from mlxtune.data.source import read_file
from mlxtune.planning.machine import this_machine

FOLDER = Path(__file__).resolve().parent


def call(script: str, *arguments: str, note: str = "", python: str = "") -> dict[str, Any]:
    """Run ``script`` and return the JSON document that it prints last; ``note`` is printed on stderr.

    ``python`` is the interpreter of another environment.
    """
    print(f"· {script} {note}", file=sys.stderr, flush=True)
    process = subprocess.run(
        [python or sys.executable, str(FOLDER / script), *arguments], stdout=subprocess.PIPE, text=True, check=True
    )
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def read_prompts(path: Path, count: int) -> list[list[dict[str, Any]]]:
    """Return the messages of the first ``count`` prompts of the conversations in ``path``."""
    rows = [row for row in read_file(path) if isinstance(row, Conversation)]
    return [[message.as_dict() for message in row.prompt] for row in rows[:count]]


def environment(*packages: str) -> dict[str, Any]:
    """Return the machine and the versions of ``packages``, mlx and mlxtune."""
    machine = this_machine()
    return {
        "machine": {"chip": machine.chip, "cores": machine.cores, "system": machine.system, "backend": machine.backend},
        "versions": {name: importlib.metadata.version(name) for name in ("mlx", "mlxtune", *packages)},
    }


def heading(result: dict[str, Any]) -> str:
    """Describe machine and data in one line."""
    machine, data = result["machine"], result["data"]
    return f"{machine['chip']}, {machine['cores']} cores, {machine['backend']}; {data['rows']} rows of {data['file']}"
