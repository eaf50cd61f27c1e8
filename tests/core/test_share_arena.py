"""glibc's settings for a process that runs for days."""

import ctypes
import subprocess
import sys

import pytest

SCRIPT = """
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


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="not glibc 2.33")
def test_large_blocks_get_pages_of_their_own_also_after_larger_ones_were_freed():
    """Otherwise they are put into the heap, where small blocks that live longer keep their memory."""
    assert subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout == "1\n"
