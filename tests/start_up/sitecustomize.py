"""Imported by each process of the tests at its start: reads the list of transformers' modules, instead of making it twice.

On its import, transformers reads the source of its two thousand modules to find out what they export. That takes 0.7 s.
"""

import atexit
import importlib.machinery
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

CACHE = "MLXTUNE_TESTS_CACHE"  # environment variable with the folder of the lists
MODULE = "transformers.utils.import_utils"


class Finder:
    """Finds ``MODULE`` and replaces the function that makes the lists."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(cls)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec
        assert spec.loader
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            module.define_import_structure = cached(module.define_import_structure, Path(os.environ[CACHE]))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def cached(define: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def read(module_path: str | Path, prefix: str | None = None) -> Any:
        file = folder / f"{Path(module_path).parent.name}-{Path(module_path).name}-{prefix}.pickle"
        if not file.exists():
            part = file.with_suffix(f".{os.getpid()}")
            part.write_bytes(pickle.dumps(define(module_path, prefix)))
            part.replace(file)
        return pickle.loads(file.read_bytes())

    return read


def install() -> None:
    """Have the processes that this one starts import this module, and do in this one what it does there."""
    if "PYTEST_XDIST_WORKER" not in os.environ:  # the workers have the environment of the process that starts them
        os.environ[CACHE] = tempfile.mkdtemp(prefix="imports-")
        atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
        sys.meta_path.insert(0, Finder)


if CACHE in os.environ:
    sys.meta_path.insert(0, Finder)
