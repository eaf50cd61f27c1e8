import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.core.errors import ModelError
from mlxtune.core.safetensors import MAX_HEADER_BYTES, read_header

F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def file(folder: Path, header: Any, data: int = 24, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "x.safetensors"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + b"\0" * data)
    return path


def test_tensors_are_ordered_by_offset(tmp_path: Path) -> None:
    header = {"b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}, "a": F32, "__metadata__": {"format": "mlx"}}
    result = read_header(file(tmp_path, header, 32))
    start = 8 + len(json.dumps(header))
    tensors = [(item.name, item.start - start, item.size, item.numbers) for item in result.tensors.values()]
    assert tensors == [("a", 0, 24, 6), ("b", 24, 8, 4)]
    assert result.metadata == {"format": "mlx"}


def test_files_of_the_safetensors_library_are_read(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {"x": np.ones((3, 5), np.float16), "y.z": np.zeros((0, 4), np.float32), "s": np.array(1.0, np.float32)}
    save_file(arrays, tmp_path / "x.safetensors")
    tensors = read_header(tmp_path / "x.safetensors").tensors
    assert {name: item.shape for name, item in tensors.items()} == {"x": (3, 5), "y.z": (0, 4), "s": ()}


def test_mlx_files_without_metadata_are_read(tmp_path: Path) -> None:
    assert read_header(file(tmp_path, {"a": F32, "__metadata__": None})).metadata == {}


@pytest.mark.parametrize(
    ("header", "data", "length", "reason"),
    [
        (b"", 0, None, "invalid header length"),
        (b"{}", 0, 2**63, "invalid header length"),
        (b"{}", 0, 2**64 - 1, "invalid header length"),
        ({"a": F32}, 23, None, "end at byte"),
        ({"a": F32}, 25, None, "end at byte"),
        (b"not json", 0, None, "invalid header"),
        (b"\xff\xfe{}", 0, None, "invalid header"),
        (b"[" * 100_000, 0, None, "nested too deeply"),
        (b"[1]", 0, None, "the header is not a JSON object"),
        ({"a": [1]}, 0, None, "must have dtype, shape, and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [2, 3]}}, 24, None, "must have dtype, shape, and data_offsets"),
        ({"a": {**F32, "more": 1}}, 24, None, "must have dtype, shape, and data_offsets"),
        ({"a": {**F32, "dtype": "P32"}}, 24, None, "unknown dtype P32"),
        ({"a": {**F32, "shape": [-2, -3]}}, 24, None, "invalid shape"),
        ({"a": {**F32, "shape": [True, 6]}}, 24, None, "invalid shape"),
        ({"a": {**F32, "shape": [2.0, 3]}}, 24, None, "invalid shape"),
        ({"a": {**F32, "shape": [2**40, 2**40]}}, 24, None, "does not match shape"),
        ({"a": {**F32, "shape": [2, 4]}}, 24, None, "does not match shape"),
        ({"a": {**F32, "data_offsets": [24, 0]}}, 24, None, "does not match shape"),
        ({"a": {**F32, "data_offsets": [-24, 0]}}, 24, None, "invalid shape"),
        ({"a": F32, "b": F32}, 24, None, "b overlaps"),
        ({"a": F32, "b": {**F32, "data_offsets": [12, 36]}}, 36, None, "b overlaps"),
        ({"a": F32, "b": {**F32, "data_offsets": [30, 54]}}, 54, None, "b leaves a gap"),
        (b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), 24, None, "the key 'a' occurs twice"),
        (b'{"a": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 24]}}', 24, None, "the header contains NaN"),
        ({"": F32}, 24, None, "invalid tensor name ''"),
        ({"\x1b[2J": F32}, 24, None, "invalid tensor name"),
        ({"x" * 600: F32}, 24, None, "invalid tensor name"),
        ({"a": F32, "__metadata__": {"a": 1}}, 24, None, "metadata"),
        ({"a": F32, "__metadata__": ["a"]}, 24, None, "metadata"),
    ],
)
def test_a_hostile_header_is_refused_with_the_reason(
    tmp_path: Path, header: Any, data: int, length: int | None, reason: str
) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        read_header(file(tmp_path, header, data, length))
    assert "x.safetensors" in caught.value.message
    assert "\x1b" not in caught.value.message


def test_a_huge_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with path.open("wb") as stream:
        stream.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{")
        stream.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(ModelError, match="the header is too long"):
        read_header(path)


def test_links_pipes_and_folders_are_not_opened(tmp_path: Path) -> None:
    valid_file = file(tmp_path, {"a": F32})
    (tmp_path / "link").symlink_to(valid_file)
    os.mkfifo(tmp_path / "pipe")
    reasons = {"link": "symbolic link", "pipe": "not a regular file", "": "not a regular file", "none": "There is no"}
    for name, reason in reasons.items():
        with pytest.raises(ModelError, match=reason):
            read_header(tmp_path / name)
    assert read_header(tmp_path / "link", follow=True).tensors.keys() == {"a"}


@pytest.mark.slow
@given(
    st.binary(max_size=300)
    | st.dictionaries(st.text(max_size=5), st.recursive(st.integers() | st.text(), st.lists)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_are_a_header_or_a_model_error(tmp_path_factory: pytest.TempPathFactory, text: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    for content in (text, len(text).to_bytes(8, "little") + text):
        (folder / "any").write_bytes(content)
        try:
            read_header(folder / "any")
        except ModelError:
            continue
