"""The export worker: ``python -m mlxtune.adapters.export.worker EXPORT_DIR``. Exports an adapter, or verifies an export."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.models.cpu import blas
from mlxtune.runs.worker import Worker, run_worker


def work(worker: Worker) -> Mapping[str, Any]:
    if "endpoint" in worker.request:
        from mlxtune.adapters.export.verify_worker import verify

        return verify(worker)
    from mlxtune.adapters.export.export_worker import export  # imports mlx; an import that fails is reported like other errors

    return export(worker)


if __name__ == "__main__":
    blas.preload()
    sys.exit(run_worker(Path(sys.argv[1]), work))
