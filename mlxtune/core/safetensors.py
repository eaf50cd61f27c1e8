"""Validate the header of a safetensors file. No file is memory-mapped before its header has been validated here.

A file (https://huggingface.co/docs/safetensors) has an eight-byte length, a JSON object of that length, and then the tensors' bytes
without gaps.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.files import open_regular, unique_object
from mlxtune.core.text import one_line

MAX_HEADER_BYTES = 2**25  # a model with 100,000 tensors needs a third of this
_MAX_TENSORS = 200_000
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """A tensor in a file. Its bytes range from ``start`` to ``end``, counted from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.end - self.start

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """A file's tensors by name, in the order of their bytes, and its free-text ``metadata``."""

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]


def read_header(file: Path, *, follow: bool = False) -> Header:
    """Read the header of ``file``. With ``follow``, it may be a symbolic link, as in the Hub's cache.

    Raise ``ModelError`` with the reason if it is not a valid safetensors file.
    """
    try:
        stream = open_regular(file, follow=follow)
    except InputError as error:
        raise ModelError(error.message, hint=error.hint) from error
    with stream:
        try:
            return _parse(stream.read(8), stream.read, os.fstat(stream.fileno()).st_size)
        except (OSError, ValueError, RecursionError) as error:
            reason = "the header is nested too deeply" if isinstance(error, RecursionError) else one_line(str(error), 160)
            raise ModelError(f"{file} has an invalid header: {reason}.", hint="It is damaged, or no safetensors file.") from error


def _parse(head: bytes, read: Any, size: int) -> Header:
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= size - 8:
        raise ValueError(f"invalid header length for a file of {size:,} bytes")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"the header is too long ({length:,} bytes)")
    entries = json.loads(read(length).decode("utf-8"), object_pairs_hook=unique_object, parse_constant=_constant)
    if not isinstance(entries, dict):
        raise ValueError("the header is not a JSON object")
    metadata = entries.pop("__metadata__", None) or {}  # mlx writes null for none
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata values are not strings")
    if len(entries) > _MAX_TENSORS:
        raise ValueError(f"the header lists too many tensors ({len(entries):,})")
    tensors = sorted((_tensor(name, entry, 8 + length) for name, entry in entries.items()), key=lambda item: (item.start, item.end))
    offset = 8 + length
    for tensor in tensors:
        if tensor.start != offset:
            problem = "overlaps the tensor before it" if tensor.start < offset else "leaves a gap before it"
            raise ValueError(f"{tensor.name} {problem}")
        offset = tensor.end
    if offset != size:
        raise ValueError(f"the tensors end at byte {offset:,}, but the file ends at byte {size:,}")
    return Header({tensor.name: tensor for tensor in tensors}, metadata)


def _tensor(name: str, entry: Any, origin: int) -> TensorInfo:
    shown = one_line(name, 60)
    if not name or len(name) > 512 or not name.isprintable():
        raise ValueError(f"invalid tensor name {shown!r}")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end], **more} if not more:
            pass
        case _:
            raise ValueError(f"{shown} must have dtype, shape, and data_offsets, and nothing else")
    if dtype not in _BITS:
        raise ValueError(f"{shown} has the unknown dtype {one_line(dtype, 20)}")
    if len(shape) > 8 or not all(type(side) is int and 0 <= side < 2**48 for side in (*shape, start, end)):
        raise ValueError(f"{shown} has an invalid shape or offset")
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise ValueError(f"{shown} has {end - start:,} bytes, which does not match shape {list(shape)} with dtype {dtype}")
    return TensorInfo(name, dtype, tuple(shape), origin + start, origin + end)


def _constant(name: str) -> Any:
    raise ValueError(f"the header contains {name}")
