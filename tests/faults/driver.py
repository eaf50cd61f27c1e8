"""Interrupt runs at their file operations and resume them: ``python driver.py SCENARIO FOLDER SHARE SHARES`` prints a JSON report.

This is a separate process because it forks. It loads everything once and computes nothing, since MLX threads do not survive a fork.
Where it cannot fork, it starts itself again for each run: ``python driver.py child SCENARIO RUN AT HOW NOTE``.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from mlxtune.models.cpu import blas


def main() -> None:
    blas.preload()
    blas.set_threads(1)  # its threads do not survive a fork either
    import cases
    import mlx.core as mx

    mx.set_default_device(mx.cpu)  # results are compared bit by bit

    if sys.argv[1] == "child":
        scenario, run, at, how, note = sys.argv[2:]
        cases.work(scenario, Path(run), int(at), how, Path(note) if note else None)
    scenario, folder, share, shares = sys.argv[1:]
    print(json.dumps(asdict(cases.run_all(scenario, Path(folder), int(share), int(shares)))))


if __name__ == "__main__":
    main()
