"""Facts about this machine, collected without importing MLX so that the app starts quickly."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Total, free and swapped-out bytes. ``critical`` is macOS's own memory-pressure alert; only :func:`pressure` sets the last two."""

    total: int
    free: int
    swapped: int = 0
    critical: bool = False

    @property
    def used(self) -> int:
        return self.total - self.free


@dataclass(frozen=True)
class Machine:
    """The facts that a plan and ``doctor`` need. ``limit`` is the maximum number of bytes that a worker should use."""

    system: str
    chip: str
    cores: int
    backend: str  # "metal", "cuda" or "cpu"
    limit: int


def memory() -> Memory:
    """Return the current memory usage. On a Mac, cached and free pages count as free, as in Activity Monitor."""
    if platform.system() == "Darwin":
        total = int(_run("sysctl", "-n", "hw.memsize") or 0)
        page, free = 4096, 0
        for line in _run("vm_stat").splitlines():
            if "page size of" in line:
                page = int(line.split("page size of")[1].split()[0])
            elif line.startswith(("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")):
                free += int(line.split(":")[1].strip(" ."))
        return Memory(total, min(total, free * page))
    info = _meminfo()
    return Memory(info["MemTotal"], info["MemAvailable"])


def pressure() -> Memory:
    """Return the current memory usage, including memory pressure."""
    if platform.system() == "Darwin":
        level = int(_run("sysctl", "-n", "kern.memorystatus_vm_pressure_level") or 1)  # 1 normal, 2 warn, 4 critical
        return replace(memory(), swapped=_mac_swap(_run("sysctl", "-n", "vm.swapusage")), critical=level >= 4)
    info = _meminfo()
    return replace(memory(), swapped=info.get("SwapTotal", 0) - info.get("SwapFree", 0))


def _mac_swap(usage: str) -> int:
    """Parse the used bytes from ``total = 2048.00M  used = 1024.00M  free = 1024.00M  (encrypted)``."""
    match = re.search(r"used = ([\d.]+)([KMG])", usage)
    return int(float(match[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[match[2]]) if match else 0


def _meminfo() -> dict[str, int]:
    """Return ``/proc/meminfo`` in bytes."""
    info = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, value = line.split(":")
        info[key] = int(value.split()[0]) * 1024
    return info


@cache
def this_machine() -> Machine:
    """Return this machine. ``limit`` is macOS's wired limit if set, or its default for the GPU; elsewhere 75% of memory."""
    system = platform.system()
    total = memory().total
    cores = os.cpu_count() or 1
    if system == "Darwin":
        chip = _run("sysctl", "-n", "machdep.cpu.brand_string").strip()
        wired = int(_run("sysctl", "-n", "iogpu.wired_limit_mb") or 0)
        limit = wired * 2**20 or default_gpu_limit(total)
        backend = "metal" if platform.machine() == "arm64" else "cpu"
        return Machine(f"macOS {platform.mac_ver()[0]}", chip, cores, backend, limit)
    backend = "cuda" if any(installed_version(name) for name in ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")) else "cpu"
    return Machine(f"{system} {platform.release()}", _linux_chip(), cores, backend, total * 3 // 4)


def default_gpu_limit(total: int) -> int:
    """Return how many of ``total`` bytes macOS lets the GPU use by default: two thirds up to 32 GB, three quarters beyond.

    As reported by users (llama.cpp discussion 2182); some newer systems allow a little more.
    """
    return total * 2 // 3 if total <= 32 * 2**30 else total * 3 // 4


def mac_with(gigabytes: int) -> Machine:
    """Return an Apple silicon Mac with this much memory, to plan for another machine."""
    return Machine("macOS", f"Apple silicon, {gigabytes} GB", 8, "metal", default_gpu_limit(gigabytes * 2**30))


def installed_version(distribution: str) -> str:
    """Return the installed version of a distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def disk_free(path: Path) -> int:
    """Return the free bytes on the disk that contains ``path``, which may not exist yet."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _linux_chip() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _run(*command: str) -> str:
    """Return the output of ``command``, or an empty string if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
