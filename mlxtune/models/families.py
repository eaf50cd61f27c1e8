"""Decide from ``config.json`` whether a model can be fine-tuned, before its weights are downloaded. Imports no mlx.

A model can be fine-tuned if mlx-lm has its architecture and computes it with gradients.
"""

import ast
import re
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.core.errors import ModelError
from mlxtune.core.text import one_line


class _Refusal(NamedTuple):
    reason: str
    hint: str


_CHOOSE = "Run `mlxtune models` to choose a supported model."

# Architectures of mlx-lm that cannot be trained, with the reason
UNTRAINABLE = {
    "bitnet": _Refusal("mlx-lm runs its ternary weights in a Metal kernel without gradients", _CHOOSE),
    "dbrx": _Refusal("mlx-lm reads its routing in the middle of a training step, which cannot be compiled", "Use a Mixtral model."),
    "deepseek_v41": _Refusal("mlx-lm's sparse attention for it has no gradients", "Use a DeepSeek V2 or V3 model."),
    "muse_spark": _Refusal("mlx-lm runs it in Metal kernels without gradients", "Use a Muse Glimmer model."),
    "olmo": _Refusal("mlx-lm needs the package ai2-olmo for it and ends the process without it", "Use an OLMo 2 or OLMo 3 model."),
    "phi3small": _Refusal("mlx-lm does not mask later tokens in its block-sparse attention", "Use a Phi-3 mini or Phi-4 mini model."),
    "prism_hadamard_qwen35": _Refusal("its rotated 2-bit weights do not support adapters", "Use the original Qwen3.5 model."),
    "recurrent_gemma": _Refusal("mlx-lm cannot freeze its weights", "Use a Gemma 2 or Gemma 3 model."),
    "rwkv7": _Refusal("mlx-lm runs its recurrence in a Metal kernel without gradients", _CHOOSE),
}  # fmt: skip

_DIFFUSION = ("diffusion_gemma", "dream", "llada", "llada_moe", "sdar")  # model types that refine all tokens of an answer at once

_NO_TEXT = "which does not generate text"
_CLASSES = {  # the kind of model by the end of its class name in ``architectures``
    "ForMaskedLM": f"an encoder, {_NO_TEXT}",
    "Classification": f"a classifier, {_NO_TEXT}",
    "QuestionAnswering": f"an extractive question answering model, {_NO_TEXT}",
    "RewardModel": f"a reward model, {_NO_TEXT}",
    "ForCTC": "a speech model",
    "ForSpeechSeq2Seq": "a speech model",
}


def check_trainable(config: dict[str, Any], name: str) -> None:
    """Raise ``ModelError`` if the model ``name`` with this ``config.json`` cannot be fine-tuned."""
    refusal = _refusal(config)
    if refusal:
        raise ModelError(f"{one_line(name, 80)} cannot be fine-tuned: {refusal.reason}.", hint=refusal.hint)


def architecture(config: dict[str, Any]) -> str:
    """Return mlx-lm's name for the architecture in ``config.json``, or an empty string if there is none."""
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(model_type, str):
        return ""
    renamed, by_class = _renamed()
    for name in _classes(config):
        if (model_type, name) in by_class:
            return by_class[model_type, name]
    return renamed.get(model_type, model_type)


def _refusal(config: dict[str, Any]) -> _Refusal | None:
    name = architecture(config)
    if not name:
        return _Refusal("its config.json names no model type", _CHOOSE)
    shown = one_line(name, 40)
    if name in UNTRAINABLE:
        return UNTRAINABLE[name]._replace(reason=f"{shown}: {UNTRAINABLE[name].reason}")
    known = re.fullmatch(r"[\w-]+", name) is not None and (_models_folder() / f"{name}.py").is_file()
    kind = next((_CLASSES[end] for own in _classes(config) for end in _CLASSES if own.endswith(end)), "")
    if kind or (not known and (kind := _other_kind(config))):
        return _Refusal(f"it is {kind} ({shown})", _CHOOSE)
    if known:
        return None
    return _Refusal(f"mlx-lm {version('mlx-lm')} has no architecture {shown}", "If it is new, update mlx-lm: pip install -U mlx-lm")


def _other_kind(config: dict[str, Any]) -> str:
    """Return the kind of a model that mlx-lm does not support, or an empty string if its configuration does not specify it."""
    if str(config["model_type"]).lower() in _DIFFUSION:
        return "a diffusion language model"
    if "vision_config" in config:
        return "a vision-language model whose text part mlx-lm does not have"
    if "audio_config" in config or "num_mel_bins" in config:
        return "a speech model"
    if config.get("is_encoder_decoder"):
        return "an encoder-decoder"
    return f"a vision model, {_NO_TEXT}" if "patch_size" in config else ""


def _classes(config: dict[str, Any]) -> list[str]:
    classes = config.get("architectures") or []
    return [name for name in (classes if isinstance(classes, list) else [classes]) if isinstance(name, str)]


@cache
def _models_folder() -> Path:
    """The folder with mlx-lm's architectures. Importing the package would import mlx."""
    spec = find_spec("mlx_lm")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "models"


@cache
def _renamed() -> tuple[dict[str, str], dict[tuple[str, str], str]]:
    """Return mlx-lm's tables from a model type, or a model type and a class, to an architecture. They are literals in ``mlx_lm.utils``."""
    tables: dict[str, Any] = {"MODEL_REMAPPING": {}, "MODEL_ARCHITECTURE_REMAPPING": {}}
    for node in ast.parse((_models_folder().parent / "utils.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in tables:
            tables[node.targets[0].id] = ast.literal_eval(node.value)
    return tables["MODEL_REMAPPING"], tables["MODEL_ARCHITECTURE_REMAPPING"]
