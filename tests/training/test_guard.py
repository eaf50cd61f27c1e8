"""The memory guard, with the machine's figures made up; and how those figures are read."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlxtune.planning import machine
from mlxtune.planning.machine import Pressure
from mlxtune.training import guard
from mlxtune.training.guard import ADVICE, SWAPPED, MemoryGuard

GB = 2**30
FINE = Pressure(total=32 * GB, free=16 * GB, swapped=GB)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[Pressure]:
    """What the machine says; its last item counts."""
    told = [FINE]
    monkeypatch.setattr(machine, "pressure", lambda: told[-1])
    monkeypatch.setattr(guard, "EVERY", 0.0)
    return told


def test_all_is_well_while_there_is_room(now: list[Pressure]) -> None:
    watch = MemoryGuard(limit=24 * GB)
    now.append(Pressure(32 * GB, 2 * GB, GB + SWAPPED))
    assert watch.check() == ""


def test_mlx_beyond_its_limit_is_told_with_figures_and_advice(now: list[Pressure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "get_active_memory", lambda: 25 * GB)
    told = MemoryGuard(limit=24 * GB).check()
    assert told == f"Memory in use, 25.0 GB, passed the 24.0 GB that this machine can give. {ADVICE}"


@pytest.mark.parametrize(
    ("pressure", "words"),
    [
        (Pressure(32 * GB, GB // 2, GB), "running out of memory: 0.5 GB of 32.0 GB free"),
        (Pressure(32 * GB, 16 * GB, GB, critical=True), "running out of memory"),
        (Pressure(32 * GB, 16 * GB, 4 * GB), "has swapped out 3.0 GB since the run began"),
    ],
)
def test_a_pressed_machine_is_told(now: list[Pressure], pressure: Pressure, words: str) -> None:
    watch = MemoryGuard(limit=24 * GB)
    now.append(pressure)
    assert words in watch.check()


def test_the_machine_is_asked_only_now_and_then(now: list[Pressure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "EVERY", 60.0)
    watch = MemoryGuard(limit=24 * GB)
    now.append(Pressure(32 * GB, 0, 0))
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
def test_what_macos_says_of_its_swap(told: str, count: int) -> None:
    assert machine._mac_swap(told) == count


def test_pressure_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = "Mach Virtual Memory Statistics: (page size of 16384 bytes)\nPages free: 100000.\nPages active: 9.\nPages inactive: 31072.\n"
    answers = {
        "hw.memsize": "34359738368\n",
        "kern.memorystatus_vm_pressure_level": "4\n",
        "vm.swapusage": "total = 4.00G  used = 2.00G  free = 2.00G\n",
    }
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(machine, "_run", lambda *command: pages if command[0] == "vm_stat" else answers[command[-1]])
    assert machine.pressure() == Pressure(32 * GB, 131072 * 16384, 2 * GB, critical=True)


def test_pressure_on_linux(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures = "MemTotal: 2097152 kB\nMemFree: 1 kB\nMemAvailable: 1048576 kB\nSwapTotal: 1048576 kB\nSwapFree: 524288 kB\n"
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", lambda self, *_, **__: figures)
    assert machine.pressure() == Pressure(2 * GB, GB, GB // 2)
