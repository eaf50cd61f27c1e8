"""The header of a safetensors file, read as what it is: text from a stranger. Nothing maps a file whose header was not read here.

The format (https://huggingface.co/docs/safetensors): eight bytes of length, a JSON object of that length, then the tensors' bytes,
which follow each other without a gap. Whatever does not hold to that is refused with the reason.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError, ModelError
from mlxtune.core.files import open_regular
from mlxtune.core.text import one_line

LONGEST = 2**25  # bytes of a header: that of a model with 100,000 tensors has a third of them
_MOST = 200_000  # tensors
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Tensor:
    """One array of a file: where its bytes stand, from the file's start."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file holds, by name, in the order of its bytes; ``metadata`` is free text that its maker left."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_header(file: Path, *, follow: bool = False) -> Header:
    """The header of ``file``, which is no symbolic link unless these are to be followed, as the hub's cache needs.

    Raises ``ModelError`` with the reason unless it is whole, regular safetensors.
    """
    try:
        stream = open_regular(file, follow=follow)
    except InputError as error:
        raise ModelError(error.message, mend=error.mend) from error
    with stream:
        try:
            return _parse(stream.read(8), stream.read, os.fstat(stream.fileno()).st_size)
        except (OSError, ValueError, RecursionError) as error:
            reason = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(str(error), 160)
            raise ModelError(f"{file} has a broken header: {reason}.", mend="It is no whole safetensors file.") from error


def _parse(head: bytes, read: Any, size: int) -> Header:
    length = int.from_bytes(head, "little")
    if len(head) < 8 or not 2 <= length <= size - 8:
        raise ValueError(f"its length is impossible for a file of {size:,} bytes")
    if length > LONGEST:
        raise ValueError(f"it says that it is {length:,} bytes long")
    found = json.loads(read(length).decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant)
    if not isinstance(found, dict):
        raise ValueError("it is not an object")
    metadata = found.pop("__metadata__", None) or {}  # mlx writes null where there is none
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its metadata is not text by name")
    if len(found) > _MOST:
        raise ValueError(f"it names {len(found):,} tensors")
    tensors = sorted((_tensor(name, entry, 8 + length) for name, entry in found.items()), key=lambda item: (item.start, item.end))
    at = 8 + length
    for tensor in tensors:
        if tensor.start != at:
            what = "overlaps what stands before it" if tensor.start < at else "leaves a gap before it"
            raise ValueError(f"{tensor.name} {what}")
        at = tensor.end
    if at != size:
        raise ValueError(f"its tensors end at byte {at:,}, the file at {size:,}")
    return Header({tensor.name: tensor for tensor in tensors}, metadata)


def _tensor(name: str, entry: Any, origin: int) -> Tensor:
    shown = one_line(name, 60)
    if not name or len(name) > 512 or not name.isprintable():
        raise ValueError(f"a tensor is called {shown!r}")
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [start, end], **more} if not more:
            pass
        case _:
            raise ValueError(f"{shown} is not described by dtype, shape and data_offsets")
    if dtype not in _BITS:
        raise ValueError(f"{shown} has the unknown type {one_line(dtype, 20)}")
    if len(shape) > 8 or not all(type(side) is int and 0 <= side < 2**48 for side in (*shape, start, end)):
        raise ValueError(f"{shown} has an impossible shape or place")
    if (end - start) * 8 != math.prod(shape) * _BITS[dtype]:
        raise ValueError(f"{shown} has {end - start:,} bytes, which its shape {list(shape)} in {dtype} does not make")
    return Tensor(name, dtype, tuple(shape), origin + start, origin + end)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a name stand twice; then one reader sees another file than the next."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{one_line(name, 60)} stands in it twice")
        found[name] = value
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} stands in it")
