import datetime
import decimal
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxtune.core.errors import DataError, InputError
from mlxtune.data import importer, parquet
from mlxtune.data.access.records import RecordFile

pyarrow = pytest.importorskip("pyarrow")
pyarrow_parquet = pytest.importorskip("pyarrow.parquet")

CHAT = {"messages": [{"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "On its way."}], "id": 7}


def write(path: Path, rows: list[dict[str, Any]], schema: Any = None, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow_parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), path, **options)
    return path


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


pytestmark = pytest.mark.usefixtures("fresh_home")


def test_structs_and_lists_become_objects_and_arrays_without_nulls(tmp_path):
    call = {"role": "assistant", "content": None, "calls": [{"name": "f", "arguments": {"city": "Bern"}}]}
    other = {"role": "assistant", "content": "é", "calls": [{"name": "g", "arguments": {"day": 3}}, None]}
    file = write(tmp_path / "rows.parquet", [CHAT | {"turns": [call, other]}, {"messages": [], "id": None}])
    out = importer.locate(str(file))
    assert out.name == "rows.jsonl"
    del call["content"]
    assert rows_in(out) == [CHAT | {"turns": [call, other]}, {"messages": []}]


def test_other_types_have_a_form_in_json(tmp_path):
    time = datetime.datetime(2025, 1, 2, 3, 4, 5, 678901)
    utc = time.replace(tzinfo=datetime.UTC)
    columns = {
        "ns": (pyarrow.timestamp("ns"), time, "2025-01-02T03:04:05.678901"),
        "utc": (pyarrow.timestamp("ms", "UTC"), utc, "2025-01-02T03:04:05.678000+00:00"),
        "nested": (pyarrow.list_(pyarrow.struct({"at": pyarrow.timestamp("ns")})), [{"at": time}], [{"at": time.isoformat()}]),
        "date": (pyarrow.date32(), time.date(), "2025-01-02"),
        "time": (pyarrow.time64("ns"), time.time(), "03:04:05.678901"),
        "price": (pyarrow.decimal128(5, 2), decimal.Decimal("12.50"), "12.50"),
        "score": (pyarrow.list_(pyarrow.float64()), [0.5, float("nan"), float("inf")], [0.5, None, None]),
        "map": (pyarrow.map_(pyarrow.string(), pyarrow.int64()), {"a": 1}, {"a": 1}),
        "vector": (pyarrow.list_(pyarrow.int8(), 2), [1, 2], [1, 2]),
        "label": (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), "refund", "refund"),
        "bytes": (pyarrow.binary(), "café".encode(), "café"),
    }
    row = {name: value for name, (_, value, _) in columns.items()} | {"map": list({"a": 1}.items())}
    schema = pyarrow.schema({name: kind for name, (kind, _, _) in columns.items()})
    file = write(tmp_path / "rows.parquet", [row], schema)
    assert rows_in(parquet.to_json_lines([file])) == [{name: shown for name, (_, _, shown) in columns.items()}]


def test_nanoseconds_are_cut(tmp_path):
    column = pyarrow.array([1_000_000_001], pyarrow.timestamp("ns"))
    file = write(tmp_path / "rows.parquet", [{"at": column[0]}], pyarrow.schema({"at": column.type}))
    assert rows_in(parquet.to_json_lines([file])) == [{"at": "1970-01-01T00:00:01"}]


def test_rows_are_read_in_batches(tmp_path):
    """Damage in the last of many row groups is found after the first rows were converted, and leaves the old copy."""
    rows = [{"text": f"row {index} " + "x" * 50} for index in range(1000)]
    file = write(tmp_path / "rows.parquet", rows, row_group_size=100, compression="zstd")
    out = parquet.to_json_lines([file])
    assert rows_in(out) == rows
    sizes = [chunk.count(b"\n") for chunk in parquet._chunks(file)]
    assert (sum(sizes), max(sizes) <= parquet._BATCH) == (1000, True)
    content = bytearray(file.read_bytes())
    page = pyarrow_parquet.read_metadata(file).row_group(9).column(0).dictionary_page_offset
    content[page : page + 100] = b"\xff" * 100
    file.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        parquet.to_json_lines([file])
    assert rows_in(out) == rows
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not a table at all", b"PAR1" + b"\xff" * 60 + b"PAR1"])
def test_damaged_files_are_refused(tmp_path, content):
    file = tmp_path / "rows.parquet"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet cannot be read as Parquet: ") as caught:
        importer.locate(str(file))
    assert caught.value.hint


def test_a_binary_column_is_named_with_a_command_that_leaves_it_out(tmp_path):
    row = {"text": "one", "image": {"bytes": b"\x89PNG\xff", "path": "a.png"}}
    file = write(tmp_path / "it's.parquet", [row])
    with pytest.raises(DataError, match=r"binary value in the column image\.bytes") as caught:
        importer.locate(str(file))
    command = shlex.split(caught.value.hint[caught.value.hint.index("python3") :])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    assert rows_in(importer.locate(str(tmp_path / "it's-text.parquet"))) == [{"text": "one"}]


def test_pyarrow_is_named_if_it_is_not_installed(tmp_path, monkeypatch):
    file = write(tmp_path / "rows.parquet", [CHAT])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="requires pyarrow") as caught:
        importer.locate(str(file))
    assert caught.value.hint == "Run: pip install 'mlxtune[parquet]'"


def test_the_shards_of_the_training_split_of_a_folder_are_read_in_order(tmp_path):
    folder = tmp_path / "data"
    for name in ("train-00001-of-00002-0123456789abcdef", "train-00000-of-00002-fedcba9876543210", "test-00000-of-00001"):
        write(folder / f"{name}.parquet", [{"text": name}])
    out = importer.locate(str(folder))
    assert out.name == "train.jsonl"
    assert [row["text"][:11] for row in rows_in(out)] == ["train-00000", "train-00001"]
    assert [row["text"] for row in rows_in(importer.locate(str(folder), "test.parquet"))] == ["test-00000-of-00001"]
    (folder / "train-00000-of-00002-fedcba9876543210.parquet").unlink()
    with pytest.raises(DataError, match=r"train\.parquet is incomplete: there are 1 of 2 shards"):
        importer.locate(str(folder))
    (folder / "train.jsonl").write_text("{}\n")
    assert importer.locate(str(folder)) == folder


def test_other_commands_name_the_one_that_converts(tmp_path):
    file = write(tmp_path / "my rows.parquet", [CHAT])
    with pytest.raises(DataError, match="a Parquet file") as caught:
        RecordFile(file)
    assert caught.value.hint == f"Convert it with: mlxtune data import '{file}' --out '{file.with_suffix('.jsonl')}'"
