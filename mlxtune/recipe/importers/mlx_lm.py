"""Convert an ``mlx_lm.lora`` YAML config to a recipe with the same effect.

mlx-lm counts iterations of one batch each, while a recipe counts optimizer steps of ``training.accumulate`` batches. mlx-lm's
``scale`` is ``alpha / rank``. The keys and defaults are from ``mlx_lm/lora.py``.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from mlxtune.core.errors import RecipeError
from mlxtune.core.files import read_errors, read_text
from mlxtune.core.text import one_line, suggest
from mlxtune.recipe.load import parse
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.recipe.schema import Rule

DEFAULTS: dict[str, Any] = {
    "model": "Qwen/Qwen3-0.6b", "fine_tune_type": "lora", "optimizer": "adam", "optimizer_config": {},
    "data": "mlx-community/WikiSQL", "seed": 0, "num_layers": 16, "batch_size": 4, "iters": 1000, "val_batches": 25,
    "learning_rate": 1e-5, "steps_per_eval": 200, "resume_adapter_file": None, "save_every": 100, "max_seq_length": 2048,
    "grad_checkpoint": False, "grad_accumulation_steps": 1, "lr_schedule": None, "mask_prompt": False,
    "lora_parameters": {"rank": 8, "dropout": 0.0, "scale": 20.0}, "prompt_feature": "prompt",
    "completion_feature": "completion", "chat_feature": "messages", "text_feature": "text",
}  # fmt: skip
NO_COUNTERPART = {
    "adapter_path": "a run has its own folder", "clear_cache_threshold": "the cache is managed automatically",
    "config": "this file is the config", "project_name": "experiment tracking is not supported",
    "report_to": "experiment tracking is not supported", "steps_per_report": "every step is reported",
    "test": "run mlxtune eval instead", "test_batches": "all held-out rows are evaluated",
    "trust_remote_code": "remote code is never run",
}  # fmt: skip
_REJECTED = {"hf_dataset": "Download the dataset and set data to its folder."}
_EVERY = {"validate_every": "steps_per_eval", "save_every": "save_every"}
_FEATURES = {"prompt_feature": "prompt", "completion_feature": "completion", "chat_feature": "messages", "text_feature": "text"}
_FLOAT = re.compile(r"[-+]?(?:\d[\d_]*)?\.?\d+[eE][-+]?\d+|[-+]?(?:\d[\d_]*\.\d*|\.\d+)")


class _Loader(yaml.SafeLoader):
    """A YAML loader that, like mlx-lm, reads ``1e-5`` as a number. YAML 1.1 reads it as a string."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_FLOAT.pattern})$"), list("-+0123456789."))


@dataclass
class ImportedRecipe:
    """A recipe as TOML, and one sentence for each part of the config that it cannot express."""

    text: str
    notes: list[str] = field(default_factory=list)


def import_config(path: Path, target: Path) -> ImportedRecipe:
    """Convert the config at ``path`` to a recipe for ``target``. Paths in a config are relative to the working directory.

    Raise ``RecipeError`` if the file is not such a config, a key is unknown, or mlxtune does not support a value.
    """
    config = _read(path)
    notes = [f"{key} has no equivalent: {reason}." for key, reason in NO_COUNTERPART.items() if key in config]
    values = DEFAULTS | config
    lora = DEFAULTS["lora_parameters"] | _table(values, "lora_parameters")
    accumulate = _count(values, "grad_accumulation_steps")
    steps = max(1, _count(values, "iters") // accumulate)
    adapter: dict[str, Any] = {
        "kind": _choice(values, "fine_tune_type", {"lora": "lora", "dora": "dora"}, "Only lora and dora adapters can be trained."),
        "rank": _count(lora, "rank"), "alpha": _number(lora, "scale") * _count(lora, "rank"), "dropout": _number(lora, "dropout"),
        "layers": "all" if values["num_layers"] == -1 else _count(values, "num_layers"),
    }  # fmt: skip
    if "keys" in lora:
        adapter["targets"] = lora["keys"]
    if values["resume_adapter_file"]:
        file = Path(str(values["resume_adapter_file"]))
        if file.name == WEIGHTS:
            adapter["parent"] = _relative(file.parent, target)
        else:
            notes.append(f"resume_adapter_file: only a file named {WEIGHTS} can be a parent; training starts from scratch.")
    every = {key: max(1, _count(values, theirs) // accumulate) for key, theirs in _EVERY.items()}
    model = str(values["model"])
    document = {
        "name": re.sub(r"[^\w.-]+", "-", path.stem, flags=re.ASCII).strip("-._")[:64] or "imported",
        "model": {"base": _relative(Path(model), target) if Path(model).is_dir() else model},
        "data": _data(values, target, notes),
        "adapter": adapter,
        "training": {
            "steps": steps, "batch_size": _count(values, "batch_size"), "accumulate": accumulate, **_schedule(values, steps, notes),
            **_optimizer(values, notes), "clip": 0.0, "grad_checkpoint": bool(values["grad_checkpoint"]), **every, "seed": values["seed"],
        },
    }  # fmt: skip
    if values["val_batches"] != -1:
        notes.append(f"val_batches = {values['val_batches']}: validation always uses all validation rows.")
    if not values["mask_prompt"]:
        notes.append("mask_prompt = false: the prompts in chat and completion rows are never trained on.")
    text = f"# Imported from {one_line(path.name)}, an mlx_lm.lora config.\n{tomlkit.dumps(document)}"
    parse(text, folder=target.parent, where=one_line(str(target)))
    return ImportedRecipe(text, notes)


def _read(path: Path) -> dict[str, Any]:
    shown = one_line(str(path))
    with read_errors(shown, RecipeError):
        text = read_text(path)
    try:
        config = yaml.load(text, _Loader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise RecipeError(f"{shown} is not valid YAML: {one_line(str(error), 160)}.") from error
    if not isinstance(config, dict):
        raise RecipeError(f"{shown} is not a config: it must be a mapping of keys to values.")
    known = [*DEFAULTS, *NO_COUNTERPART, "train"]
    for key in config:
        if key in _REJECTED:
            raise RecipeError(f"{shown}: {key} cannot be imported.", hint=_REJECTED[key])
        if key not in known:
            hint = suggest(str(key), sorted(known), "Known keys:")
            raise RecipeError(f"{shown}: unknown key {one_line(str(key), 60)}.", hint=hint)
    lora = config.get("lora_parameters") or {}
    lora_keys = ["dropout", "keys", "rank", "scale"]
    for key in lora if isinstance(lora, dict) else ():
        if key not in lora_keys:
            hint = "mlx-lm uses scale = alpha / rank." if key == "alpha" else suggest(str(key), lora_keys, "Known keys:")
            raise RecipeError(f"{shown}: unknown key lora_parameters.{one_line(str(key), 60)}.", hint=hint)
    return config


def _data(values: Mapping[str, Any], target: Path, notes: list[str]) -> dict[str, Any]:
    folder = Path(str(values["data"]))
    if not folder.exists():
        hint = "Run this in the directory where you run mlx_lm.lora, or download the dataset and set data to its folder."
        raise RecipeError(f"data: {one_line(str(folder), 100)} does not exist.", hint=hint)
    data: dict[str, Any] = {"source": _relative(folder, target), "max_tokens": _count(values, "max_seq_length")}
    if mapping := {ours: values[key] for key, ours in _FEATURES.items() if values[key] != ours}:
        data["map"] = mapping
    if not (folder / "test.jsonl").exists():
        notes.append("data: there is no test.jsonl, so the fraction data.holdout of the rows is held out for evaluation.")
    return data


def _schedule(values: Mapping[str, Any], steps: int, notes: list[str]) -> dict[str, Any]:
    """Return the learning rate, schedule, and warmup. mlx-lm's schedules count optimizer steps, as recipes do."""
    if values["lr_schedule"] is None:
        return {"learning_rate": _number(values, "learning_rate"), "schedule": "constant", "warmup": 0.0}
    table = _table(values, "lr_schedule")
    names = {"cosine_decay": "cosine", "linear_schedule": "linear"}
    name = _choice(table, "name", names, "Only cosine_decay and linear_schedule can be imported.")
    arguments = table.get("arguments")
    if not isinstance(arguments, list) or not arguments or not all(isinstance(value, int | float) for value in arguments):
        raise RecipeError("lr_schedule.arguments must be a list of numbers.")
    rate, *rest = arguments
    end, length = (0.0, rest[0] if rest else steps) if name == "cosine" else (rest[0] if rest else 0.0, rest[-1] if rest else steps)
    end = rest[1] if name == "cosine" and len(rest) > 1 else end
    warmup = int(table.get("warmup") or 0)
    if end:
        notes.append(f"lr_schedule: the learning rate decays to 0, not to {end:g}.")
    if length not in (steps, steps - warmup):
        notes.append(f"lr_schedule: the learning rate decays over all {steps} steps, not over {length:g}.")
    if table.get("warmup_init"):
        notes.append(f"lr_schedule.warmup_init: warmup starts near 0, not at {table['warmup_init']}.")
    return {"learning_rate": float(rate), "schedule": name, "warmup": min(warmup / steps, 0.99)}


def _optimizer(values: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    source = str(values["optimizer"]).lower()
    options = dict(_table(values, "optimizer_config").get(source) or {})
    names = {"adam": "adamw", "adamw": "adamw", "muon": "muon", "adafactor": "adafactor"}
    name = _choice({"optimizer": source}, "optimizer", names, "Use adam, adamw, muon, or adafactor.")
    decay = options.pop("weight_decay", {"adamw": 0.01, "muon": 0.01}.get(source, 0.0))
    if name == "adamw" and not options.pop("bias_correction", False):
        notes.append(f"optimizer: {source} without bias correction becomes adamw with bias correction.")
    if source == "adafactor" and (options.pop("relative_step", True) or options.pop("scale_parameter", True)):
        notes.append("optimizer: adafactor uses the learning rate as is, without relative_step and scale_parameter.")
    notes += [f"optimizer_config.{source}.{key} has no equivalent." for key in options]
    return {"optimizer": name, "weight_decay": float(decay)}


def _relative(path: Path, target: Path) -> str:
    """Return ``path`` relative to the folder that contains ``target``."""
    return Path(os.path.relpath(path.expanduser().resolve(), target.parent.resolve())).as_posix()


def _checked(values: Mapping[str, Any], key: str, rule: Rule) -> Any:
    if not rule.is_valid(values[key]):
        raise RecipeError(f"{key} must be {rule.expected}, but is {one_line(str(values[key]), 60)}.")
    return values[key]


_count = partial(_checked, rule=Rule(lambda value: type(value) is int and value >= 1, "an integer of at least 1"))
_number = partial(_checked, rule=Rule(lambda value: type(value) in (int, float), "a number"))
_table = partial(_checked, rule=Rule(lambda value: isinstance(value, dict), "a mapping"))


def _choice(values: Mapping[str, Any], key: str, names: Mapping[str, str], hint: str) -> str:
    if values.get(key) not in names:
        raise RecipeError(f"{key}: {one_line(str(values.get(key)), 60)} cannot be imported.", hint=hint)
    return names[values[key]]
