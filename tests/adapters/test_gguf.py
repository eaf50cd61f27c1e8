"""GGUF files give the same tokens and answers in llama.cpp as their models in MLX."""

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from gguf import GGUFReader
from llama_cpp import Llama, llama
from mlx_lm.utils import dequantize_model, load_model
from texts import texts
from tiny_architectures import ARCHITECTURES as TINY
from tiny_architectures import WINDOW, make
from tokenizers import Tokenizer

from mlxtune.adapters import fuse
from mlxtune.adapters.export import gguf, k_quants
from mlxtune.adapters.export.gguf_tokenizer import read_tokenizer
from mlxtune.core.errors import ModelError
from mlxtune.models import lora
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import ModelFolder, resolve
from mlxtune.recipe import AdapterSection

from .conftest import in_float32, shaken

PROMPT = [(7 * place) % 250 for place in range(2 * WINDOW)]
COUNT = 6
GEMMA = {"query_pre_attn_scalar": 16}
LONG = {"original_max_position_embeddings": 64, "max_position_embeddings": 128}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG_ROPE = {"type": "longrope", "long_factor": [1.0, 1.5, 2.0, 4.0, 6.0, 7.0], "short_factor": [1.0] * 6}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
TEMPERATURE = {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}
QWEN35 = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "rope_parameters": {"type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]},
}  # fmt: skip
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {  # the tiny architecture, and its configuration
    "Llama": ("llama", {}),
    "Llama 3": ("llama", {"rope_scaling": LLAMA3_ROPE | {"original_max_position_embeddings": 64}}),
    "SmolLM2": ("smollm2", {}),
    "SmolLM3": ("smollm3", {"num_hidden_layers": 4, "no_rope_layer_interval": 4}),
    "Mistral": ("mistral", {}),
    "Ministral 3": ("ministral3", {"layer_types": ["full_attention"] * 2, "rope_parameters": YARN | TEMPERATURE}),
    "Qwen 2.5": ("qwen2", {}),
    "Qwen 3": ("qwen3", {}),
    "Qwen 3.5": ("qwen3_5", {"text_config": TINY["qwen3_5"].full_config["text_config"] | QWEN35}),
    "Gemma 2": ("gemma2", GEMMA),
    "Gemma 3": ("gemma3_text", GEMMA),
    "Gemma 3 with images": ("gemma3", {"text_config": TINY["gemma3"].full_config["text_config"] | GEMMA}),
    "Gemma 4": ("gemma4", {}),
    "Phi-3": ("phi3", {"original_max_position_embeddings": 4096}),
    "Phi-4-mini": ("phi3", LONG | {"partial_rotary_factor": 0.75, "rope_scaling": LONG_ROPE}),
    "Granite": ("granite", {}),
    "Granite 4 hybrid": ("granitemoehybrid", {"time_step_limit": [0.0, 100.0]}),  # llama.cpp has no limit
    "LFM2": ("lfm2", {}),
}  # fmt: skip
FEW = ("Llama 3", "Gemma 3")  # the others only in .ci/run
EACH = [pytest.param(name, marks=() if name in FEW else pytest.mark.exhaustive) for name in CONFIGS]


def tiny_base(folder: Path, name: str, **config: Any) -> ModelFolder:
    """Write a tiny random model of architecture ``name``, in 4 bits, with words as tokens and no constant parameters."""
    make(folder, name, **config)
    file = folder / "model.safetensors"
    mx.random.seed(5)
    noisy = {}
    for key, array in mx.load(str(file)).items():
        noise = mx.random.normal(array.shape) * 0.1 if array.ndim == 1 else mx.zeros(())
        noisy[key] = array if array.dtype == mx.uint32 else array + noise.astype(array.dtype)
    mx.save_safetensors(str(file), noisy, metadata={"format": "mlx"})
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    words = {f"w{id}": id for id in range(250)}  # llama.cpp tells no probabilities of tokens that are parts of a character
    tokenizer["model"] |= {"vocab": words | {"o": 250, "k": 251, "ok": 252}, "merges": [["o", "k"]]}
    file.write_text(json.dumps(tokenizer))
    return resolve(str(folder))


def assert_same_answer(server: Llama, model: Any, prompt: list[int], tolerance: float, count: int = COUNT) -> None:
    """Check log-probabilities and greedy tokens, up to the first tie within ``tolerance``."""
    tokens, likeliest = server.greedy(prompt, count)
    for place, expected in enumerate(likeliest):
        logits = model(mx.array([[*prompt, *tokens[:place]]]))[0, -1].astype(mx.float32)
        logprobs = np.array(logits - mx.logsumexp(logits))
        found = list(expected)
        np.testing.assert_allclose([expected[token] for token in found], logprobs[found], atol=tolerance)
        best = int(logprobs.argmax())
        assert tokens[place] == best or logprobs[best] - logprobs[tokens[place]] < tolerance


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_fused_model_and_adapter_answer_as_in_mlx(tmp_path: Path, name: str) -> None:
    architecture, config = CONFIGS[name]
    base = tiny_base(tmp_path / "base", architecture, **config)
    adapter = shaken(base.folder, tmp_path / "adapter", AdapterSection(rank=4))
    model, config = fuse.fuse(base, adapter, requantize=False)
    gguf.write_gguf(model, config, base, tmp_path / "fused.gguf", "f32")
    plain, config = load_model(base.folder)
    plain = dequantize_model(plain)
    gguf.write_gguf(plain, config, base, tmp_path / "base.gguf", "f32")
    gguf.write_lora_gguf(base, adapter, tmp_path / "adapter.gguf")
    with llama(tmp_path / "fused.gguf") as server:
        assert_same_answer(server, in_float32(model), PROMPT, 1e-3)
    tuned, _ = load_model(base.folder)
    tuned = in_float32(dequantize_model(tuned))
    lora.load(tuned, adapter)
    with llama(tmp_path / "base.gguf", tmp_path / "adapter.gguf") as server:
        assert_same_answer(server, tuned, PROMPT, 1e-3)
    first = mx.array([PROMPT])
    assert mx.abs(tuned(first) - in_float32(plain)(first)).max() > 0.05


@pytest.mark.slow
def test_k_quants_are_computed_by_llama_cpp(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "a base", "llama", hidden_size=256, head_dim=64, intermediate_size=256)
    model, config = load_model(base.folder)
    model = dequantize_model(model)
    file = tmp_path / "a base.gguf"
    gguf.write_gguf(model, config, base, file, "q4_k_m")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(file).tensors}
    assert set(kinds.values()) == {"F32", "Q4_K", "Q6_K"}
    assert kinds["blk.0.attn_q.weight"] == "Q4_K"
    again = load(base, "float32")
    gguf.read_back(file, again, base.config)
    with llama(file) as server:  # which rounds activations to 8 bits
        assert_same_answer(server, again.model, PROMPT, 0.05)
    assert mx.abs(in_float32(model)(mx.array([PROMPT])) - again.model(mx.array([PROMPT]))).max() > 0.05


# By the rules of llama_tensor_get_type: SmolLM2 135M has rows of 576 and 1,536 weights, 30 layers, and a tied embedding.
@pytest.mark.parametrize(
    ("precision", "tensor", "row", "layers", "expected"),
    [
        ("q4_k_m", "token_embd.weight", 576, 30, "Q8_0"),
        ("q4_k_m", "blk.0.attn_v.weight", 576, 30, "Q8_0"),
        ("q4_k_m", "blk.0.attn_k.weight", 576, 30, "Q5_0"),
        ("q4_k_m", "blk.0.ffn_down.weight", 1536, 30, "Q6_K"),
        ("q4_k_m", "blk.3.ffn_down.weight", 1536, 30, "Q4_K"),
        ("q4_k_m", "blk.5.ffn_down.weight", 1536, 30, "Q6_K"),
        ("q5_k_m", "blk.26.attn_v.weight", 2048, 30, "Q6_K"),
        ("q5_k_m", "blk.4.attn_qkv.weight", 2048, 30, "Q5_K"),
        ("q3_k_m", "blk.1.attn_v.weight", 2048, 16, "Q5_K"),
        ("q3_k_m", "blk.2.ffn_down.weight", 8192, 16, "Q4_K"),
        ("q3_k_m", "blk.2.attn_output.weight", 2048, 16, "Q4_K"),
        ("q3_k_m", "blk.2.ffn_up.weight", 2048, 16, "Q3_K"),
        ("q3_k_m", "blk.2.ffn_up.weight", 576, 16, "Q4_0"),
        ("q6_k", "blk.2.ffn_up.weight", 576, 16, "Q8_0"),
    ],
)
def test_k_quants_mix_types_as_llama_quantize(precision: str, tensor: str, row: int, layers: int, expected: str) -> None:
    assert k_quants.matrix_type(precision, tensor, row, layers, tied=True).name == expected


@pytest.mark.parametrize(
    ("section", "why"),
    [({"kind": "dora"}, "cannot add a DoRA adapter"), ({"targets": ["q_proj", "embed_tokens"]}, "cannot adapt model.embed_tokens")],
)
def test_adapter_that_llama_cpp_cannot_add_is_refused(tmp_path: Path, section: dict[str, Any], why: str) -> None:
    base = tiny_base(tmp_path / "base", "smollm2")
    adapter = shaken(base.folder, tmp_path / "adapter", AdapterSection(rank=4, **section))
    for attempt in (lambda: gguf.check(base, adapter), lambda: gguf.write_lora_gguf(base, adapter, tmp_path / "adapter.gguf")):
        with pytest.raises(ModelError, match=why) as caught:
            attempt()
        assert "mlxtune export llamacpp" in caught.value.hint
    assert not (tmp_path / "adapter.gguf").exists()


@pytest.mark.parametrize(
    ("name", "config", "why"),
    [
        ("phi", {}, "The architecture phi cannot be written as GGUF"),
        ("gpt_oss", {}, "The architecture gpt_oss cannot be written as GGUF"),
        ("llama", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "does not support its kind of RoPE scaling, yarn"),
        ("llama", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}, "layers with a sliding window"),
        ("gemma2", {"query_pre_attn_scalar": 24}, "its attention scale"),
    ],
)
def test_model_that_llama_cpp_cannot_compute_is_refused(tmp_path: Path, name: str, config: dict[str, Any], why: str) -> None:
    base = tiny_base(tmp_path / "base", name, **config)
    with pytest.raises(ModelError, match=why):
        gguf.check(base)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": {"type": "WordPiece"}}, "not a byte-pair tokenizer"),
        ({"model": {"type": "BPE", "merges": []}}, "has no merges"),
        ({"normalizer": {"type": "Lowercase"}}, "would split text differently"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "would split text differently"),
    ],
)
def test_tokenizer_that_llama_cpp_lacks_is_refused(tmp_path: Path, changes: dict[str, Any], why: str) -> None:
    base = tiny_base(tmp_path / "base", "smollm2")
    file = base.folder / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match=why):
        gguf.check(base)


PHI3 = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|user|>")


@pytest.mark.parametrize("name", ["base", "Phi-3-mini"])
@pytest.mark.parametrize(
    ("added", "stripped", "differing"),
    [(("<|user|>",), (), ""), (PHI3, (), ""), (PHI3, ("</s>", "<|user|>"), ""), (("<|user|>",), ("<|user|>",), "<|user|>")],
)
def test_space_after_control_tokens(tmp_path: Path, name: str, added: Any, stripped: Any, differing: str) -> None:
    base = resolve(str(make(tmp_path / name, "smollm2", bits=0)))
    file = base.folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["model"]["vocab"]["ok"] = 256
    tokenizer["model"]["merges"] = [["o", "k"]]
    flags = tokenizer["added_tokens"][0]
    contents = (*(token["content"] for token in tokenizer["added_tokens"]), *added)
    if stripped:
        stripped = (*stripped, *contents[: -len(added)])
    tokenizer["added_tokens"] = [
        flags | {"id": id, "content": text, "rstrip": text in stripped} for id, text in enumerate(contents, 257)
    ]
    file.write_text(json.dumps(tokenizer))
    gguf.write_gguf(*load_model(base.folder), base, tmp_path / "model.gguf", "f32")
    own = Tokenizer.from_file(str(file))
    with llama(tmp_path / "model.gguf") as server:
        same = [server.tokenize(text) == own.encode(text).ids for text in ("<|user|> ok", "<|user|>\nok", "ok <|user|>ok")]
    assert same == [not differing, not differing, True]
    assert bool(read_tokenizer(base).stripped_differently) == bool(differing)


@pytest.mark.real
def test_texts_have_the_same_tokens_as_the_bundled_model(real: LoadedModel, tmp_path: Path) -> None:
    make(tmp_path, "smollm2", bits=0, dtype="float16", vocab_size=49152, hidden_size=32)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((real.source.folder / name).read_bytes())
    gguf.write_gguf(*load_model(tmp_path), resolve(str(tmp_path)), tmp_path / "model.gguf")
    with llama(tmp_path / "model.gguf") as server:
        for text in texts(("<|im_start|>", "<|im_end|>", "<|endoftext|>")):
            assert server.tokenize(text) == list(real.tokenizer.encode(text)), text
