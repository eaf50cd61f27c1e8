"""The adapter library: listing, lookup, renaming, removal and restore, without importing mlx."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_files import write_evaluation

from mlxtune.adapters import library
from mlxtune.adapters.compare import compare
from mlxtune.adapters.entry import data_hash
from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs.locks import file_lock

from .conftest import arrays, config, write

FIRST, SECOND = "20261124-1412-shop", "20261125-0900-voice"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_list_shows_runs_and_folders_newest_first(place: Path, shop, source) -> None:
    shop(FIRST)
    shop(SECOND, made="2026-11-25T09:00:00+0100", rank=8, kind="dora", targets=("q_proj",))
    write(place / "adapters" / "other", arrays(layers=(1,)), config(), {"made": "2026-01-01T00:00:00+0000", "base": "x"})
    found = library.all_adapters(place)
    assert [item.name for item in found] == [SECOND, FIRST, "other"]
    one = found[0]
    assert (one.kind, one.rank, one.scale, one.targets, one.layers) == ("dora", 8, 2.0, ("self_attn.q_proj",), 2)
    assert (one.base, one.base_hash, one.run, one.method) == (source.name, source.fingerprint, SECOND, "sft")
    assert (one.recipe_hash, one.data_hash) == ("1" * 64, "2" * 64)
    assert one.created == 1795593600.0  # 2026-11-25 08:00 UTC
    assert one.size == 4 * one.parameters == 4 * 2 * (8 * 128 + 64)
    assert (one.problem, one.score, one.tags) == ("", None, ())
    assert one.sha256() == sha256_file(place / "runs" / SECOND / "adapter" / WEIGHTS)


def test_invalid_folder_is_listed_with_problem_and_unusable(place: Path, shop) -> None:
    shop(FIRST)
    file = place / "runs" / FIRST / "adapter" / WEIGHTS
    file.write_bytes(b"\x80\x05 a pickle")
    (place / "adapters" / "empty").mkdir(parents=True)
    by_name = {item.name: item for item in library.all_adapters(place)}
    assert "invalid header" in by_name[FIRST].problem
    assert "There is no file adapter_config.json" in by_name["empty"].problem
    with pytest.raises(InputError, match="cannot be used"):
        library.find_usable(place, FIRST)


@pytest.mark.parametrize(
    "told", ["{", "[]", '{"base": 5, "parent": [], "made": "soon", "evaluation": {"before": [{"metric": 1}]}}']
)
def test_unreadable_lineage_is_ignored(place: Path, shop, told: str) -> None:
    folder = shop(FIRST)
    (folder / "mlxtune.json").write_text(told)
    (found,) = library.all_adapters(place)
    assert (found.name, found.base, found.score, found.problem) == (FIRST, "", None, "")


def test_newest_evaluation_of_run_gives_score(place: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND)
    evaluation = write_evaluation(place)
    report = json.loads((evaluation / "report.json").read_text())
    report["facts"]["run"] = FIRST
    (evaluation / "report.json").write_text(json.dumps(report))
    score = library.find(place, FIRST).score
    assert score is not None
    assert (score.outcome, score.rows, score.rival, score.folder) == ("cannot tell", 4, "base", evaluation)
    before, after = score.rate()
    assert (before.hits, after.hits, after.total) == (1, 3, 4)
    assert library.find(place, SECOND).score is None


def test_adapter_is_found_by_name_run_folder_or_partial_name(place: Path, shop, monkeypatch) -> None:
    folder = shop(FIRST)
    shop(SECOND)
    monkeypatch.chdir(place)
    library.rename(place, SECOND, "kind-voice")
    for which in (FIRST, "1412", f"runs/{FIRST}/adapter", str(folder)):
        assert library.find(place, which).name == FIRST
    for which in ("kind-voice", SECOND, "kind", "last"):
        assert library.find(place, which).key == f"runs/{SECOND}/adapter"
    with pytest.raises(InputError, match="There is no adapter kind-vioce") as caught:
        library.find(place, "kind-vioce")
    assert caught.value.hint == "Did you mean kind-voice?"
    with pytest.raises(InputError, match="is ambiguous"):
        library.find(place, "o")
    with pytest.raises(InputError, match="There are no adapters"):
        library.find(place / "runs", "last")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "base", "last", "x" * 65, "a b", "a\x1b[2J", "\u202egnp"])
def test_invalid_adapter_name_is_refused(place: Path, shop, name: str) -> None:
    shop(FIRST)
    with pytest.raises(InputError, match="is not a valid adapter name") as caught:
        library.rename(place, FIRST, name)
    assert "\x1b" not in caught.value.message


def test_adapter_names_are_unique(place: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND)
    library.rename(place, FIRST, "one")
    for name in ("one", SECOND):
        with pytest.raises(InputError, match="already exists"):
            library.rename(place, SECOND if name == "one" else "one", name)
    assert library.rename(place, "one", "one").name == "one"


def test_tags_are_added_removed_and_sorted(place: Path, shop) -> None:
    shop(FIRST)
    library.tag(place, FIRST, ["best", "json"])
    assert library.tag(place, FIRST, ["json", "shipped"], ["best"]).tags == ("json", "shipped")
    assert library.find(place, FIRST).tags == ("json", "shipped")
    with pytest.raises(InputError, match="has no tag best"):
        library.tag(place, FIRST, drop=["best"])
    with pytest.raises(InputError, match="is not a valid tag"):
        library.tag(place, FIRST, ["two words"])


def test_removed_adapter_is_restored_unchanged(place: Path, shop) -> None:
    folder = shop(FIRST)
    library.rename(place, FIRST, "one")
    library.tag(place, "one", ["best"])
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    gone = library.remove(place, "one")
    assert library.all_adapters(place) == []
    assert not folder.exists()
    assert library.removed(place) == [gone]
    back = library.restore(place)
    assert (back.name, back.tags, back.key) == ("one", ("best",), f"runs/{FIRST}/adapter")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before
    assert library.removed(place) == []
    with pytest.raises(InputError, match="No adapter has been removed"):
        library.restore(place)


def test_last_removed_is_restored_first_or_by_name(place: Path, shop) -> None:
    for run in (FIRST, SECOND):
        shop(run)
        library.remove(place, run)
    assert library.restore(place).name == SECOND
    with pytest.raises(InputError, match="no removed adapter named x"):
        library.restore(place, "x")
    assert library.restore(place, FIRST).name == FIRST


def test_restore_does_not_overwrite(place: Path, shop) -> None:
    write(place / "adapters" / "one", arrays(), config())
    library.remove(place, "one")
    write(place / "adapters" / "one", arrays(seed=9), config())
    mine = sha256_file(place / "adapters" / "one" / WEIGHTS)
    with pytest.raises(InputError, match="Another adapter now uses"):
        library.restore(place)
    assert sha256_file(place / "adapters" / "one" / WEIGHTS) == mine


def test_adapter_of_active_run_cannot_be_removed(place: Path, shop) -> None:
    folder = shop(FIRST)
    with file_lock(folder.parent / "run.lock", busy_message=""), pytest.raises(InputError, match="is still running"):
        library.remove(place, FIRST)
    assert folder.exists()


def test_crash_between_journal_and_move_loses_nothing(place: Path, shop, monkeypatch) -> None:
    folder = shop(FIRST)
    with monkeypatch.context() as patched:
        patched.setattr(library, "_move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            library.remove(place, FIRST)
    assert folder.exists()
    assert [item.name for item in library.all_adapters(place)] == [FIRST]
    assert library.removed(place) == []
    library.remove(place, FIRST)
    assert library.restore(place).name == FIRST


def test_forged_journal_moves_nothing_outside_library(place: Path, shop) -> None:
    shop(FIRST)
    victim = place.parent / "victim"
    victim.mkdir()
    (place / "adapters" / ".trash").mkdir(parents=True)
    lines = [
        {"do": "remove", "key": "runs/x/adapter", "name": "a", "trash": "../../../victim", "t": 1},
        {"do": "remove", "key": "../../outside", "name": "b", "trash": "x", "t": 2},
        {"do": "name", "key": 5, "name": ["x"]},
    ]
    (place / "adapters" / ".trash" / "x").mkdir()
    (place / "adapters" / "library.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{torn")
    assert library.removed(place) == []
    assert [item.name for item in library.all_adapters(place)] == [FIRST]
    library.tag(place, FIRST, ["still-works"])


def test_children_are_adapters_trained_from_parent(place: Path, shop) -> None:
    folder = shop(FIRST)
    shop(SECOND, parent={"folder": str(folder), "sha256": "3" * 64, "lineage": {"run": FIRST}})
    found = library.find(place, SECOND)
    assert (found.parent.run, found.parent.sha256) == (FIRST, "3" * 64)
    assert [item.name for item in library.children(place, library.find(place, FIRST))] == [SECOND]


def test_two_adapters_are_compared_by_config_and_evaluation(place: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND, rank=8)
    one, two = library.find(place, FIRST), library.find(place, SECOND)
    found = compare(place, one, two)
    by_name = {fact.name: fact for fact in found.facts}
    assert by_name["base"].same
    assert (by_name["rank"].first, by_name["rank"].second) == ("4, scale 2", "8, scale 2")
    assert not by_name["weights"].same
    assert found.contrast is None
    assert found.reason == f"{FIRST} has not been evaluated in this workspace."
    assert {fact.name: fact for fact in compare(place, one, one).facts}["weights"].first == "the same"


def test_data_hash_ignores_row_order_and_location(place: Path) -> None:
    record = {"source": "/a", "train": [{"id": "x", "line": 1}, {"id": "y", "line": 2}], "valid": ["v"], "test": ["t"]}
    other = {"source": "/b", "train": [{"id": "y", "line": 7}, {"id": "x", "line": 9}], "valid": ["v"], "test": ["t"]}
    assert data_hash(record) == data_hash(other)
    assert data_hash(record) != data_hash({**record, "train": record["train"][:1]})


def test_library_imports_neither_mlx_nor_numpy(place: Path, shop) -> None:
    shop(FIRST)
    code = (
        "import sys; from pathlib import Path; from mlxtune.adapters import library\n"
        f"place = Path({str(place)!r}); library.rename(place, 'last', 'one'); library.tag(place, 'one', ['x'])\n"
        "library.remove(place, 'one'); library.restore(place); assert library.find(place, 'one').rank == 4\n"
        "print([name for name in ('mlx', 'mlx_lm', 'numpy', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
