"""Write a model, or an adapter alone, as a GGUF file for llama.cpp and programs built on it, and read it back.

A model's file has its weights, its tokenizer, and its chat template. An adapter's file has its A and B matrices: llama.cpp adds them to a model
that the user already has (``--lora``).
"""

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, LlamaFileType
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import dequantize_model, load_model

from mlxtune.adapters.export import gguf_architectures as architectures
from mlxtune.adapters.export import k_quants
from mlxtune.adapters.export.gguf_architectures import Array, Placement
from mlxtune.adapters.export.gguf_tokenizer import read_tokenizer, write_tokenizer
from mlxtune.adapters.export.start import Precision
from mlxtune.adapters.layout import AdapterLayout, read_layout
from mlxtune.core.errors import ModelError
from mlxtune.core.files import disk_errors, sync_file
from mlxtune.models.load import LoadedModel
from mlxtune.models.resolve import ModelFolder
from mlxtune.recipe.parent import CONFIG, WEIGHTS

LORA_FILE = "adapter.gguf"
_FUSE_HINT = "Export it fused into its base: mlxtune export llamacpp"
_TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32), "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16), "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    **k_quants.MIXES,
}  # fmt: skip
# Tensors that llama.cpp keeps in float32.
_FLOAT32 = ("shortconv.conv.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d", "ssm_norm.weight", "ffn_gate_inp.weight")


def check(source: ModelFolder, adapter: Path | None = None) -> None:
    """Raise ``ModelError`` if ``source`` cannot be written as GGUF or, with ``adapter``, if the adapter alone cannot be."""
    if adapter:
        _lora_places(source, read_layout(adapter))
        return
    _placed(*load_model(source.folder, lazy=True))
    _ = read_tokenizer(source).split  # raises an error if llama.cpp would tokenize text differently


def write_gguf(
    model: nn.Module, config: Mapping[str, Any], source: ModelFolder, file: Path, precision: Precision = "f16", template: str = ""
) -> None:
    """Write the unquantized ``model`` with the tokenizer of ``source`` to ``file``, with matrices in ``precision``.

    Raise ``ModelError`` if llama.cpp would compute or tokenize differently, and ``MachineError`` if the disk is full.
    """
    architecture, text, weights, places = _placed(model, config)
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture.arch])
    writer.add_type("model")
    writer.add_name(read_tokenizer(source).name_in_file)
    writer.add_file_type(_TYPES[precision][1])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in architectures.metadata(architecture, text).items():
        getattr(writer, f"add_{name}")(value)
    embedding = next(name for name, place in places.items() if place.tensor == "token_embd.weight")
    write_tokenizer(writer, source, weights[embedding].shape[0], template, raw_merges=architecture.raw_merges)
    factors = architectures.rope_factors(model, text)
    extra = [(name, factors) for name in architecture.rope_factors if factors is not None]
    for name, values in extra:
        writer.add_tensor_info(name, values.shape, values.dtype, values.nbytes)
    types = _types(weights, places, text, precision)
    for name, place in places.items():
        shape = place.shape or _file_shape(weights[name])
        block, nbytes = gguf.GGML_QUANT_SIZES[types[name]]
        size = int(np.prod(shape)) // block * nbytes
        writer.add_tensor_info(place.tensor, shape, np.dtype(np.float32), size, types[name])

    def tensors() -> Iterator[Array]:
        yield from (values for _, values in extra)
        for name, place in places.items():
            yield _encoded(_in_file(weights[name], place), types[name], name)

    _write(writer, file, tensors())


def rounded(model: nn.Module, config: Mapping[str, Any], precision: Precision, names: Collection[str] = ()) -> dict[str, mx.array]:
    """Return the weights of the unquantized ``model`` as :func:`write_gguf` rounds them: all, or only those with the ``names``."""
    _, text, weights, places = _placed(model, config)
    types = _types(weights, places, text, precision)
    result = {}
    for name in names or places:
        values = gguf.dequantize(_encoded(_in_file(weights[name], places[name]), types[name], name), types[name])
        result[name] = _from_file(values, places[name], weights[name])
    return result


def write_lora_gguf(source: ModelFolder, adapter: Path, file: Path) -> None:
    """Write the ``adapter`` of ``source`` to ``file``, in float32, for llama.cpp to add to a GGUF file of the same base.

    Raise ``ModelError`` if it is not LoRA, or adapts modules that llama.cpp cannot adapt, and ``MachineError`` if the disk is full.
    """
    layout = read_layout(adapter)
    architecture, places = _lora_places(source, layout)
    weights: Any = mx.load(str(adapter / WEIGHTS))
    writer = GGUFWriter(None, gguf.MODEL_ARCH_NAMES[architecture.arch])
    writer.add_type("adapter")
    writer.add_name(adapter.resolve().name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, source.name)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, layout.scale * layout.rank)
    tensors = [np.ascontiguousarray(place.to_file(_to_numpy(weights[name]).T)) for name, place in places.items()]
    for place, values in zip(places.values(), tensors, strict=True):
        writer.add_tensor_info(place.tensor, values.shape, values.dtype, values.nbytes)
    _write(writer, file, iter(tensors))


def read_back(file: Path, loaded: LoadedModel, config: Mapping[str, Any]) -> None:
    """Replace the model in ``loaded``, whose configuration is ``config``, with the one in ``file``, so that MLX can run it."""
    loaded.model = model = dequantize_model(loaded.model)
    _, _, weights, places = _placed(model, config)
    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    arrays = []
    for name, place in places.items():
        tensor = tensors[place.tensor]
        values = _from_file(gguf.dequantize(tensor.data, tensor.tensor_type), place, weights[name])
        arrays.append((name, values.astype(weights[name].dtype)))
    model.update(tree_unflatten(arrays))
    mx.eval(model.parameters())


def read_lora_back(file: Path, source: ModelFolder, adapter: Path, target: Path) -> None:
    """Write the adapter in ``file`` as a folder ``target`` in mlx-lm's layout; ``adapter`` is the original, with the configuration."""
    layout = read_layout(adapter)
    _, places = _lora_places(source, layout)
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    weights = {name: mx.array(place.from_file(np.array(tensors[place.tensor])).T) for name, place in places.items()}
    target.mkdir(parents=True)
    mx.save_safetensors(str(target / WEIGHTS), weights, metadata={"format": "mlx"})
    shutil.copyfile(adapter / CONFIG, target / CONFIG)


def _placed(
    model: nn.Module, config: Mapping[str, Any]
) -> tuple[architectures.Architecture, architectures.Config, dict[str, mx.array], dict[str, Placement]]:
    """Return the architecture of ``model``, its configuration, its weights, and their places in a file. Raise ``ModelError`` if it has none."""
    architecture = architectures.find(config)
    text = architectures.text_config(model, architecture, config)
    if problem := architecture.unsupported(text):
        raise architectures.not_as_gguf(f"llama.cpp does not support {problem}")
    return architecture, text, dict(tree_flatten(model.parameters())), dict(architectures.placements(model, architecture, text))


def _lora_places(source: ModelFolder, layout: AdapterLayout) -> tuple[architectures.Architecture, dict[str, Placement]]:
    """Return the architecture, and the places of A and B of each module, transposed. Raise ``ModelError`` if one has none."""
    if layout.kind != "lora":
        raise ModelError("llama.cpp cannot add a DoRA adapter to a model.", hint=_FUSE_HINT)
    architecture, _, _, places = _placed(*load_model(source.folder, lazy=True))
    halves = {}
    for name, module in layout.modules.items():
        place = places.get(f"{name}.weight")
        if place is None or module.expert or name.endswith("embed_tokens"):
            raise ModelError(f"llama.cpp cannot adapt {name}.", hint=_FUSE_HINT)
        halves[f"{name}.lora_a"] = Placement(f"{place.tensor}.lora_a", columns=place.columns)
        halves[f"{name}.lora_b"] = Placement(f"{place.tensor}.lora_b", rows=place.rows)
    return architecture, halves


def _write(writer: GGUFWriter, file: Path, tensors: Iterator[Array]) -> None:
    with disk_errors(file.name):
        try:
            writer.write_header_to_file(file)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for values in tensors:
                writer.write_tensor_data(values)
            writer.flush()
            for stream in writer.fout or ():
                sync_file(stream.fileno())
        finally:
            writer.close()
    assert os.path.getsize(file)


def _in_file(weights: mx.array, place: Placement) -> Array:
    return place.to_file(_to_numpy(weights).reshape(_file_shape(weights)))


def _from_file(values: Array, place: Placement, weights: mx.array) -> mx.array:
    """Return ``values`` of the file in float32 in the shape of the model's ``weights``."""
    return mx.array(place.from_file(values.reshape(_file_shape(weights))).reshape(weights.shape))


def _to_numpy(array: mx.array) -> Array:
    return np.array(array.astype(mx.float32))


def _file_shape(array: mx.array) -> tuple[int, ...]:
    """Return the shape without dimensions of 1, which convolutions have."""
    return tuple(size for size in array.shape if size > 1) or (1,)


def _types(
    weights: Mapping[str, mx.array], places: Mapping[str, Placement], config: architectures.Config, precision: Precision
) -> dict[str, GGMLQuantizationType]:
    """Return the type of each of the ``weights`` in a file with matrices in ``precision``."""
    (matrix, _), types = _TYPES[precision], {}
    for name, place in places.items():
        shape = place.shape or _file_shape(weights[name])
        if precision in k_quants.MIXES and len(shape) > 1:
            tied, layers = "lm_head.weight" not in places, config["num_hidden_layers"]
            matrix = k_quants.matrix_type(precision, place.tensor, shape[-1], layers, tied=tied)
        whole_blocks = shape[-1] % gguf.GGML_QUANT_SIZES[matrix][0] == 0
        types[name] = matrix if whole_blocks else GGMLQuantizationType.F16
        if len(shape) == 1 or place.tensor.endswith(_FLOAT32):
            types[name] = GGMLQuantizationType.F32
    return types


def _encoded(values: Array, type: GGMLQuantizationType, name: str) -> Array:
    if type in k_quants.TYPES:
        return k_quants.quantize(values, type)
    with np.errstate(over="ignore"):
        encoded = gguf.quantize(np.ascontiguousarray(values), type)
    if type is GGMLQuantizationType.F16 and not np.isfinite(encoded).all():
        raise ModelError(f"{name} has weights that are too large for 16-bit floating point.", hint="Add --precision bf16.")
    return np.ascontiguousarray(encoded)
