"""The adapter library: listing, lookup, renaming, removal and restore, without importing mlx."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_files import write_evaluation

from mlxtune.adapters import library
from mlxtune.adapters.entry import data_hash
from mlxtune.adapters.library import compare
from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.present.adapter import comparison_document
from mlxtune.present.blocks import Table
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import file_lock

from .conftest import arrays, config, write

FIRST, SECOND = "20261124-1412-shop", "20261125-0900-voice"


@pytest.fixture
def first(shop) -> Path:
    """The adapter folder of the run ``FIRST``."""
    return shop(FIRST)


def test_list_shows_runs_and_folders_newest_first(empty_workspace: Path, shop, source) -> None:
    shop(FIRST)
    shop(SECOND, created="2026-11-25T09:00:00+0100", rank=8, kind="dora", targets=("q_proj",))
    write(empty_workspace / "adapters" / "other", arrays(layers=(1,)), config(), {"made": "2026-01-01T00:00:00+0000", "base": "x"})
    entries = library.all_adapters(empty_workspace)
    assert [item.name for item in entries] == [SECOND, FIRST, "other"]
    one = entries[0]
    assert (one.kind, one.rank, one.scale, one.targets, one.layers) == ("dora", 8, 2.0, ("self_attn.q_proj",), 2)
    assert (one.base, one.base_hash, one.run, one.method) == (source.name, source.fingerprint, SECOND, "sft")
    assert (one.recipe_hash, one.data_hash, one.step) == ("1" * 64, "2" * 64, 40)
    assert one.created == 1795593600.0  # 2026-11-25 08:00 UTC
    assert one.size == 4 * one.parameters == 4 * 2 * (8 * 128 + 64)
    assert (one.problem, one.score, one.tags) == ("", None, ())
    assert one.sha256() == sha256_file(empty_workspace / "runs" / SECOND / "adapter" / WEIGHTS)


def test_invalid_folder_is_listed_with_problem_and_unusable(empty_workspace: Path, first: Path) -> None:
    file = empty_workspace / "runs" / FIRST / "adapter" / WEIGHTS
    file.write_bytes(b"\x80\x05 a pickle")
    (empty_workspace / "adapters" / "empty").mkdir(parents=True)
    by_name = {item.name: item for item in library.all_adapters(empty_workspace)}
    assert "invalid header" in by_name[FIRST].problem
    assert "There is no file adapter_config.json" in by_name["empty"].problem
    with pytest.raises(InputError, match="cannot be used"):
        library.find_usable(empty_workspace, FIRST)


@pytest.mark.parametrize(
    "lineage", ["{", "[]", '{"base": 5, "parent": [], "made": "soon", "evaluation": {"before": [{"metric": 1}]}}']
)
def test_unreadable_lineage_is_ignored(empty_workspace: Path, first: Path, lineage: str) -> None:
    (first / "mlxtune.json").write_text(lineage)
    (entry,) = library.all_adapters(empty_workspace)
    assert (entry.name, entry.base, entry.score, entry.problem) == (FIRST, "", None, "")


def test_newest_evaluation_of_run_gives_score(empty_workspace: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND)
    evaluation = write_evaluation(empty_workspace)
    report = json.loads((evaluation / "report.json").read_text())
    report["facts"]["run"] = FIRST
    (evaluation / "report.json").write_text(json.dumps(report))
    score = library.find(empty_workspace, FIRST).score
    assert (score.outcome, score.rows, score.rival, score.folder) == ("cannot_tell", 4, "base", evaluation)
    before, after = score.changes[-1]
    assert (before.hits, after.hits, after.total) == (1, 3, 4)
    assert library.find(empty_workspace, SECOND).score is None


def test_adapters_that_are_listed_again_have_the_same_scores(empty_workspace: Path, shop) -> None:
    """The server lists them for each request. The index keeps only some reports ready to use."""
    evaluation = write_evaluation(empty_workspace)
    report = json.loads((evaluation / "report.json").read_text())
    for number in range(40):
        shop(f"20261124-{1200 + number}-shop")
        report["facts"]["run"] = f"20261124-{1200 + number}-shop"
        folder = evaluation.with_name(f"20261125-{1200 + number}-shop")
        shutil.copytree(evaluation, folder)
        (folder / "report.json").write_text(json.dumps(report))
    first, second = library.all_adapters(empty_workspace), library.all_adapters(empty_workspace)
    assert len(first) == 40
    assert all(one.score is not None and one.score is other.score for one, other in zip(first, second, strict=True))


def test_adapter_is_found_by_name_run_folder_or_partial_name(empty_workspace: Path, shop, monkeypatch) -> None:
    folder = shop(FIRST)
    shop(SECOND)
    monkeypatch.chdir(empty_workspace)
    library.rename(empty_workspace, SECOND, "kind-voice")
    for which in (FIRST, "1412", f"runs/{FIRST}/adapter", str(folder)):
        assert library.find(empty_workspace, which).name == FIRST
    for which in ("kind-voice", SECOND, "kind", "last"):
        assert library.find(empty_workspace, which).key == f"runs/{SECOND}/adapter"
    with pytest.raises(InputError, match="There is no adapter kind-vioce") as caught:
        library.find(empty_workspace, "kind-vioce")
    assert caught.value.hint == "Did you mean kind-voice?"
    with pytest.raises(InputError, match="is ambiguous"):
        library.find(empty_workspace, "o")


def test_without_an_adapter_the_hint_is_to_finish_a_stopped_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There are no adapters") as caught:
        library.find(tmp_path, "last")
    assert caught.value.hint == "Train one: mlxtune train RECIPE"
    (run := tmp_path / "runs" / FIRST).mkdir(parents=True)
    (run / "recipe.toml").touch()
    EventWriter(run).emit("run.stopped", step=8)
    with pytest.raises(InputError, match=f"{FIRST} has no adapter: it is stopped.") as caught:
        library.find(tmp_path, "last")
    assert caught.value.hint == f"mlxtune runs resume {FIRST}"


def test_a_checkpoint_is_an_adapter(empty_workspace: Path, shop) -> None:
    run = shop(FIRST).parent
    lineage = json.loads((run / "adapter" / "mlxtune.json").read_text())
    for step in (24, 48):
        write(run / "checkpoints" / f"{step:07d}", arrays(), config(), lineage | {"steps": step})
    found = library.find_usable(empty_workspace, "shop@24")
    assert (found.name, found.key, found.step) == (f"{FIRST}@24", f"runs/{FIRST}/checkpoints/0000024", 24)
    assert (found.base_hash, found.stem) == (lineage["base_fingerprint"], f"{FIRST}-24")
    assert library.find(empty_workspace, found.key) == found
    assert library.find(empty_workspace, FIRST).step == 40
    assert len(library.all_adapters(empty_workspace)) == 1
    with pytest.raises(InputError, match="has no checkpoint of step 36") as caught:
        library.find(empty_workspace, "shop@36")
    assert caught.value.hint == f"It has {FIRST}@24, {FIRST}@48."
    library.rename(empty_workspace, FIRST, "voice")
    assert library.find(empty_workspace, "voice@24").name == "voice@24"
    with pytest.raises(InputError, match="voice@24 is a checkpoint"):
        library.remove(empty_workspace, "voice@24")


def test_a_stopped_run_has_its_last_checkpoint(empty_workspace: Path, shop) -> None:
    run = shop(FIRST).parent
    (run / "checkpoints").mkdir()
    (run / "adapter").rename(run / "checkpoints" / "0000040")
    EventWriter(run).emit("run.stopped", step=40)
    assert {library.find(empty_workspace, which).name for which in ("last", "shop", FIRST)} == {f"{FIRST}@40"}
    shop(SECOND)
    assert library.find(empty_workspace, "shop").name == f"{FIRST}@40"
    assert library.find(empty_workspace, "last").name == SECOND


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "base", "last", "x" * 65, "a b", "a\x1b[2J", "\u202egnp"])
def test_invalid_adapter_name_is_refused(empty_workspace: Path, first: Path, name: str) -> None:
    with pytest.raises(InputError, match="is not a valid adapter name") as caught:
        library.rename(empty_workspace, FIRST, name)
    assert "\x1b" not in caught.value.message


def test_adapter_names_are_unique(empty_workspace: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND)
    library.rename(empty_workspace, FIRST, "one")
    for name in ("one", SECOND):
        with pytest.raises(InputError, match="already exists"):
            library.rename(empty_workspace, SECOND if name == "one" else "one", name)
    assert library.rename(empty_workspace, "one", "one").name == "one"


def test_tags_are_added_removed_and_sorted(empty_workspace: Path, first: Path) -> None:
    library.tag(empty_workspace, FIRST, ["best", "json"])
    assert library.tag(empty_workspace, FIRST, ["json", "shipped"], ["best"]).tags == ("json", "shipped")
    assert library.find(empty_workspace, FIRST).tags == ("json", "shipped")
    with pytest.raises(InputError, match="has no tag best"):
        library.tag(empty_workspace, FIRST, drop=["best"])
    with pytest.raises(InputError, match="is not a valid tag"):
        library.tag(empty_workspace, FIRST, ["two words"])


def test_removed_adapter_is_restored_unchanged(empty_workspace: Path, first: Path) -> None:
    library.rename(empty_workspace, FIRST, "one")
    library.tag(empty_workspace, "one", ["best"])
    before = {file.name: file.read_bytes() for file in first.iterdir()}
    gone = library.remove(empty_workspace, "one")
    assert library.all_adapters(empty_workspace) == []
    assert not first.exists()
    assert library.removed(empty_workspace) == [gone]
    back = library.restore(empty_workspace)
    assert (back.name, back.tags, back.key) == ("one", ("best",), f"runs/{FIRST}/adapter")
    assert {file.name: file.read_bytes() for file in first.iterdir()} == before
    assert library.removed(empty_workspace) == []
    with pytest.raises(InputError, match="No adapter has been removed"):
        library.restore(empty_workspace)


def test_last_removed_is_restored_first_or_by_name(empty_workspace: Path, shop) -> None:
    for run in (FIRST, SECOND):
        shop(run)
        library.remove(empty_workspace, run)
    assert library.restore(empty_workspace).name == SECOND
    with pytest.raises(InputError, match="no removed adapter named x"):
        library.restore(empty_workspace, "x")
    assert library.restore(empty_workspace, FIRST).name == FIRST


def test_restore_does_not_overwrite(empty_workspace: Path, shop) -> None:
    write(empty_workspace / "adapters" / "one", arrays(), config())
    library.remove(empty_workspace, "one")
    write(empty_workspace / "adapters" / "one", arrays(seed=9), config())
    mine = sha256_file(empty_workspace / "adapters" / "one" / WEIGHTS)
    with pytest.raises(InputError, match="Another adapter now uses"):
        library.restore(empty_workspace)
    assert sha256_file(empty_workspace / "adapters" / "one" / WEIGHTS) == mine


def test_adapter_of_active_run_cannot_be_removed(empty_workspace: Path, first: Path) -> None:
    with file_lock(first.parent / "run.lock", busy=""), pytest.raises(InputError, match="is still running"):
        library.remove(empty_workspace, FIRST)
    assert first.exists()


@pytest.mark.parametrize("request_of", [lambda folder: {"adapter": folder}, lambda folder: {"seeds": [folder]}])
def test_adapter_that_is_being_evaluated_cannot_be_removed(empty_workspace: Path, first: Path, request_of) -> None:
    evaluation = empty_workspace / "evals" / "20261127-0900-shop"
    evaluation.mkdir(parents=True)
    (evaluation / "recipe.toml").touch()
    (evaluation / "launch.json").write_text(json.dumps({"request": request_of(str(first))}))
    with file_lock(evaluation / "run.lock", busy=""), pytest.raises(InputError, match="20261127-0900-shop is using") as caught:
        library.remove(empty_workspace, FIRST)
    assert caught.value.hint.endswith("mlxtune runs stop 20261127-0900-shop")
    assert first.exists()
    library.remove(empty_workspace, FIRST)


def test_crash_between_journal_and_move_loses_nothing(empty_workspace: Path, first: Path, monkeypatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(library, "_move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            library.remove(empty_workspace, FIRST)
    assert first.exists()
    assert [item.name for item in library.all_adapters(empty_workspace)] == [FIRST]
    assert library.removed(empty_workspace) == []
    library.remove(empty_workspace, FIRST)
    assert library.restore(empty_workspace).name == FIRST


def test_forged_journal_moves_nothing_outside_library(empty_workspace: Path, first: Path) -> None:
    victim = empty_workspace.parent / "victim"
    victim.mkdir()
    (empty_workspace / "adapters" / ".trash").mkdir(parents=True)
    lines = [
        {"do": "remove", "key": "runs/x/adapter", "name": "a", "trash": "../../../victim", "t": 1},
        {"do": "remove", "key": "../../outside", "name": "b", "trash": "x", "t": 2},
        {"do": "name", "key": 5, "name": ["x"]},
    ]
    (empty_workspace / "adapters" / ".trash" / "x").mkdir()
    (empty_workspace / "adapters" / "library.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + "{torn")
    assert library.removed(empty_workspace) == []
    assert [item.name for item in library.all_adapters(empty_workspace)] == [FIRST]
    library.tag(empty_workspace, FIRST, ["still-works"])


def test_children_are_adapters_trained_from_parent(empty_workspace: Path, shop) -> None:
    folder = shop(FIRST)
    shop(SECOND, parent={"folder": str(folder), "sha256": "3" * 64, "lineage": {"run": FIRST}})
    child = library.find(empty_workspace, SECOND)
    assert (child.parent.run, child.parent.sha256) == (FIRST, "3" * 64)
    assert [item.name for item in library.children(empty_workspace, library.find(empty_workspace, FIRST))] == [SECOND]


def test_two_adapters_are_compared_by_config_and_evaluation(empty_workspace: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND, rank=8)
    one, two = library.find(empty_workspace, FIRST), library.find(empty_workspace, SECOND)
    comparison = compare(empty_workspace, one, two)
    assert (comparison.contrast, comparison.unevaluated) == (None, FIRST)
    table = next(block for block in comparison_document(comparison) if isinstance(block, Table))
    rows = {row[1].text: row for row in table.rows}
    assert [cell.text for cell in rows["rank"]] == ["~", "rank", "4, scale 2", "8, scale 2"]
    assert (rows["base"][0].text, rows["weights"][0].text) == ("", "~")
    assert len(set(compare(empty_workspace, one, one).hashes)) == 1


def test_data_hash_ignores_row_order_and_location(empty_workspace: Path) -> None:
    record = {"source": "/a", "train": [{"id": "x", "line": 1}, {"id": "y", "line": 2}], "valid": ["v"], "test": ["t"]}
    other = {"source": "/b", "train": [{"id": "y", "line": 7}, {"id": "x", "line": 9}], "valid": ["v"], "test": ["t"]}
    assert data_hash(record) == data_hash(other)
    assert data_hash(record) != data_hash({**record, "train": record["train"][:1]})


def test_library_imports_neither_mlx_nor_numpy(empty_workspace: Path, first: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mlxtune.adapters import library\n"
        f"place = Path({str(empty_workspace)!r}); library.rename(place, 'last', 'one'); library.tag(place, 'one', ['x'])\n"
        "library.remove(place, 'one'); library.restore(place); assert library.find(place, 'one').rank == 4\n"
        "print([name for name in ('mlx', 'mlx_lm', 'numpy', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
