"""The peer of adapters.py: ``mlx_lm.server``'s model provider, asked for one adapter after another; prints one JSON document.

Runs in a process of its own, with the 4-bit model as a user gets it: nothing is dequantised, so a load is as short as it can be.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
import types
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapters", type=Path, required=True, help="the folder they are in")
    parser.add_argument("--loads", type=int, required=True)
    asked = parser.parse_args()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each change of the adapter, and bytes after them. The first load, with a cold file cache, does not count."""
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.server import ModelProvider

    settings = {"model": None, "adapter_path": None, "draft_model": None, "pipeline": False, "trust_remote_code": False}
    provider = ModelProvider(types.SimpleNamespace(**settings, chat_template="", use_default_chat_template=False))
    folders = sorted(str(folder) for folder in asked.adapters.iterdir() if folder.is_dir())
    provider.load(asked.model, folders[0])
    order, before, seconds, active, peak = random.Random(8), folders[0], [], [], []
    for _ in range(asked.loads):
        before = order.choice([folder for folder in folders if folder != before])
        mx.reset_peak_memory()
        start = time.perf_counter()
        provider.load(asked.model, before)
        seconds.append(time.perf_counter() - start)
        mx.clear_cache()
        active.append(mx.get_active_memory())
        peak.append(mx.get_peak_memory())
    return {
        "version": mlx_lm.__version__, "count": len(seconds), "median_s": statistics.median(seconds), "slowest_s": max(seconds),
        "active_bytes": active[-1], "grown_bytes": max(active) - active[0], "peak_bytes": max(peak),
    }  # fmt: skip


if __name__ == "__main__":
    main()
