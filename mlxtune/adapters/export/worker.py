"""The export worker: ``python -m mlxtune.adapters.export.worker EXPORT_DIR``. Exports an adapter, or verifies an export."""

import sys
from pathlib import Path

from mlxtune.models.cpu import blas
from mlxtune.runs import launch
from mlxtune.runs.worker import run_worker

if __name__ == "__main__":
    blas.preload()
    from mlxtune.adapters.export.export_worker import export  # these import mlx
    from mlxtune.adapters.export.verify_worker import verify

    folder = Path(sys.argv[1])
    sys.exit(run_worker(folder, verify if "endpoint" in launch.read_request(folder) else export))
