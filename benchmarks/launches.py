"""Submissions, waits, and graph nodes per step: what bounds a Mac's clock where the arithmetic is small.

    pip install --no-deps mlx-lm-lora
    python benchmarks/launches.py [--json] [--train-perf PYTHON] [--only TEXT]

The models have the layers of a Llama with 3B and with 8B parameters, and small widths, which the counts do not depend on. Each side
runs in its own process, in 16 bits on 4-bit weights, with compiled steps. The device that mlxtune sees is a GPU, so it uses neither
its CPU kernels nor several streams. What a run does once counts from its first step on, divided by few steps: the frozen layers'
outputs do, but not mlxtune's scores of the reference, which the peer computes at each step, nor its test of a loaded model.

A *submission* is a call that hands a graph to MLX (``mx.eval``, ``mx.async_eval``, or reading a number that is not computed), a *wait*
is one that returns only when results are there, and a *node* is an operation of such a graph; fused operations are one. A step of
generation and evaluation is one token of every answer. No peer trains on KTO's rows. ``PYTHON`` is the interpreter of an environment
with mlxtune's packages and mlx-train-perf, which pins an older mlx. Its kernels exist only on Metal, so its loss in chunks is counted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from common import call, environment
from native import LLAMA, WORDS, build
from peer_lora import lora_arguments

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 1}
MODELS = {"3B": LLAMA | SIZES | {"num_hidden_layers": 28}, "8B": LLAMA | SIZES | {"num_hidden_layers": 32}}
ROWS, BATCH, EPOCHS = 8, 4, 6  # few, because MLX multiplies 16-bit quantized matrices very slowly on a CPU
TOKENS = 32  # of each answer
PROGRAMS = {
    "sft": ("mlxtune", "mlx-lm", "mlx-train-perf"), "dpo": ("mlxtune", "mlx-lm-lora"), "kto": ("mlxtune",),
    "generation": ("mlxtune", "mlx-lm"), "evaluation": ("mlxtune", "mlx-lm"),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--train-perf", default="", help="the interpreter of an environment with mlx-train-perf")
    parser.add_argument("--only", default="", help="only lines whose name contains this text, such as '3B: sft'")
    parser.add_argument("--measure", nargs=3, metavar=("PROGRAM", "WORK", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure)))
        return
    lines: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for size, config in MODELS.items():
            folder = build(config, Path(scratch) / size)
            write_rows(folder)
            for work, programs in PROGRAMS.items():
                for program in programs:
                    name, perf = f"{size}: {work}, {program}", program == "mlx-train-perf"
                    if options.only in name and (options.train_perf or not perf):
                        arguments = ("--measure", program, work, str(folder))
                        lines[name] = call("launches.py", *arguments, note=name, python=options.train_perf if perf else "")
    print(json.dumps({**environment("mlx-lm"), "lines": lines}, indent=2) if options.json else table(lines))


def write_rows(folder: Path) -> None:
    """Write rows for every kind of training, and prompts with a common beginning, as JSON lines."""
    dice = random.Random(7)

    def words(least: int, most: int) -> str:
        return " ".join(dice.choices(WORDS, k=dice.randint(least, most)))

    rows = [{"prompt": words(8, 24), "chosen": words(4, 12), "rejected": words(4, 12)} for _ in range(ROWS)]
    beginning = words(60, 60)
    files = {
        "sft": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows],
        "dpo": rows,
        "kto": [{"prompt": row["prompt"], "completion": row["chosen"], "label": index % 2 == 0} for index, row in enumerate(rows)],
        "generation": [{"prompt": f"{beginning} {words(4, 24)}"}],
        "evaluation": [{"prompt": f"{beginning} {words(4, 24)}"} for _ in range(16)],
    }
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


class Counter:
    """Counts what is handed to MLX from Python, once started."""

    def __init__(self, mx: Any) -> None:
        self.submissions = self.waits = self.nodes = 0
        self.unread: list[Any] = []  # arrays that may still be computing
        self._export = mx.export_to_dot
        self._originals = mx.eval, mx.async_eval, mx.array.item, mx.array.tolist
        self._mx = mx

    def start(self) -> None:
        mx, (evaluate, start, item, to_list) = self._mx, self._originals
        mx.eval = lambda *values: (self._submit(values, waits=True), evaluate(*values))[1]
        mx.async_eval = lambda *values: (self._submit(values, waits=False), start(*values))[1]
        mx.array.item = lambda array: (self._submit(array, waits=True), item(array))[1]
        mx.array.tolist = lambda array: (self._submit(array, waits=True), to_list(array))[1]

    def _submit(self, values: Any, *, waits: bool) -> None:
        from mlx.utils import tree_flatten

        arrays = [array for _, array in tree_flatten(values) if isinstance(array, self._mx.array)]
        nodes = self._count(arrays)
        self.nodes += nodes
        self.submissions += nodes > 0
        if waits:
            self._wait(arrays, is_new=nodes > 0)
        else:
            self.unread += arrays

    def _wait(self, arrays: list[Any], *, is_new: bool) -> None:
        """Count a wait for ``arrays``, unless they are done. Work is done in the order of its submission."""
        ends = [index + 1 for index, other in enumerate(self.unread) if any(other is array for array in arrays)]
        if is_new or ends:
            self.waits += 1
            self.unread = [] if is_new else self.unread[max(ends) :]

    def _count(self, arrays: list[Any]) -> int:
        text = io.StringIO()
        if arrays:
            self._export(text, *arrays)
        return text.getvalue().count("shape=rectangle")

    def per_step(self, steps: int) -> dict[str, Any]:
        counts = {"submissions": self.submissions, "waits": self.waits, "nodes": self.nodes}
        return {"steps": steps} | {name: count / steps for name, count in counts.items()}


def measure(program: str, work: str, folder: str) -> dict[str, Any]:
    """Return the counts per step of ``program`` doing ``work`` with the model and the rows in ``folder``."""
    rows = f"{folder}/{work}.jsonl"
    trains = work in ("sft", "dpo", "kto")
    with contextlib.redirect_stdout(sys.stderr):
        if program == "mlxtune":
            return own_training(folder, rows, work) if trains else own_answers(folder, rows)
        if trains:
            return peer_pairs(folder, rows) if work == "dpo" else peer_training(folder, rows, perf=program == "mlx-train-perf")
        return peer_answers(folder, rows, together=work == "evaluation")


def pretend_gpu() -> Any:
    """Return ``mlx.core``, whose default device is reported as a GPU after mlx-lm has created its streams on the real one."""
    from mlxtune.planning.machine import COMPUTE_VARIABLE

    os.environ[COMPUTE_VARIABLE] = "native"
    import mlx.core as mx

    import_module("mlx_lm.generate")

    gpu = mx.Device(mx.gpu)
    mx.default_device = lambda: gpu
    return mx


def own_training(folder: str, rows: str, method: str) -> dict[str, Any]:
    mx = pretend_gpu()
    from mlxtune.recipe import parse
    from mlxtune.training.setup import prepare

    class Listener:
        stopping = False
        steps = 0

        def emit(self, type: str, **fields: Any) -> None:
            self.steps += type == "step"

        def warn(self, *_: Any, **__: Any) -> None:
            pass

    scratch = Path(tempfile.mkdtemp())
    os.environ["MLXTUNE_HOME"] = str(scratch)
    recipe = parse(
        f'name = "bench"\n[model]\nbase = "{folder}"\n[data]\nsource = "{rows}"\nholdout = 0.0\nvalidation = 0.0\n'
        f'[method]\nkind = "{method}"\n[training]\nepochs = {EPOCHS}\nlearning_rate = 1e-5\nschedule = "constant"\nwarmup = 0.0\n'
        f"clip = 0.0\nvalidate_every = 1000000\nsave_every = 1000000\nbatch_size = {BATCH}\ngrad_checkpoint = false\nsamples = 0\n"
        "[adapter]\nrank = 8\nalpha = 160\nlayers = 16\n"
    )
    listener, counter = Listener(), Counter(mx)
    loop = prepare(recipe, scratch, listener).loop
    loop.compiled = True  # as peers do; a run this short would not be
    counter.start()
    loop.run(listener)
    return counter.per_step(listener.steps)


def own_answers(folder: str, rows: str) -> dict[str, Any]:
    mx = pretend_gpu()
    from mlxtune.models.generate import GenerationSettings, PromptGroup, generate
    from mlxtune.models.load import load
    from mlxtune.models.prefix_cache import PrefixCache
    from mlxtune.models.resolve import resolve

    loaded = load(resolve(folder))
    prompts = read_prompts(loaded.tokenizer, rows)
    settings = GenerationSettings(max_tokens=TOKENS, stops=frozenset(), batch_size=len(prompts))
    prefixes = PrefixCache(loaded.model)
    prefixes([[1, 2], [1, 3]])  # tests once per model that it can share prefixes
    counter = Counter(mx)
    counter.start()
    generate(loaded.model, loaded.tokenizer, [PromptGroup(prompts, settings, prefixes(prompts))])
    return counter.per_step(TOKENS)


def read_prompts(tokenizer: Any, rows: str) -> list[list[int]]:
    texts = [json.loads(line)["prompt"] for line in Path(rows).read_text().splitlines()]
    return [tokenizer.encode(f"<|im_start|>user {text}<|im_end|><|im_start|>assistant ") for text in texts]


def peer_training(folder: str, rows: str, *, perf: bool) -> dict[str, Any]:
    """Count ``mlx_lm.lora``'s training function, with mlx-train-perf's loss if ``perf``."""
    import mlx.core as mx
    from mlx_lm import lora
    from mlx_lm.tuner import trainer

    steps = EPOCHS * ROWS // BATCH
    arguments = lora_arguments(folder, rows, steps)
    arguments.steps_per_report = 10
    model, tokenizer = lora.load(folder)
    loss: Any = trainer.default_loss
    if perf:
        from mlx_train_perf.adapters.mlx_lm import make_loss_fn

        loss = make_loss_fn(model, impl="chunked", allow_unverified_mlx=True)
    data, no_data, _ = lora.load_dataset(arguments, tokenizer)
    counter, train = Counter(mx), lora.train

    def counted(**options: Any) -> Any:
        counter.start()
        return train(**options | {"val_dataset": None, "loss": loss})

    lora.train = counted
    lora.train_model(arguments, model, data, no_data, None)
    return counter.per_step(steps)


def peer_pairs(folder: str, rows: str) -> dict[str, Any]:
    """Count mlx-lm-lora's DPO with a second model as the reference."""
    import mlx.core as mx
    import mlx.optimizers as optim
    from mlx_lm.tuner.utils import linear_to_lora_layers
    from mlx_lm.utils import load

    device_info: Callable[..., dict[str, Any]] = mx.device_info  # used by the peer, but incomplete in MLX's CPU backend
    mx.device_info = lambda *device: {**device_info(*device), "max_recommended_working_set_size": 0}
    mx.set_wired_limit = lambda limit: 0
    from mlx_lm_lora.trainer import dpo_trainer
    from mlx_lm_lora.trainer.datasets import CacheDataset, DPODataset

    (model, tokenizer), (reference, _) = load(folder)[:2], load(folder)[:2]
    for one in (model, reference):
        one.freeze()
    linear_to_lora_layers(model, 16, {"rank": 8, "dropout": 0.0, "scale": 20.0})
    steps = EPOCHS * ROWS // BATCH
    settings = dpo_trainer.DPOTrainingArgs(
        batch_size=BATCH, iters=steps, steps_per_report=10, steps_per_eval=10**9, steps_per_save=10**9, max_seq_length=512,
        grad_checkpoint=False, adapter_file=str(Path(tempfile.mkdtemp()) / "adapters.safetensors"), beta=0.1, seq_step_size=None,
    )  # fmt: skip
    data = CacheDataset(DPODataset([json.loads(line) for line in Path(rows).read_text().splitlines()], tokenizer))
    counter = Counter(mx)
    counter.start()
    dpo_trainer.train_dpo(
        model=model, ref_model=reference, optimizer=optim.Adam(learning_rate=1e-5), train_dataset=data, val_dataset=None, args=settings,
        loss_type="sigmoid",
    )  # fmt: skip
    return counter.per_step(steps)


def peer_answers(folder: str, rows: str, *, together: bool) -> dict[str, Any]:
    import mlx.core as mx
    from mlx_lm import batch_generate, generate, load

    model, tokenizer = load(folder)[:2]
    tokenizer._eos_token_ids = set()
    prompts = read_prompts(tokenizer, rows)
    counter = Counter(mx)
    counter.start()
    if together:
        batch_generate(model, tokenizer, prompts, max_tokens=TOKENS)
    else:
        generate(model, tokenizer, prompts[0], max_tokens=TOKENS)
    return counter.per_step(TOKENS)


def table(lines: dict[str, dict[str, Any]]) -> str:
    text = [f"{'per step':32} submissions    waits    nodes"]
    text += [f"{name:32} {line['submissions']:11.2f} {line['waits']:8.2f} {line['nodes']:8.0f}" for name, line in lines.items()]
    return "\n".join(text)


if __name__ == "__main__":
    main()
