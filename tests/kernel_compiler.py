"""A precompiled header for the kernels that MLX compiles on a CPU: parsing it takes most of the half second per kernel."""

import atexit
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

HEADER = "mlx/backend/cpu/compiled_preamble.h"
SCRIPT = """#!/bin/sh
case "$*" in *-shared*)
  if [ ! -e '{compiled}' ]; then
    '{compiler}' -std=c++17 -O3 -Wall -fPIC -x c++-header -I'{include}' '{include}/{header}' -o '{compiled}.'$$ && mv '{compiled}.'$$ '{compiled}'
  fi
esac
exec '{compiler}' -I'{folder}' "$@"
"""


def install() -> None:
    """Put a ``g++`` first on the path, for this process and its children, that compiles MLX's header once and then reuses it."""
    mlx = importlib.util.find_spec("mlx")
    includes = [Path(folder, "include") for folder in (mlx.submodule_search_locations or [] if mlx else [])]
    include = next((folder for folder in includes if (folder / HEADER).exists()), None)
    compiler = shutil.which("g++")
    if (
        include is None or compiler is None or "PYTEST_XDIST_WORKER" in os.environ
    ):  # the workers have the path of the process that starts them
        return
    folder = Path(tempfile.mkdtemp(prefix="kernel-compiler-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    compiled = folder / f"{HEADER}.gch"
    compiled.parent.mkdir(parents=True)
    script = folder / "g++"
    script.write_text(SCRIPT.format(compiled=compiled, compiler=compiler, include=include, header=HEADER, folder=folder))
    script.chmod(0o755)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
