"""Breaks runs at their file operations and lets them go on: ``python driver.py FOLDER SHARE SHARES`` prints a report as JSON.

A process of its own, because it forks: it loads everything once and computes nothing, for MLX's threads would not survive a fork.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from mlxtune.models import blas


def main() -> None:
    blas.preload()
    blas.threads(1)  # its threads would not survive either
    import cases

    folder, share, shares = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    print(json.dumps(asdict(cases.run_all(folder, share, shares))))


if __name__ == "__main__":
    main()
