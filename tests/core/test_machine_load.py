import ctypes
import os
import subprocess
import sys

import pytest
from arenas import needs_glibc

from mlxtune.core.machine_load import busy_load, fair_threads

# A block at the end of the heap keeps glibc from returning the free ones before it.
FREE_BLOCKS = """
from pathlib import Path
from mlxtune.core.machine_load import release_memory
blocks = [bytes([1]) * 8192 for _ in range(4000)]
del blocks[:-1]
pages = [int(Path("/proc/self/statm").read_text().split()[1])]
release_memory()
pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
print(*pages)
"""

SHARED_ARENA = """
import ctypes
from mlxtune.core.machine_load import share_arena

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.free.argtypes = Info, ctypes.c_void_p, [ctypes.c_void_p]
share_arena()
libc.free(libc.malloc(16 * 2**20))
before = libc.mallinfo2().hblks
libc.malloc(2**20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.parametrize(
    ("load", "cores", "busy"), [(3.0, 2, False), (4.0, 2, False), (8.0, 2, True), (20.0, 16, False), (40.0, 16, True)]
)
def test_a_machine_is_busy_with_more_than_two_threads_per_core(monkeypatch, load, cores, busy):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert busy_load() == (load if busy else 0.0)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert busy_load() == 0.0


@pytest.mark.parametrize(("load", "cores", "threads"), [(0.0, 2, 2), (8.0, 2, 1), (40.0, 16, 4), (1000.0, 8, 1)])
def test_threads_share_the_cores_with_the_load(monkeypatch, load, cores, threads):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert fair_threads(load) == threads


@needs_glibc
def test_free_pages_go_back_to_the_system():
    output = subprocess.run([sys.executable, "-c", FREE_BLOCKS], check=True, capture_output=True, text=True).stdout
    before, after = map(int, output.split())
    assert (before - after) * os.sysconf("SC_PAGE_SIZE") > 24e6


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33")
def test_large_blocks_get_pages_of_their_own_also_after_larger_ones_were_freed():
    """Otherwise they are put into the heap, where small blocks that live longer keep their memory."""
    assert subprocess.run([sys.executable, "-c", SHARED_ARENA], capture_output=True, text=True, check=True).stdout == "1\n"
