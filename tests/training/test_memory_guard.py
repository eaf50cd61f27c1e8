"""The memory guard with simulated memory readings, and parsing of real readings."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlxtune.planning import machine
from mlxtune.planning.machine import Memory
from mlxtune.training import memory_guard
from mlxtune.training.memory_guard import ADVICE, MAX_SWAPPED, MemoryGuard

GB = 2**30
FINE = Memory(total=32 * GB, free=16 * GB, swapped=GB)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    """Return simulated memory readings; the last item is the current one."""
    told = [FINE]
    monkeypatch.setattr(machine, "pressure", lambda: told[-1])
    monkeypatch.setattr(memory_guard, "INTERVAL", 0.0)
    return told


def test_no_warning_with_enough_memory(now: list[Memory]) -> None:
    watch = MemoryGuard(limit=24 * GB)
    now.append(Memory(32 * GB, 2 * GB, GB + MAX_SWAPPED))
    assert watch.check() == ""


def test_mlx_over_limit_is_reported_with_figures_and_advice(now: list[Memory], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "get_active_memory", lambda: 25 * GB)
    told = MemoryGuard(limit=24 * GB).check()
    assert told == f"The run uses 25.0 GB of memory, but this machine's limit is 24.0 GB. {ADVICE}"


@pytest.mark.parametrize(
    ("pressure", "words"),
    [
        (Memory(32 * GB, GB // 2, GB), "running out of memory: only 0.5 GB of 32.0 GB is free"),
        (Memory(32 * GB, 16 * GB, GB, critical=True), "running out of memory"),
        (Memory(32 * GB, 16 * GB, 4 * GB), "swapped out 3.0 GB since the run started"),
    ],
)
def test_memory_pressure_is_reported(now: list[Memory], pressure: Memory, words: str) -> None:
    watch = MemoryGuard(limit=24 * GB)
    now.append(pressure)
    assert words in watch.check()


def test_system_memory_is_polled_at_intervals(now: list[Memory], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_guard, "INTERVAL", 60.0)
    watch = MemoryGuard(limit=24 * GB)
    now.append(Memory(32 * GB, 0, 0))
    assert watch.check() == ""


@pytest.mark.parametrize(
    ("told", "count"),
    [
        ("total = 2048.00M  used = 1024.50M  free = 1023.50M  (encrypted)", int(1024.5 * 2**20)),
        ("vm.swapusage: total = 3.00G  used = 1.50G  free = 1.50G", 3 * GB // 2),
        ("total = 0.00M  used = 0.00M  free = 0.00M  (encrypted)", 0),
        ("", 0),
    ],
)
def test_macos_swap_output_is_parsed(told: str, count: int) -> None:
    assert machine._mac_swap(told) == count


def test_pressure_on_macos(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free: 100000.\nPages active: 9.\nPages inactive: 31072.\n"
    answers = {
        "hw.memsize": "34359738368\n",
        "kern.memorystatus_vm_pressure_level": "4\n",
        "vm.swapusage": "total = 4.00G  used = 2.00G  free = 2.00G\n",
    }
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(machine, "_run", lambda *command: pages if command[0] == "vm_stat" else answers[command[-1]])
    assert machine.pressure() == Memory(32 * GB, 131072 * 16384, 2 * GB, critical=True)


def test_pressure_on_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = "MemTotal: 2097152 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\nSwapTotal: 1048576 kB\nSwapFree: 524288 kB\n"
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", lambda self, *_, **__: figures)
    assert machine.pressure() == Memory(2 * GB, GB, GB // 2)
