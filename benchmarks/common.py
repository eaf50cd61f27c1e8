"""What the benchmarks share: a part in a process of its own, and what was measured where."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlxtune.planning.machine import machine

HERE = Path(__file__).resolve().parent


def call(script: str, *arguments: str, told: str = "") -> dict[str, Any]:
    """The JSON document that ``script`` prints last; ``told`` says on stderr what runs."""
    print(f"· {script} {told}", file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def where(*packages: str) -> dict[str, Any]:
    """The machine and the versions of ``packages`` and of mlx and mlxtune, for the head of a result."""
    here = machine()
    return {
        "machine": {"chip": here.chip, "cores": here.cores, "system": here.system, "backend": here.backend},
        "versions": {name: importlib.metadata.version(name) for name in ("mlx", "mlxtune", *packages)},
    }


def heading(result: dict[str, Any]) -> str:
    """One line of it for a reader."""
    here, data = result["machine"], result["data"]
    return f"{here['chip']}, {here['cores']} cores, {here['backend']}; {data['rows']} rows of {data['file']}"
