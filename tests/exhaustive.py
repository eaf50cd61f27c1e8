"""Whether to run every case, as in .ci/run, or a few of them, as in ``make test``."""

from __future__ import annotations

import os

EXHAUSTIVE = bool(os.environ.get("MLXTUNE_EXHAUSTIVE"))
