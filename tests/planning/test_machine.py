"""Memory, swap and power on macOS and Linux. A compiled stub stands in for Apple's libraries, so that ctypes calls are real."""

import ctypes
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mlxtune.planning import machine, macos
from mlxtune.planning.machine import Memory, PowerState
from mlxtune.present.labels import power_problems

GB = 2**30
PAGES = {  # any numbers: each page must be counted as free or not, exactly once
    "free_count": 100_000,
    "active_count": 700_000,
    "inactive_count": 600_000,
    "wire_count": 300_000,
    "purgeable_count": 2_000,
    "speculative_count": 30_000,
    "compressor_page_count": 90_000,
    "external_page_count": 250_000,
    "internal_page_count": 1_080_000,
}
FREE_PAGES = 100_000 - 30_000 + 250_000 + 2_000


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The compiled stub."""
    compiler = shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler for the stub of Apple's libraries")
    target = tmp_path_factory.mktemp("stub") / "libstub.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", target, Path(__file__).with_name("macos_stub.c")], check=True)
    return ctypes.CDLL(str(target))


@pytest.fixture
def mac(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Mac with 32 GB, 16 KiB pages, and no battery. Starting a process fails."""
    library.stub_reset()
    monkeypatch.setattr(macos, "LIBSYSTEM", library._name)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=32 * GB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=0))
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a process was started"))
    _forget_libraries()
    variable(library, "hw.pagesize", struct.pack("<Q", 16384))
    yield library
    _forget_libraries()


def _forget_libraries() -> None:
    for function in (macos._libsystem, macos._host):
        function.cache_clear()


def variable(mac: Any, name: str, value: bytes) -> None:
    mac.stub_variable(name.encode(), value, ctypes.c_size_t(len(value)))


def vm(mac: Any, words: int, **pages: int) -> None:
    """Make the kernel report ``pages`` in a ``vm_statistics64`` of ``words`` 32-bit words, whose later fields are not zero."""
    raw = bytes(macos.VMStatistics(**pages)).ljust(4 * words, b"\xff")
    mac.stub_vm(raw, words)


def test_vm_statistics_layout_is_revision_1() -> None:
    """The offsets in ``mach/vm_statistics.h``."""
    assert ctypes.sizeof(macos.VMStatistics) == 38 * 4
    offsets = {"speculative_count": 92, "swapins": 112, "compressor_page_count": 128, "external_page_count": 136}
    assert {name: getattr(macos.VMStatistics, name).offset for name in offsets} == offsets


@pytest.mark.parametrize("words", [38, 40, 62], ids=["macOS 11", "swapped_count added", "tagged memory added"])
@pytest.mark.parametrize("page", [4096, 16384])
def test_inactive_anonymous_pages_are_not_free(mac: Any, words: int, page: int) -> None:
    variable(mac, "hw.pagesize", struct.pack("<Q", page))
    vm(mac, words, **PAGES)
    assert machine.memory() == Memory(32 * GB, FREE_PAGES * page)
    vm(mac, words, **PAGES | {"inactive_count": 0, "active_count": 1_300_000})
    assert machine.memory() == Memory(32 * GB, FREE_PAGES * page)
    assert mac.stub_host_ports() == 1, "each call of mach_host_self leaks a port reference"


def test_kernel_without_revision_1_reports_no_free_memory(mac: Any) -> None:
    vm(mac, 24)
    assert machine.memory().free == 0


@pytest.mark.parametrize(("level", "critical"), [(1, False), (2, False), (4, True)])
def test_pressure_level(mac: Any, level: int, critical: bool) -> None:
    vm(mac, 38, **PAGES)
    variable(mac, "kern.memorystatus_vm_pressure_level", struct.pack("<i", level))
    assert machine.pressure() == Memory(32 * GB, FREE_PAGES * 16384, 0, critical)


def test_footprint_includes_gpu_memory(mac: Any) -> None:
    """``rusage_info_v0``: a UUID, seven counters, then ``ri_phys_footprint``."""
    assert (ctypes.sizeof(macos.ResourceUsage), macos.ResourceUsage.footprint.offset) == (96, 72)
    mac.stub_footprint(ctypes.c_uint64(20 * GB))
    assert machine.footprint() == 20 * GB


def test_footprint_on_linux_is_the_resident_set() -> None:
    before = machine.footprint()
    with mmap(-1, 256 * 2**20) as pages:  # malloc may reuse pages of earlier tests, or return some in the meantime
        pages.write(bytes(len(pages)))
        assert machine.footprint() - before > 128 * 2**20


def test_facts_that_macos_does_not_know_are_neutral(mac: Any) -> None:
    assert machine.pressure() == Memory(32 * GB, 0)
    assert machine.power() == PowerState()


def test_this_machine_on_a_mac(mac: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    variable(mac, "machdep.cpu.brand_string", b"Apple M4 Pro\0")
    variable(mac, "iogpu.wired_limit_mb", struct.pack("<i", 0))
    machine.this_machine.cache_clear()
    here = machine.this_machine()
    assert (here.chip, here.backend, here.limit) == ("Apple M4 Pro", "metal", 32 * GB * 2 // 3)
    variable(mac, "iogpu.wired_limit_mb", struct.pack("<i", 26_000))
    machine.this_machine.cache_clear()
    assert machine.this_machine().limit == 26_000 * 2**20
    machine.this_machine.cache_clear()


def battery(monkeypatch: pytest.MonkeyPatch, percent: int, plugged: bool | None) -> None:
    monkeypatch.setattr(psutil, "sensors_battery", lambda: SimpleNamespace(percent=percent, power_plugged=plugged))


def test_a_container_without_sys_has_no_battery(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(psutil, "sensors_battery", lambda: os.listdir("/nowhere"))
    assert machine.power() == PowerState()


def test_battery_low_power_mode_and_heat(mac: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    battery(monkeypatch, 15, False)
    mac.stub_state(b"com.apple.system.lowpowermode", ctypes.c_uint64(1))
    mac.stub_state(b"com.apple.system.thermalpressurelevel", ctypes.c_uint64(3))
    state = machine.power()
    assert state == PowerState(on_battery=True, charge=0.15, low_power_mode=True, thermal="heavy")
    assert power_problems(state) == ["Low Power Mode", "heavy thermal pressure", "battery at 15%"]
    assert mac.stub_tokens() == 0, "notification tokens leak"


@pytest.mark.parametrize("plugged", [True, None], ids=["plugged in", "unknown"])
def test_charging_battery_is_no_problem(monkeypatch: pytest.MonkeyPatch, plugged: bool | None) -> None:
    battery(monkeypatch, 80, plugged)
    assert machine.power() == PowerState(on_battery=False, charge=0.8)
    assert power_problems(machine.power()) == []


def test_pressure_on_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=2 * GB, available=GB))
    monkeypatch.setattr(psutil, "swap_memory", lambda: SimpleNamespace(used=GB // 2))
    assert machine.pressure() == Memory(2 * GB, GB, GB // 2)
