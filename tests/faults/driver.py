"""Interrupt runs at their file operations and resume them: ``python driver.py FOLDER SHARE SHARES`` prints a JSON report.

This is a separate process because it forks. It loads everything once and computes nothing, since MLX threads do not survive a fork.
Where it cannot fork, it starts itself again for each run: ``python driver.py child RUN AT HOW NOTE``.
"""

from __future__ import annotations

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
        run, at, how, note = sys.argv[2:]
        cases.train(Path(run), int(at), how, Path(note) if note else None)
    folder, share, shares = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(asdict(cases.run_all(folder, share, shares))))


if __name__ == "__main__":
    main()
