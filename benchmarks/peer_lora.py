"""What peer_sft.py and peer_native.py share: the settings of ``mlx_lm.lora``. Imports nothing from mlxtune."""

from __future__ import annotations

import tempfile
import types
from pathlib import Path


def lora_arguments(model: str, train: str, steps: int) -> types.SimpleNamespace:
    """Return the peer's defaults (batch 4, rank 8, scale 20, 16 layers) for ``steps`` steps on the rows in ``train``, prompts masked."""
    from mlx_lm import lora

    folder = Path(tempfile.mkdtemp())
    (folder / "train.jsonl").write_text(Path(train).read_text())
    settings = dict(lora.CONFIG_DEFAULTS) | {
        "model": model, "train": True, "data": str(folder), "iters": steps, "mask_prompt": True, "steps_per_report": 1,
        "steps_per_eval": 10**9, "save_every": 10**9, "adapter_path": str(folder / "adapters"), "max_seq_length": 512,
    }  # fmt: skip
    return types.SimpleNamespace(**settings)
