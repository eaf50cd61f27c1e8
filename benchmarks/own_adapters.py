"""Our side of adapters.py: create five adapters, swap among them and the base, and check every swap. Prints a JSON document."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path
from typing import Any

from mlxtune.models.cpu import blas

SEED = 8


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapters", type=Path, required=True, help="the folder to write them to")
    parser.add_argument("--swaps", type=int, required=True)
    options = parser.parse_args()
    blas.preload()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each swap, bytes before and after, and how many gave the logits of a fresh load."""
    import mlx.core as mx

    from mlxtune.models import lora
    from mlxtune.models.load import load
    from mlxtune.models.resolve import resolve
    from mlxtune.serving.adapter_pool import AdapterPool

    source = resolve(options.model)
    tokens = mx.array([load(source).tokenizer.encode("The tent came without its pegs. What can I do?")])
    folders: dict[str, Path | None] = {"": None, **write_adapters(options.adapters, options.model)}
    fresh = {}
    for name, folder in folders.items():
        model = load(source).model
        if folder:
            lora.load(model, folder)
        fresh[name] = model(tokens)
        mx.eval(fresh[name])
        del model
        mx.clear_cache()

    pool = AdapterPool(load(source).model)
    mx.eval(pool.model(tokens))
    mx.clear_cache()
    base_bytes = mx.get_active_memory()
    firsts = [timed(lambda folder=folder: pool.activate(pool.load(folder))) for folder in folders.values() if folder]
    order, seconds, exact, active = random.Random(SEED), [], 0, []
    previous = None
    for _ in range(options.swaps):
        name = order.choice([other for other in folders if other != previous])
        previous, folder = name, folders[name]
        seconds.append(timed(lambda folder=folder: pool.activate(pool.load(folder) if folder else None)))
        exact += bool(mx.array_equal(pool.model(tokens), fresh[name]).item())
        mx.clear_cache()
        active.append(mx.get_active_memory())
    return {
        "count": len(seconds), "median_s": statistics.median(seconds), "slowest_s": max(seconds), "exact": exact,
        "first_load_s": statistics.median(firsts), "adapter_bytes": pool.nbytes, "base_bytes": base_bytes, "active_bytes": active[-1],
        "grown_bytes": max(active) - active[0],
    }  # fmt: skip


def timed(work: Any) -> float:
    """Return the time of ``work`` in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def write_adapters(folder: Path, base: str) -> dict[str, Path]:
    """Write five adapters for ``base``, strong enough to change answers and weak enough to keep them fluent."""
    import mlx.core as mx

    from mlxtune.models import lora
    from mlxtune.models.load import load
    from mlxtune.models.resolve import resolve
    from mlxtune.recipe import AdapterSection

    sections = {
        "rank4": AdapterSection(rank=4, alpha=8),
        "rank8-attention": AdapterSection(rank=8, alpha=16, targets="attention"),
        "rank16-half": AdapterSection(rank=16, alpha=32, layers=15),
        "rank8-dora": AdapterSection(rank=8, alpha=16, kind="dora", targets=["q_proj", "v_proj"]),
        "rank32-mlp": AdapterSection(rank=32, alpha=32, targets=["gate_proj", "up_proj", "down_proj"], layers=8),
    }
    for seed, (name, section) in enumerate(sections.items()):
        model = load(resolve(base)).model
        config = lora.add(model, section, seed)
        arrays = {
            name: mx.random.normal(array.shape) * 0.01 if name.endswith("lora_b") else array
            for name, array in lora.adapter_arrays(model).items()
        }
        lora.save(folder / name, arrays, config | {"model": base})
    return {name: folder / name for name in sections}


if __name__ == "__main__":
    main()
