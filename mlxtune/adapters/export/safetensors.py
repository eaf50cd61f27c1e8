"""Write a fused model as a folder of safetensors, with the base's tokenizer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.nn as nn
from mlx_lm.utils import save_config, save_model

from mlxtune.models.resolve import ModelFolder

_COPIED = ("*.json", "*.txt", "*.model", "*.jinja")  # files to copy with the weights; code is excluded
_WRITTEN = ("config.json", "model.safetensors.index.json", "mlxtune.json", "fidelity.json")


def write(model: nn.Module, config: dict[str, Any], source: ModelFolder, folder: Path) -> None:
    """Write weights, configuration and tokenizer into ``folder``. This removes the weights from ``model``."""
    save_model(folder, model, donate_model=True)
    save_config(dict(config), folder / "config.json")
    copy_tokenizer(source, folder)


def copy_tokenizer(source: ModelFolder, folder: Path) -> None:
    """Copy the tokenizer, chat template and generation defaults of ``source``, but no code."""
    for pattern in _COPIED:
        for file in source.folder.glob(pattern):
            if file.name not in _WRITTEN:
                shutil.copyfile(file, folder / file.name)
