"""Quantize matrices with llama.cpp's own function, from the package xllamacpp, mixing types as llama-quantize does.

Source: ``llama_tensor_get_type_impl`` and ``tensor_type_fallback`` in llama.cpp's ``src/llama-quant.cpp``, at commit 007dbbf. The rules for models
with exactly 8 experts, for Falcon, and for Llama 70B are left out.
"""

from __future__ import annotations

import ctypes
import os
import re
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Type

MIXES = {  # the type of most matrices, and the file's type
    "q6_k": (Type.Q6_K, LlamaFileType.MOSTLY_Q6_K),
    "q5_k_m": (Type.Q5_K, LlamaFileType.MOSTLY_Q5_K_M),
    "q4_k_m": (Type.Q4_K, LlamaFileType.MOSTLY_Q4_K_M),
    "q3_k_m": (Type.Q3_K, LlamaFileType.MOSTLY_Q3_K_M),
}
TYPES = frozenset({*(main for main, _ in MIXES.values()), Type.Q4_0, Type.Q5_0, Type.Q5_1})
_FALLBACK = {Type.Q3_K: Type.Q4_0, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}  # for rows of no whole blocks
_LIKE_V = ("attn_v", "attn_qkv", "attn_kv_b")


def matrix_type(precision: str, tensor: str, row: int, layers: int, *, tied: bool) -> Type:
    """Return the type of a matrix with rows of ``row`` weights. ``tied`` means that the embedding is also the output."""
    kind, found = MIXES[precision][0], re.match(r"blk\.(\d+)\.", tensor)
    layer, part = int(found[1]) if found else 0, tensor.removesuffix(".weight").rpartition(".")[2]
    three = kind is Type.Q3_K
    if part == "output" or (part == "token_embd" and tied):
        kind = Type.Q6_K
    elif part in _LIKE_V and three:
        kind = Type.Q5_K if layer < 2 else Type.Q4_K
    elif part.startswith("ffn_down") and three:
        kind = Type.Q5_K if layer < layers // 16 else Type.Q4_K
    elif part in _LIKE_V or part.startswith("ffn_down"):
        few, many = layers // 8, 7 * layers // 8
        kind = Type.Q6_K if layer < few or layer >= many or (layer - few) % 3 == 2 else kind
    elif part == "attn_output" and three:
        kind = Type.Q4_K
    return kind if row % GGML_QUANT_SIZES[kind][0] == 0 else _FALLBACK[kind]


def quantize(values: np.ndarray[Any, Any], type: Type) -> np.ndarray[Any, Any]:
    """Return ``values`` ``(..., row)`` as the bytes of blocks of ``type``, without an importance matrix."""
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, values.shape[-1])
    block, size = GGML_QUANT_SIZES[type]
    result = np.empty((*values.shape[:-1], values.shape[-1] // block * size), np.uint8)
    library, starts = _library(), np.linspace(0, len(rows), (os.cpu_count() or 1) + 1, dtype=int).tolist()

    def quantize_rows(begin: int, end: int) -> int:
        place = begin * rows.shape[1], end - begin, rows.shape[1]
        return int(library.ggml_quantize_chunk(type.value, rows.ctypes.data, result.ctypes.data, *place, None))

    with ThreadPoolExecutor() as pool:
        written = sum(pool.map(quantize_rows, starts[:-1], starts[1:]))
    assert written == result.nbytes
    return result


@cache
def _library() -> ctypes.CDLL:
    spec = find_spec("xllamacpp")
    assert spec
    assert spec.origin
    library = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p)
    return library
