"""The modules of checks can be imported by several threads at once, as the app's threads do."""

import subprocess
import sys
from pathlib import Path

from mlxtune.data import checks

IMPORT = """
import importlib, sys, threading
sys.setswitchinterval(1e-4)
names = sys.argv[1:]
barrier = threading.Barrier(len(names))
def load(name):
    barrier.wait()
    importlib.import_module(f"mlxtune.data.checks.{name}")
threads = [threading.Thread(target=load, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


def test_threads_import_the_checks_at_once() -> None:
    names = sorted(path.stem for path in Path(checks.__file__).parent.glob("[!_]*.py"))
    result = subprocess.run([sys.executable, "-c", IMPORT, *names], capture_output=True, text=True, check=True)
    assert result.stderr == ""  # errors in threads are printed
