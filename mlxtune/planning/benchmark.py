"""Benchmark this machine: compute, generation, training and disk. MLX runs in a child process (``mlxtune.training.benchmark_worker``)."""

import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlxtune
from mlxtune.core.child_process import ChildProcess
from mlxtune.core.files import disk_errors, sync_file
from mlxtune.planning.machine import Machine, Memory, PowerState, installed_version, power, pressure, this_machine
from mlxtune.planning.speed import TrainingRate, store_rates

_SECONDS = 1.0  # per measurement
_SYNCS = 16  # appends that are each synced


@dataclass(frozen=True)
class Measurement:
    name: str
    size: str  # of the operation or model, if several are measured
    value: float
    unit: str
    detail: str  # shapes, dtype, number of repetitions
    parameters: int = 0  # in the layers of the trained model, for the planner


@dataclass(frozen=True)
class BenchmarkReport(Machine):
    """Facts about the machine, and measurements in the order in which they were taken."""

    memory: Memory
    power: PowerState
    versions: dict[str, str]
    measurements: tuple[Measurement, ...]


def run_benchmark(folder: Path, progress: Callable[[str, float], None], *, quick: bool = False) -> BenchmarkReport:
    """Benchmark this machine with random models of three sizes and the disk of ``folder``, and store the rates for the planner.

    If ``quick``, measure one tiny size and store nothing. Raises ``MachineError`` when the worker dies or the disk is full.
    """
    machine, memory = this_machine(), pressure()
    with ChildProcess("mlxtune.training.benchmark_worker", name="The benchmark process") as child:
        params = {"quick": quick, "seconds": 0.02 if quick else _SECONDS}
        rows = child.call("run", params, lambda update: progress(*update))
    measurements = [Measurement(*row) for row in rows]
    progress("benchmarking the disk", 0.9)
    measurements += _measure_disk(folder, 2**22 if quick else 2**27)
    swapped = (pressure().swapped - memory.swapped) / 2**20
    measurements.append(Measurement("swapped out", "", swapped, "MiB", "during the benchmark"))
    if not quick:
        store_rates(machine, [TrainingRate(item.parameters, 1e9 * item.value) for item in measurements if item.parameters])
    versions = {name: installed_version(name) for name in ("mlx", "mlx-lm", "numpy", "transformers", "huggingface-hub")}
    return BenchmarkReport(
        **vars(machine), memory=memory, power=power(),
        versions={"mlxtune": mlxtune.__version__, "python": platform.python_version(), **versions},
        measurements=tuple(measurements),
    )  # fmt: skip


def _measure_disk(folder: Path, nbytes: int) -> list[Measurement]:
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
        for _ in range(_SYNCS):
            start = time.perf_counter()
            file.write(block[:200])
            file.flush()
            sync_file(file.fileno())
            times.append(time.perf_counter() - start)
    return [
        Measurement("disk write", "", rate / 1e6, "MB/s", f"{nbytes // 2**20} MiB, synced once"),
        Measurement("disk sync", "", 1e3 * statistics.median(times), "ms", f"median of {_SYNCS} appends of 200 bytes"),
    ]
