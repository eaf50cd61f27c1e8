"""PEFT and Transformers load an exported adapter and compute the same logits as MLX.

These tests need torch, which nothing else here uses: ``pip install torch peft`` first; they are skipped without it.
"""

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model
from tiny_architectures import make

from mlxtune.adapters.export import peft_writer
from mlxtune.adapters.importers.importer import import_adapter
from mlxtune.models.resolve import resolve
from mlxtune.present.card import adapter_card
from mlxtune.recipe import AdapterSection

from .conftest import shaken

torch: Any = pytest.importorskip("torch")
peft: Any = pytest.importorskip("peft")
transformers: Any = pytest.importorskip("transformers")
TOKENS = [[70, 71, 72, 80, 81, 90]]
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
CONFIGS: dict[str, dict[str, Any]] = {  # fields that the models' own configurations have, and whose defaults differ in the libraries
    "granite": {"tie_word_embeddings": True},
    "ministral3": {
        "tie_word_embeddings": True, "layer_types": ["full_attention"] * 2,
        "rope_parameters": YARN | {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
}  # fmt: skip
NAMES = (
    "llama", "smollm2", "smollm3", "mistral", "ministral3", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "granite", "olmo2",
)  # fmt: skip


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("name", NAMES)
def test_peft_computes_the_same_logits(tmp_path: Path, empty_workspace: Path, name: str, kind: Any) -> None:
    shared = {"pad_token_id": 0, "query_pre_attn_scalar": 16}  # their defaults differ, too
    base = make(tmp_path / "base", name, bits=0, **shared, **CONFIGS.get(name, {}))
    targets = ["qkv_proj", "down_proj"] if name == "phi3" else ["q_proj", "v_proj", "down_proj"]
    shaken(base, tmp_path / "adapter", AdapterSection(rank=6, kind=kind, targets=targets, layers=1))
    entry = import_adapter(empty_workspace, tmp_path / "adapter", "mine", str(base))
    peft_writer.write(entry, resolve(str(base)), tmp_path / "peft", adapter_card)

    model, _ = load_model(base)
    plain = np.array(model(mx.array(TOKENS)))
    model = load_adapters(model, str(entry.folder))
    model.eval()
    expected = np.array(model(mx.array(TOKENS)))

    theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "peft").eval()
    with torch.no_grad():
        computed = theirs(torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(computed, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected - plain).max() > 0.05
