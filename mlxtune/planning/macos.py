"""Read the facts about macOS that psutil lacks with ctypes: no process is started, and no text in the user's locale is parsed.

Only ``machine`` calls these functions, and only on a Mac. Every function returns a neutral value if macOS does not know the fact.

Sources: ``sysctlbyname(3)``, ``notify(3)``; xnu's ``mach/vm_statistics.h``, ``sys/resource.h`` and ``kern/host.c``; ``libproc.h``.
"""

import ctypes
import os
from collections.abc import Callable
from functools import cache
from typing import Any

LIBSYSTEM = "/usr/lib/libSystem.B.dylib"

_HOST_VM_INFO64 = 4
_RUSAGE_INFO_V0 = 0


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    """Declare fields of one type, as in ``namedtuple``."""
    return [(name, kind) for name in names.split()]


class VMStatistics(ctypes.Structure):
    """``struct vm_statistics64`` up to revision 1 (OS X 10.9). Later macOS versions append fields and still fill this part.

    Counts are in pages. ``free_count`` includes ``speculative_count``; ``internal_page_count`` is anonymous memory, of which
    ``purgeable_count`` may be discarded; ``external_page_count`` is file cache. All three include active and inactive pages.
    """

    _fields_ = [
        *_fields(ctypes.c_uint32, "free_count active_count inactive_count wire_count"),
        *_fields(ctypes.c_uint64, "zero_fill_count reactivations pageins pageouts faults cow_faults lookups hits purges"),
        *_fields(ctypes.c_uint32, "purgeable_count speculative_count"),
        *_fields(ctypes.c_uint64, "decompressions compressions swapins swapouts"),
        *_fields(ctypes.c_uint32, "compressor_page_count throttled_count external_page_count internal_page_count"),
        *_fields(ctypes.c_uint64, "total_uncompressed_pages_in_compressor"),
    ]


class ResourceUsage(ctypes.Structure):
    """``struct rusage_info_v0``."""

    _fields_ = [
        ("uuid", ctypes.c_uint8 * 16),
        ("usage", ctypes.c_uint64 * 7),  # from user_time to resident_size
        ("footprint", ctypes.c_uint64),
        ("times", ctypes.c_uint64 * 2),  # of start and exit
    ]


_VM_WORDS = ctypes.sizeof(VMStatistics) // ctypes.sizeof(ctypes.c_int32)  # HOST_VM_INFO64_REV1_COUNT


def sysctl_number(name: str) -> int:
    """Return an integer of the kernel's state, or 0."""
    raw = _sysctl(name)
    return int.from_bytes(raw, "little") if len(raw) in (4, 8) else 0


def sysctl_text(name: str) -> str:
    """Return a text of the kernel's state, or an empty string."""
    return _sysctl(name).rstrip(b"\0").decode("utf-8", "replace")


def free_memory() -> int:
    """Return the bytes that are free or hold only file cache and purgeable memory, which Activity Monitor does not count as used.

    Inactive anonymous pages are not free: to reuse them, macOS has to compress them or swap them out.
    """
    statistics, words = VMStatistics(), ctypes.c_uint32(_VM_WORDS)
    if _libsystem().host_statistics64(_host(), _HOST_VM_INFO64, ctypes.byref(statistics), ctypes.byref(words)):
        return 0
    unused = statistics.free_count - statistics.speculative_count  # speculative pages are file cache, and counted there
    return int(unused + statistics.external_page_count + statistics.purgeable_count) * sysctl_number("hw.pagesize")


def footprint() -> int:
    """Return this process's physical footprint in bytes, as in Activity Monitor: it includes GPU buffers and compressed memory."""
    usage = ResourceUsage()
    return 0 if _libsystem().proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V0, ctypes.byref(usage)) else int(usage.footprint)


def low_power_mode() -> bool:
    """Whether Low Power Mode is on. ``NSProcessInfo.lowPowerModeEnabled`` reads the same state."""
    return _notify_state("com.apple.system.lowpowermode") > 0


def thermal_pressure() -> int:
    """Return the thermal pressure: 0 nominal, 1 moderate, 2 heavy, 3 trapping, 4 sleeping (``OSThermalNotification.h``)."""
    return _notify_state("com.apple.system.thermalpressurelevel")


def _sysctl(name: str) -> bytes:
    call, size = _libsystem().sysctlbyname, ctypes.c_size_t(0)
    if call(name.encode(), None, ctypes.byref(size), None, 0):
        return b""
    value = ctypes.create_string_buffer(size.value)
    return b"" if call(name.encode(), value, ctypes.byref(size), None, 0) else value.raw[: size.value]


def _notify_state(name: str) -> int:
    """Return the 64-bit state that belongs to a system notification, or 0."""
    library, token, state = _libsystem(), ctypes.c_int(), ctypes.c_uint64()
    if library.notify_register_check(name.encode(), ctypes.byref(token)):
        return 0
    failed = library.notify_get_state(token, ctypes.byref(state))
    library.notify_cancel(token)
    return 0 if failed else int(state.value)


# Without these declarations, ctypes would pass pointers as 32-bit integers.


@cache
def _libsystem() -> Any:
    library = ctypes.CDLL(LIBSYSTEM)
    pointer, size = ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t)
    _declare(library.sysctlbyname, ctypes.c_int, ctypes.c_char_p, pointer, size, pointer, ctypes.c_size_t)
    _declare(library.mach_host_self, ctypes.c_uint32)
    _declare(library.host_statistics64, ctypes.c_int, ctypes.c_uint32, ctypes.c_int, pointer, ctypes.POINTER(ctypes.c_uint32))
    _declare(library.proc_pid_rusage, ctypes.c_int, ctypes.c_int, ctypes.c_int, pointer)
    _declare(library.notify_register_check, ctypes.c_uint32, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
    _declare(library.notify_get_state, ctypes.c_uint32, ctypes.c_int, ctypes.POINTER(ctypes.c_uint64))
    _declare(library.notify_cancel, ctypes.c_uint32, ctypes.c_int)
    return library


@cache
def _host() -> int:
    """Return the host port. Each call of ``mach_host_self`` would add a reference that nothing releases."""
    port: int = _libsystem().mach_host_self()
    return port


def _declare(function: Any, result: Any, *arguments: Callable[..., Any] | type) -> None:
    function.restype, function.argtypes = result, arguments
