"""Count the arenas from which a process allocates memory. By default, glibc gives each thread its own."""

import platform
from pathlib import Path

import pytest

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has an arena for each thread")

# Code that writes a description of a process's arenas at its end.
DESCRIBE = """
import atexit, ctypes
def describe():
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(b"arenas.xml", b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
atexit.register(describe)
"""


def count_arenas(folder: Path) -> int:
    """Return the number of arenas that a process had at its end, which ran :data:`DESCRIBE` in ``folder``."""
    return (folder / "arenas.xml").read_text().count("<heap ")
