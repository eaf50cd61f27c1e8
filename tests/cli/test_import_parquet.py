import io
import json
from pathlib import Path
from typing import Any

import pytest
from hub_stub import Repo

pyarrow = pytest.importorskip("pyarrow")
pyarrow_parquet = pytest.importorskip("pyarrow.parquet")


def table(rows: list[dict[str, Any]]) -> bytes:
    file = io.BytesIO()
    pyarrow_parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def dataset(hub_server) -> dict[str, bytes]:
    """The files of the dataset owner/shop on the local Hub: two shards for training, and others."""
    names = ("train-00001-of-00002", "train-00000-of-00002", "test-00000-of-00001")
    shop = {"README.md": b"# Shop"}
    for name in names:
        rows = [{"question": f"{name} {index}", "reply": "yes" if index else None} for index in range(3)]
        shop[f"data/{name}.parquet"] = table(rows)
    hub_server.repos["owner/shop"] = Repo(shop)
    return shop


@pytest.mark.slow
def test_a_hub_dataset_is_imported_with_its_shards_in_order(refused, cli, cwd, dataset):
    arguments = ("data", "import", "owner/shop", "--out", "shop.jsonl", "--map", "prompt=question,completion=reply")
    refused(arguments, "--skip-bad")
    result = cli(*arguments, "--skip-bad")
    assert (result.code, "4 rows" in result.out) == (0, True), result.err
    questions = [row["messages"][0]["content"] for row in rows_in(cwd / "shop.jsonl")]
    assert questions == [f"train-0000{shard}-of-00002 {index}" for shard in (0, 1) for index in (1, 2)]


@pytest.mark.parametrize(
    ("file", "first", "count"), [("data/test.parquet", "test-", 2), ("data/train-00001-of-00002.parquet", "train-00001", 2)]
)
def test_file_selects_a_split_or_a_single_shard(cli, cwd, dataset, file, first, count):
    mapping = "prompt=question,completion=reply"
    assert cli("data", "import", "owner/shop", "--file", file, "--out", "a.jsonl", "--map", mapping, "--skip-bad").code == 0
    rows = rows_in(cwd / "a.jsonl")
    assert (len(rows), rows[0]["messages"][0]["content"].startswith(first)) == (count, True)


def test_wrong_files_and_damaged_downloads_are_reported(refused, cwd, dataset):
    refused(("data", "import", "owner/shop", "--file", "data/valid.parquet", "--out", "a.jsonl"), "has no file data/valid.parquet")
    dataset["data/train-00001-of-00002.parquet"] = b"PAR1 cut off"
    refused(("data", "import", "owner/shop", "--out", "a.jsonl"), "cannot be read as Parquet")
    assert not (cwd / "a.jsonl").exists()


@pytest.mark.slow
def test_init_and_recipes_name_the_import(refused, cwd, rows_in_process):
    (cwd / "rows.parquet").write_bytes(table([{"prompt": "q", "completion": "a"}]))
    for arguments in (("init", "--from", "rows.parquet"), ("data", "check", "rows.parquet")):
        refused(arguments, "mlxtune data import")
    (cwd / "r.toml").write_text('name = "r"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "rows.parquet"\n')
    refused(("data", "check", "r.toml"), "mlxtune data import")


def test_a_folder_of_documents_is_imported_as_texts(ok, cwd):
    notes = cwd / "notes"
    (notes / "old").mkdir(parents=True)
    (notes / "trails.md").write_text("# Trails\n\nKeep left.\n")
    (notes / "old" / "huts.txt").write_text("Huts open in June.")
    (notes / "empty.txt").write_text("\n")
    ok("data", "import", "notes", "--out", "texts.jsonl")
    rows = rows_in(cwd / "texts.jsonl")
    assert [(row["text"], row["meta"]["file"]) for row in rows] == [
        ("Huts open in June.", "old/huts.txt"), ("# Trails\n\nKeep left.\n", "trails.md"),
    ]  # fmt: skip
