"""What this machine is, without asking MLX: the app and the first screen must not load it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """Bytes in use, and bytes there are."""

    used: int
    total: int


@dataclass(frozen=True)
class Pressure:
    """Bytes of memory there are, bytes free and bytes swapped out; ``critical`` when macOS says so itself."""

    total: int
    free: int
    swapped: int
    critical: bool = False


@dataclass(frozen=True)
class Machine:
    """The facts a plan and ``doctor`` need. ``limit`` is how many bytes a worker should use at most."""

    system: str
    chip: str
    cores: int
    backend: str  # "metal", "cuda" or "cpu"
    limit: int


def memory() -> Memory:
    """The machine's memory now. On a Mac, cached and free pages count as free, as in Activity Monitor."""
    if platform.system() == "Darwin":
        total = int(_run("sysctl", "-n", "hw.memsize") or 0)
        page, free = 4096, 0
        for line in _run("vm_stat").splitlines():
            if "page size of" in line:
                page = int(line.split("page size of")[1].split()[0])
            elif line.startswith(("Pages free", "Pages inactive", "Pages speculative", "Pages purgeable")):
                free += int(line.split(":")[1].strip(" ."))
        return Memory(max(0, total - free * page), total)
    facts = _meminfo()
    return Memory(facts["MemTotal"] - facts["MemAvailable"], facts["MemTotal"])


def pressure() -> Pressure:
    """How hard the machine's memory is pressed now."""
    now = memory()
    if platform.system() == "Darwin":
        level = int(_run("sysctl", "-n", "kern.memorystatus_vm_pressure_level") or 1)  # 1 normal, 2 warn, 4 critical
        return Pressure(now.total, now.total - now.used, _mac_swap(_run("sysctl", "-n", "vm.swapusage")), level >= 4)
    facts = _meminfo()
    return Pressure(now.total, now.total - now.used, facts.get("SwapTotal", 0) - facts.get("SwapFree", 0))


def _mac_swap(told: str) -> int:
    """Bytes in use, from ``total = 2048.00M  used = 1024.00M  free = 1024.00M  (encrypted)``."""
    found = re.search(r"used = ([\d.]+)([KMG])", told)
    return int(float(found[1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[found[2]]) if found else 0


def _meminfo() -> dict[str, int]:
    """Linux's own account, in bytes."""
    facts = {}
    for line in Path("/proc/meminfo").read_text().splitlines():
        key, value = line.split(":")
        facts[key] = int(value.split()[0]) * 1024
    return facts


@cache
def machine() -> Machine:
    """This machine. ``limit`` is macOS's own wired limit where it was set, else what macOS lets the GPU have; elsewhere three quarters."""
    system = platform.system()
    total = memory().total
    if system == "Darwin":
        chip = _run("sysctl", "-n", "machdep.cpu.brand_string").strip()
        wired = int(_run("sysctl", "-n", "iogpu.wired_limit_mb") or 0)
        limit = wired * 2**20 or wirable(total)
        return Machine(
            f"macOS {platform.mac_ver()[0]}", chip, os.cpu_count() or 1, "metal" if platform.machine() == "arm64" else "cpu", limit
        )
    backend = "cuda" if any(version(name) for name in ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")) else "cpu"
    return Machine(f"{system} {platform.release()}", _linux_chip(), os.cpu_count() or 1, backend, total * 3 // 4)


def wirable(total: int) -> int:
    """Bytes of ``total`` that macOS lets the GPU hold by default: two thirds up to 32 GB, three quarters above.

    As users report it (llama.cpp's discussion 2182); some newer systems give a little more.
    """
    return total * 2 // 3 if total <= 32 * 2**30 else total * 3 // 4


def mac(gigabytes: int) -> Machine:
    """An Apple Silicon Mac with so much memory, to plan for one that is not here."""
    return Machine("macOS", f"Apple silicon, {gigabytes} GB", 8, "metal", wirable(gigabytes * 2**30))


def version(distribution: str) -> str:
    """The installed version of a distribution, or an empty string."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def disk_free(path: Path) -> int:
    """Bytes free where ``path`` is, or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _linux_chip() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _run(*command: str) -> str:
    """What ``command`` prints, or nothing if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
