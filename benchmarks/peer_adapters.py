"""The peer of adapters.py: ``mlx_lm.server``'s model provider, loading one adapter after another. Prints a JSON document.

Runs in its own process with the 4-bit model as installed. Nothing is dequantized, so loading is as fast as possible.
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
    parser.add_argument("--adapters", type=Path, required=True, help="the folder with the adapters")
    parser.add_argument("--loads", type=int, required=True)
    options = parser.parse_args()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each adapter change, and bytes after it, without the first load (cold file cache)."""
    import mlx.core as mx
    import mlx_lm
    from mlx_lm.server import ModelProvider

    settings = {"model": None, "adapter_path": None, "draft_model": None, "pipeline": False, "trust_remote_code": False}
    provider = ModelProvider(types.SimpleNamespace(**settings, chat_template="", use_default_chat_template=False))
    folders = sorted(str(folder) for folder in options.adapters.iterdir() if folder.is_dir())
    provider.load(options.model, folders[0])
    order, previous, seconds, active, peak = random.Random(8), folders[0], [], [], []
    for _ in range(options.loads):
        previous = order.choice([folder for folder in folders if folder != previous])
        mx.reset_peak_memory()
        start = time.perf_counter()
        provider.load(options.model, previous)
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
