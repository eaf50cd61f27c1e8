"""The memory guard with simulated memory readings."""

import mlx.core as mx
import pytest

from mlxtune.planning import machine
from mlxtune.planning.machine import Memory
from mlxtune.training import stopping
from mlxtune.training.stopping import ADVICE, MAX_SWAPPED, MemoryGuard

GB = 2**30
FINE = Memory(total=32 * GB, free=16 * GB, swapped=GB)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[Memory]:
    """Return simulated memory readings; the last item is the current one."""
    sample = [FINE]
    monkeypatch.setattr(machine, "pressure", lambda: sample[-1])
    monkeypatch.setattr(stopping, "INTERVAL", 0.0)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: 0)
    return sample


def test_no_warning_with_enough_memory(now):
    watch = MemoryGuard(limit=24 * GB)
    now.append(Memory(32 * GB, 2 * GB, GB + MAX_SWAPPED))
    assert watch.check() == ""


def test_mlx_over_limit_is_reported_with_figures_and_advice(now, monkeypatch):
    monkeypatch.setattr(mx, "get_active_memory", lambda: 25 * GB)
    message = MemoryGuard(limit=24 * GB).check()
    assert message == f"The run uses 25.0 GB of memory, but this machine's limit is 24.0 GB. {ADVICE}"


def test_free_buffers_are_released_over_the_limit(now, monkeypatch):
    cached = [4 * GB]
    monkeypatch.setattr(mx, "get_active_memory", lambda: 22 * GB)
    monkeypatch.setattr(mx, "get_cache_memory", lambda: cached[-1])
    monkeypatch.setattr(mx, "clear_cache", lambda: cached.append(0))
    assert MemoryGuard(limit=24 * GB).check() == ""
    assert cached == [4 * GB, 0]


@pytest.mark.parametrize("relieved", [True, False])
def test_free_buffers_are_released_before_a_run_stops_under_pressure(relieved, now, monkeypatch):
    """The run stops only if the pressure is still there at the next check, even if the cache has grown again."""
    cleared: list[bool] = []
    monkeypatch.setattr(mx, "get_cache_memory", lambda: GB)
    monkeypatch.setattr(mx, "clear_cache", lambda: cleared.append(True))
    watch = MemoryGuard(limit=24 * GB)
    now.append(Memory(32 * GB, GB // 2, GB))
    assert watch.check() == ""
    assert cleared == [True]
    if relieved:
        now.append(FINE)
    assert bool(watch.check()) is not relieved
    assert cleared == [True]


def test_footprint_over_limit_is_reported(now, monkeypatch):
    """Compiled steps and the interpreter are not in MLX's figures."""
    monkeypatch.setattr(machine, "footprint", lambda: 26 * GB)
    assert "The run uses 26.0 GB of memory" in MemoryGuard(limit=24 * GB).check()


@pytest.mark.parametrize(
    ("pressure", "words"),
    [
        (Memory(32 * GB, GB // 2, GB), "running out of memory: only 0.5 GB of 32.0 GB is free"),
        (Memory(32 * GB, 16 * GB, GB, critical=True), "running out of memory"),
        (Memory(32 * GB, 16 * GB, 4 * GB), "swapped out 3.0 GB since the run started"),
    ],
)
def test_memory_pressure_is_reported(now, pressure, words):
    watch = MemoryGuard(limit=24 * GB)
    now.append(pressure)
    assert words in watch.check()


def test_system_memory_is_polled_at_intervals(now, monkeypatch):
    monkeypatch.setattr(stopping, "INTERVAL", 60.0)
    watch = MemoryGuard(limit=24 * GB)
    now.append(Memory(32 * GB, 0, 0))
    assert watch.check() == ""
