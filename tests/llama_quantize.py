"""A stand-in for llama.cpp's program llama-quantize: the same arguments, and K-quants computed by llama.cpp itself.

The package xllamacpp has no such program, but exports the function that quantizes rows. As in llama.cpp, rows that are not whole blocks of
256 weights get 5 bits instead. Every other matrix gets Q4_K.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize


def install(folder: Path) -> Path:
    """Write an executable ``llama-quantize`` into ``folder`` and return the folder, for ``PATH``."""
    folder.mkdir()
    program = folder / "llama-quantize"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    program.chmod(0o755)
    return folder


def available() -> bool:
    """Return whether llama.cpp's function is exported."""
    return hasattr(_library(), "ggml_quantize_chunk")


def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    assert spec
    assert spec.origin
    (file,) = Path(spec.origin).parent.glob("xllamacpp*.so")
    return ctypes.CDLL(str(file))


def _quantizer() -> Any:
    quantize = _library().ggml_quantize_chunk
    quantize.restype = ctypes.c_size_t
    quantize.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p)
    return quantize


def _quantized(values: np.ndarray, quantize: Any) -> tuple[np.ndarray, GGMLQuantizationType]:
    kind = GGMLQuantizationType.Q4_K if values.shape[1] % 256 == 0 else GGMLQuantizationType.Q5_0
    block, size = GGML_QUANT_SIZES[kind]
    result = np.empty((values.shape[0], values.shape[1] // block * size), np.uint8)
    written = quantize(kind.value, values.ctypes.data, result.ctypes.data, 0, *values.shape, None)
    assert written == result.nbytes
    return result, kind


def main(source: str, target: str, precision: str) -> None:
    """Quantize the matrices in ``source``."""
    assert precision == "Q4_K_M", precision
    quantize, reader = _quantizer(), GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            value = 15 if name == "general.file_type" else field.contents()
            inner = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(name, value, field.types[0], inner)
    for tensor in reader.tensors:
        values = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            data, kind = _quantized(values, quantize)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
