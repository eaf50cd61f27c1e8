"""Facts about this machine, collected without importing MLX so that the app starts quickly."""

import contextlib
import importlib.metadata
import os
import platform
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from mlxtune.planning import macos

LOW_BATTERY = 0.2  # fraction of the charge


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


# Bytes of free buffers that MLX may keep on a GPU; by default, it keeps up to 95% of the working set. On rows of varied lengths, it kept 5 times
# what a step needs. On a CPU, no limit from 16 MB to 8 GB changed the time of a step (benchmarks/cache_limit.py); Metal, where a new
# buffer costs more, has not been measured.
CACHE_LIMIT = 2**30
COMPUTE_VARIABLE = "MLXTUNE_COMPUTE"  # "native" computes in 16 bits on a CPU too

ThermalPressure = Literal["nominal", "moderate", "heavy"]


@dataclass(frozen=True)
class PowerState:
    """Conditions that slow this machine down or may end its work."""

    on_battery: bool = False
    charge: float | None = None  # of the battery, from 0 to 1; None without one
    low_power_mode: bool = False
    thermal: ThermalPressure = "nominal"


def memory() -> Memory:
    """Return the current memory usage. On a Mac, file cache and purgeable memory count as free, as in Activity Monitor."""
    now = psutil.virtual_memory()
    return Memory(now.total, min(now.total, macos.free_memory()) if platform.system() == "Darwin" else now.available)


def pressure() -> Memory:
    is_mac = platform.system() == "Darwin"
    level = macos.sysctl_number("kern.memorystatus_vm_pressure_level") if is_mac else 0  # 1 normal, 2 warn, 4 critical
    return replace(memory(), swapped=psutil.swap_memory().used, critical=level >= 4)


def footprint() -> int:
    """Return the memory that this process occupies, in bytes: its physical footprint on a Mac, its resident set elsewhere."""
    if platform.system() == "Darwin":
        return macos.footprint()
    return int(psutil.Process().memory_info().rss)


def power() -> PowerState:
    battery = None
    with contextlib.suppress(OSError):  # a container may lack /sys
        battery = psutil.sensors_battery()
    state = PowerState(battery.power_plugged is False, battery.percent / 100) if battery else PowerState()
    if platform.system() != "Darwin":
        return state
    levels: tuple[ThermalPressure, ...] = ("nominal", "moderate", "heavy")
    return replace(state, low_power_mode=macos.low_power_mode(), thermal=levels[min(macos.thermal_pressure(), 2)])


@cache
def this_machine() -> Machine:
    """Return this machine. ``limit`` is macOS's wired limit if set, or its default for the GPU; elsewhere 75% of memory."""
    system = platform.system()
    total = memory().total
    cores = os.cpu_count() or 1
    if system == "Darwin":
        chip = macos.sysctl_text("machdep.cpu.brand_string")
        wired = macos.sysctl_number("iogpu.wired_limit_mb")
        limit = wired * 2**20 or default_gpu_limit(total)
        backend = "metal" if platform.machine() == "arm64" else "cpu"
        return Machine(f"macOS {platform.mac_ver()[0]}", chip, cores, backend, limit)
    backend = "cuda" if any(installed_version(name) for name in ("mlx-cuda", "mlx-cuda-12", "mlx-cuda-13")) else "cpu"
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    chip = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return Machine(f"{system} {platform.release()}", chip, cores, backend, total * 3 // 4)


def computes_natively(backend: str) -> bool:
    """Return whether models run as saved, in 16 bits: on a GPU, and on a CPU if :data:`COMPUTE_VARIABLE` says so."""
    return backend != "cpu" or os.environ.get(COMPUTE_VARIABLE) == "native"


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
