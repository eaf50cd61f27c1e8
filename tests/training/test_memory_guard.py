"""The memory guard with simulated memory readings."""

from __future__ import annotations

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
    sample = [FINE]
    monkeypatch.setattr(machine, "pressure", lambda: sample[-1])
    monkeypatch.setattr(memory_guard, "INTERVAL", 0.0)
    return sample


def test_no_warning_with_enough_memory(now: list[Memory]) -> None:
    watch = MemoryGuard(limit=24 * GB)
    now.append(Memory(32 * GB, 2 * GB, GB + MAX_SWAPPED))
    assert watch.check() == ""


def test_mlx_over_limit_is_reported_with_figures_and_advice(now: list[Memory], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mx, "get_active_memory", lambda: 25 * GB)
    message = MemoryGuard(limit=24 * GB).check()
    assert message == f"The run uses 25.0 GB of memory, but this machine's limit is 24.0 GB. {ADVICE}"


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
