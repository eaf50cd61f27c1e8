"""The planner's estimates against measured peaks: ``python benchmarks/plan.py [--json] [--fit] [--only NAME]``.

Each configuration is planned from shapes; then two steps at that batch are measured in a child process, and two steps at another
batch, like a probe. Estimates are given before and after that probe. ``--fit`` searches the coefficients of ``planning.memory`` with
the smallest maximum error before a probe, for each compute path. Measurements are stored in ``--cache FILE`` and read from it.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mlxtune.models.cpu import streams
from mlxtune.planning import activations, measurements, memory, shapes
from mlxtune.planning.machine import COMPUTE_VARIABLE, Machine, installed_version, this_machine
from mlxtune.planning.memory import Coefficients, MemoryEstimate
from mlxtune.planning.workload import BatchShape, Workload
from mlxtune.recipe import Recipe, parse

LLAMA = {
    "model_type": "llama", "rms_norm_eps": 1e-5, "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1408,
    "num_attention_heads": 8, "num_key_value_heads": 8, "vocab_size": 49152, "tie_word_embeddings": False,
    "max_position_embeddings": 4096,
}  # fmt: skip
QWEN = LLAMA | {"model_type": "qwen3", "head_dim": 64, "num_key_value_heads": 2, "rope_theta": 1e6, "tie_word_embeddings": True}
MODELS: dict[str, dict[str, Any]] = {
    "untied": LLAMA,
    "wide": LLAMA | {"hidden_size": 384, "intermediate_size": 3072, "num_attention_heads": 6, "num_key_value_heads": 1},
    "words": LLAMA | {"hidden_size": 256, "vocab_size": 151936, "num_attention_heads": 4, "num_key_value_heads": 2},
    "normed": QWEN,
    "gelu": LLAMA
    | {
        "model_type": "gemma3_text",
        "head_dim": 128,
        "intermediate_size": 2048,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "sliding_window": 512,
    },
    "deep": LLAMA
    | {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 16,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 8192,
        "bits": 4,
    },
    "bits": LLAMA | {"num_key_value_heads": 2, "bits": 4, "vocab_size": 32000},
}


@dataclass(frozen=True)
class Case:
    """A configuration: the base, the recipe's settings, the batch to estimate and, for the probe, another."""

    base: str
    batch: BatchShape
    probe: BatchShape
    overrides: tuple[str, ...] = ()
    cached: bool = False
    checkpointed: bool = False
    native: bool = False

    @property
    def path(self) -> str:
        return "native" if self.native else "float32"


def batch(rows: int, width: int, prefix: int = 0, trained: float = 0.3) -> BatchShape:
    return BatchShape(rows, width, prefix, max(rows, int(rows * width * trained)))


def pairs(rows: int, *sides: int, prefix: int = 0) -> BatchShape:
    """Return a batch of pairs with these widths of prompt, chosen and rejected; every answer token trains."""
    return BatchShape(rows, sum(sides), prefix, rows * sum(sides[-2:]), sides)


BUNDLED = "smollm2-135m"
FEW, HALF, ALL = "adapter.layers=4", "adapter.layers=16", 'adapter.layers="all"'
CASES = {
    "last 4 layers": Case(BUNDLED, batch(4, 128), batch(8, 64), (FEW, "adapter.rank=8")),
    "last layer": Case(BUNDLED, batch(8, 256), batch(4, 256), ("adapter.layers=1",)),
    "all layers": Case(BUNDLED, batch(4, 128), batch(2, 128), (ALL,)),
    "2,048 tokens": Case(BUNDLED, batch(8, 256), batch(4, 256), (HALF, "adapter.rank=8")),
    "a long row, rank 64": Case(BUNDLED, batch(1, 1024), batch(2, 256), (HALF, "adapter.rank=64")),
    "all tokens train": Case(BUNDLED, batch(8, 128, trained=1.0), batch(4, 128, trained=1.0), (HALF,)),
    "DoRA": Case(BUNDLED, batch(4, 128), batch(8, 128), (HALF, 'adapter.kind="dora"', "adapter.rank=8")),
    "attention only": Case(BUNDLED, batch(4, 256), batch(4, 128), (HALF, 'adapter.targets="attention"')),
    "checkpointed": Case(BUNDLED, batch(8, 256), batch(4, 128), (HALF,), checkpointed=True),
    "checkpointed, long": Case(BUNDLED, batch(2, 1024), batch(4, 256), (ALL,), checkpointed=True),
    "cached, after a prefix": Case(BUNDLED, batch(8, 128, 160), batch(4, 128, 160), (HALF,), cached=True),
    "cached, few layers": Case(BUNDLED, batch(4, 256), batch(8, 64), (FEW,), cached=True),
    "after a prefix": Case(BUNDLED, batch(8, 128, 160), batch(4, 128, 160), (ALL,)),
    "Adafactor, rank 64": Case(BUNDLED, batch(4, 64), batch(8, 64), (ALL, "adapter.rank=64", 'training.optimizer="adafactor"')),
    "Lion, rank 64": Case(BUNDLED, batch(2, 64), batch(4, 64), (ALL, "adapter.rank=64", 'training.optimizer="lion"')),
    "Muon, accumulated": Case(BUNDLED, batch(4, 128), batch(2, 128), (HALF, 'training.optimizer="muon"', "training.accumulate=2")),
    "dropout": Case(BUNDLED, batch(4, 128), batch(8, 128), (HALF, "adapter.dropout=0.1")),
    "untied head": Case("untied", batch(4, 256), batch(2, 256), (ALL,)),
    "wide MLP, one key head": Case("wide", batch(8, 128), batch(4, 128), (ALL,)),
    "large vocabulary": Case("words", batch(8, 128), batch(8, 64), (FEW,)),
    "normed queries": Case("normed", batch(4, 256), batch(8, 128), (ALL, "adapter.rank=32")),
    "GELU gate": Case("gelu", batch(4, 256), batch(2, 128), (ALL, "adapter.rank=8")),
    "GELU gate, native": Case("gelu", batch(4, 256), batch(2, 128), (ALL, "adapter.rank=8"), native=True),
    "4 bits, native": Case("bits", batch(4, 128), batch(2, 128), (ALL,), native=True),
    "pairs": Case(BUNDLED, pairs(4, 208, 72, 72), pairs(2, 208, 72, 72), (HALF, "adapter.rank=8")),
    "pairs, all layers": Case(BUNDLED, pairs(2, 128, 256, 224), pairs(4, 64, 128, 128), (ALL,)),
    "pairs, cached": Case(BUNDLED, pairs(4, 128, 192, 208), pairs(8, 64, 96, 96), (HALF, "adapter.rank=8"), cached=True),
    "pairs after a prefix": Case(
        BUNDLED, pairs(4, 48, 72, 72, prefix=160), pairs(8, 48, 72, 72, prefix=160), (HALF, "adapter.rank=8"), cached=True
    ),
    "pairs, checkpointed": Case(BUNDLED, pairs(4, 208, 256, 240), pairs(4, 64, 96, 96), (ALL,), checkpointed=True),
    "deep, native": Case("deep", batch(2, 128), batch(2, 64), (ALL,), native=True),
    "deep, a long row, native": Case("deep", batch(1, 384), batch(2, 64), (ALL,), native=True),
    "deep, checkpointed, native": Case("deep", batch(2, 128), batch(2, 64), (ALL,), checkpointed=True, native=True),
    "deep, pairs, native": Case("deep", pairs(2, 64, 32, 32), pairs(1, 64, 32, 32), (ALL,), native=True),
    "quantized on load, native": Case("normed", batch(4, 64), batch(2, 64), (ALL, "model.quantize=8"), native=True),
}


def recipe(base: str, overrides: tuple[str, ...]) -> Recipe:
    return parse(f'name = "plan"\n[model]\nbase = "{base}"\n[data]\nsource = "none.jsonl"\n', overrides=overrides)


def estimate(
    case: Case, folder: Path, batch: BatchShape, scale: float = 1.0, coefficients: Coefficients | None = None
) -> MemoryEstimate:
    """Return the planner's estimate of ``case`` at the batch ``at``."""
    config = json.loads((folder / "config.json").read_text())
    rows = grouped(case, batch)
    work = Workload(2, 2, 0, 0, 0, 0, rows * batch.width + batch.prefix, batch.width, (batch,))
    kernels = activations.CPU_NATIVE if case.native else activations.CPU
    return memory.estimate(
        shapes.read_shapes(folder, config), recipe(str(folder), case.overrides), work, machine(), cached=case.cached,
        checkpointed=case.checkpointed, scale=scale, coefficients=coefficients, kernels=kernels,
    )  # fmt: skip


def machine() -> Machine:
    """Return this machine, with as many cores as the measured steps use."""
    return replace(this_machine(), cores=streams.core_count())


def grouped(case: Case, batch: BatchShape) -> int:
    """Return the rows that the cache of the frozen layers computes at a time, if there are enough."""
    return (memory.GROUP - batch.prefix) // batch.width if case.cached else 0


def measure(case: Case, folder: Path, batch: BatchShape) -> measurements.StepCost:
    os.environ[COMPUTE_VARIABLE] = "native" if case.native else ""  # a child process inherits it
    planned, rows = recipe(str(folder), case.overrides), grouped(case, batch)
    steps = measurements.start_steps(planned, batch, grouped=rows, checkpointed=case.checkpointed)
    cost: measurements.StepCost = steps.result(lambda what, share: None)
    return cost


def row(name: str, case: Case, folder: Path, measured: dict[str, Any], coefficients: Coefficients) -> dict[str, Any]:
    """Return one line of the table: bytes, and relative errors of the estimates."""
    before = estimate(case, folder, case.batch, coefficients=coefficients)
    other = estimate(case, folder, case.probe, coefficients=coefficients)
    scale = (measured["probe"]["peak"] - measured["probe"]["rest"]) / (other.step - other.rest)
    after = estimate(case, folder, case.batch, scale, coefficients)
    peak = measured["batch"]["peak"]
    return {
        "case": name, "measured": peak, "before": before.step, "after": after.step, "error_before": before.step / peak - 1,
        "error_after": after.step / peak - 1, "rest_measured": measured["batch"]["rest"], "rest": before.rest, "moment": before.moment,
        "scale": scale, "loading_measured": measured["batch"]["loading"], "loading": before.loading, "estimate": asdict(before),
    }  # fmt: skip


def fit(cases: dict[str, Case], folders: dict[str, Path], measured: dict[str, Any]) -> Coefficients:
    """Return the coefficients with the smallest maximum error before a probe, ties broken by the sum of squares."""

    def errors(coefficients: Coefficients) -> tuple[float, float]:
        relative = [
            estimate(case, folders[case.base], getattr(case, which), coefficients=coefficients).step / measured[name][which]["peak"]
            - 1
            for name, case in cases.items()
            for which in ("batch", "probe")
        ]
        return round(max(map(abs, relative)), 3), sum(error * error for error in relative)

    best = Coefficients()
    for _ in range(3):
        for name, values in (
            ("logits", [step / 10 for step in range(10, 101)]),
            ("ahead", [step / 10 for step in range(81)]),
            ("backward", [step / 10 for step in range(41)]),
            ("freezing", [step / 10 for step in range(41)]),
            ("update", [step / 4 for step in range(8, 33)]),
        ):
            best = min((replace(best, **{name: value}) for value in values), key=errors)
    return best


def build(name: str, folder: Path) -> Path:
    """Save a random model of this shape in mlx-lm's layout, with the bundled model's tokenizer."""
    import mlx.core as mx
    from mlx_lm.utils import quantize_model, save_config, save_model

    from mlxtune.models import bundled
    from mlxtune.models.bundled import install

    config = dict(MODELS[name])
    bits = config.pop("bits", 0)
    architecture = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = architecture.Model(architecture.ModelArgs.from_dict(config))
    model.set_dtype(mx.bfloat16)
    if bits:
        model, config = quantize_model(model, config, 64, bits)
    folder.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(install.ensure(bundled.DEFAULT) / file, folder / file)
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--fit", action="store_true", help="fit the coefficients of planning.memory")
    parser.add_argument("--only", default="", help="only configurations whose name contains this text")
    parser.add_argument("--cache", type=Path, help="a file that stores measurements and provides stored ones")
    options = parser.parse_args()
    from mlxtune.models import bundled
    from mlxtune.models.bundled import install
    from mlxtune.models.cpu import blas

    blas.preload()
    cases = {name: case for name, case in CASES.items() if options.only in name}
    measured: dict[str, Any] = json.loads(options.cache.read_text()) if options.cache and options.cache.is_file() else {}
    with tempfile.TemporaryDirectory() as scratch:
        folders = {BUNDLED: install.ensure(bundled.DEFAULT)}
        for base in {case.base for case in cases.values()} - folders.keys():
            folders[base] = build(base, Path(scratch) / base)
        for (name, case), which in itertools.product(cases.items(), ("batch", "probe")):
            if which not in measured.setdefault(name, {}):
                measured[name][which] = measure(case, folders[case.base], getattr(case, which))
                if options.cache:
                    options.cache.write_text(json.dumps(measured))
        coefficients = {"float32": Coefficients(), "native": memory.NATIVE_COEFFICIENTS}
        paths = {path: {name: case for name, case in cases.items() if case.path == path} for path in coefficients}
        if options.fit:
            coefficients |= {path: fit(chosen, folders, measured) for path, chosen in paths.items() if chosen}
        rows = [row(name, case, folders[case.base], measured[name], coefficients[case.path]) for name, case in cases.items()]
    worst = {
        path: {key: max(abs(line[key]) for line in rows if line["case"] in chosen) for key in ("error_before", "error_after")}
        for path, chosen in paths.items()
        if chosen
    }
    document = {
        "benchmark": "plan", "machine": asdict(machine()), "versions": {name: installed_version(name) for name in ("mlxtune", "mlx", "mlx-lm")},
        "coefficients": {path: asdict(coefficients[path]) for path in worst}, "worst": worst, "rows": rows,
    }  # fmt: skip
    if options.json:
        print(json.dumps(document, indent=2))
        return
    for line in rows:
        print(
            f"{line['case']:28} measured {line['measured'] / 2**20:7.0f} MiB   before {line['before'] / 2**20:7.0f} "
            f"{line['error_before']:+6.1%}   after {line['after'] / 2**20:7.0f} {line['error_after']:+6.1%}   {line['moment']}"
        )
    for path, errors in worst.items():
        print(
            f"{path}: worst {errors['error_before']:.1%} before a probe, {errors['error_after']:.1%} after one; {coefficients[path]}"
        )


if __name__ == "__main__":
    main()
