"""Benchmark this machine: compute, generation, training and disk. MLX runs in a child process (``models.benchmark_worker``)."""

from __future__ import annotations

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlxtune
from mlxtune.core.child_process import ChildProcess
from mlxtune.core.files import disk_errors, sync_file
from mlxtune.planning.machine import Memory, installed_version, pressure, this_machine

Size = Literal["tiny", "small", "medium"]


@dataclass(frozen=True)
class Measurement:
    """One measured value. ``detail`` describes what was measured: shapes, dtype, number of repetitions."""

    name: str
    value: float
    unit: str
    detail: str


@dataclass(frozen=True)
class BenchmarkReport:
    """Facts about the machine, and measurements in the order in which they were taken."""

    system: str
    chip: str
    cores: int
    backend: str
    memory: Memory
    limit: int
    versions: dict[str, str]
    measurements: tuple[Measurement, ...]


def run_benchmark(size: Size, seconds: float, folder: Path, progress: Callable[[str, float], None]) -> BenchmarkReport:
    """Benchmark this machine with a random model of ``size``, for at least ``seconds`` per measurement, and the disk of ``folder``.

    Raises ``MachineError`` when the worker dies or the disk is full.
    """
    machine, memory = this_machine(), pressure()
    with ChildProcess("mlxtune.models.benchmark_worker", name="The benchmark process") as child:
        rows = child.call("run", {"size": size, "seconds": seconds}, lambda update: progress(*update))
    measurements = [Measurement(*row) for row in rows]
    progress("benchmarking the disk", 0.9)
    measurements += _measure_disk(folder, 2**22 if size == "tiny" else 2**27)
    versions = {name: installed_version(name) for name in ("mlx", "mlx-lm", "numpy", "transformers", "huggingface-hub")}
    return BenchmarkReport(
        system=machine.system,
        chip=machine.chip,
        cores=machine.cores,
        backend=machine.backend,
        memory=memory,
        limit=machine.limit,
        versions={"mlxtune": mlxtune.__version__, "python": platform.python_version(), **versions},
        measurements=tuple(measurements),
    )


def _measure_disk(folder: Path, nbytes: int, syncs: int = 16) -> list[Measurement]:
    """Benchmark sequential writes with one sync at the end, and small writes that are each synced, as in a journal."""
    block = os.urandom(2**20)
    with disk_errors(str(folder)), tempfile.TemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(nbytes // len(block)):
            file.write(block)
        file.flush()
        sync_file(file.fileno())
        rate = nbytes / (time.perf_counter() - start)
        times = []
        for _ in range(syncs):
            start = time.perf_counter()
            file.write(block[:200])
            file.flush()
            sync_file(file.fileno())
            times.append(time.perf_counter() - start)
    return [
        Measurement("disk write", rate / 1e6, "MB/s", f"{nbytes // 2**20} MiB, synced once"),
        Measurement("disk sync", 1e3 * statistics.median(times), "ms", f"median of {syncs} appends of 200 bytes"),
    ]
