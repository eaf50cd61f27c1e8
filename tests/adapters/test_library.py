"""The library: what is listed, found, named, taken away and brought back, without mlx and whatever lies there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from measured import measured

from mlxtune.adapters import library
from mlxtune.adapters.compare import compare
from mlxtune.adapters.entry import data_hash
from mlxtune.core.errors import InputError
from mlxtune.core.hashing import sha256_file
from mlxtune.recipe.parent import WEIGHTS
from mlxtune.runs.locks import hold

from .conftest import arrays, config, write

FIRST, SECOND = "20261124-1412-shop", "20261125-0900-voice"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_runs_and_folders_are_listed_the_newest_first_with_what_they_are(place: Path, shop, source) -> None:
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


def test_a_folder_that_is_no_adapter_is_listed_with_its_problem_and_cannot_be_used(place: Path, shop) -> None:
    shop(FIRST)
    file = place / "runs" / FIRST / "adapter" / WEIGHTS
    file.write_bytes(b"\x80\x05 a pickle")
    (place / "adapters" / "empty").mkdir(parents=True)
    by_name = {item.name: item for item in library.all_adapters(place)}
    assert "broken header" in by_name[FIRST].problem
    assert "There is no adapter_config.json" in by_name["empty"].problem
    with pytest.raises(InputError, match="cannot be used"):
        library.usable(place, FIRST)


@pytest.mark.parametrize(
    "told", ["{", "[]", '{"base": 5, "parent": [], "made": "soon", "evaluation": {"before": [{"metric": 1}]}}']
)
def test_a_lineage_that_cannot_be_read_is_no_lineage(place: Path, shop, told: str) -> None:
    folder = shop(FIRST)
    (folder / "mlxtune.json").write_text(told)
    (found,) = library.all_adapters(place)
    assert (found.name, found.base, found.score, found.problem) == (FIRST, "", None, "")


def test_the_newest_evaluation_of_its_run_says_how_good_it_is(place: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND)
    evaluation = measured(place)
    report = json.loads((evaluation / "report.json").read_text())
    report["facts"]["run"] = FIRST
    (evaluation / "report.json").write_text(json.dumps(report))
    score = library.find(place, FIRST).score
    assert score is not None
    assert (score.word, score.rows, score.rival, score.folder) == ("cannot tell", 4, "base", evaluation)
    before, after = score.rate()
    assert (before.hits, after.hits, after.total) == (1, 3, 4)
    assert library.find(place, SECOND).score is None


def test_an_adapter_is_found_by_name_run_folder_and_a_part_of_its_name(place: Path, shop, monkeypatch) -> None:
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
    assert caught.value.mend == "Did you mean kind-voice?"
    with pytest.raises(InputError, match="could be any of"):
        library.find(place, "o")
    with pytest.raises(InputError, match="There are no adapters"):
        library.find(place / "runs", "last")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "base", "last", "x" * 65, "a b", "a\x1b[2J", "\u202egnp"])
def test_a_name_that_leaves_the_folder_or_means_something_is_refused(place: Path, shop, name: str) -> None:
    shop(FIRST)
    with pytest.raises(InputError, match="cannot be called") as caught:
        library.rename(place, FIRST, name)
    assert "\x1b" not in caught.value.message


def test_a_name_is_of_one_adapter(place: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND)
    library.rename(place, FIRST, "one")
    for name in ("one", SECOND):
        with pytest.raises(InputError, match="Another adapter"):
            library.rename(place, SECOND if name == "one" else "one", name)
    assert library.rename(place, "one", "one").name == "one"


def test_tags_are_given_taken_and_kept_in_order(place: Path, shop) -> None:
    shop(FIRST)
    library.tag(place, FIRST, ["best", "json"])
    assert library.tag(place, FIRST, ["json", "shipped"], ["best"]).tags == ("json", "shipped")
    assert library.find(place, FIRST).tags == ("json", "shipped")
    with pytest.raises(InputError, match="has no tag best"):
        library.tag(place, FIRST, drop=["best"])
    with pytest.raises(InputError, match="is no tag"):
        library.tag(place, FIRST, ["two words"])


def test_what_is_removed_comes_back_as_it_was(place: Path, shop) -> None:
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
    with pytest.raises(InputError, match="No adapter was removed"):
        library.restore(place)


def test_the_last_removed_comes_back_first_and_others_by_name(place: Path, shop) -> None:
    for run in (FIRST, SECOND):
        shop(run)
        library.remove(place, run)
    assert library.restore(place).name == SECOND
    with pytest.raises(InputError, match="Nothing called x was removed"):
        library.restore(place, "x")
    assert library.restore(place, FIRST).name == FIRST


def test_what_stands_where_a_removed_one_stood_is_not_overwritten(place: Path, shop) -> None:
    write(place / "adapters" / "one", arrays(), config())
    library.remove(place, "one")
    write(place / "adapters" / "one", arrays(seed=9), config())
    mine = sha256_file(place / "adapters" / "one" / WEIGHTS)
    with pytest.raises(InputError, match="taken by another adapter"):
        library.restore(place)
    assert sha256_file(place / "adapters" / "one" / WEIGHTS) == mine


def test_a_run_at_work_keeps_its_adapter(place: Path, shop) -> None:
    folder = shop(FIRST)
    with hold(folder.parent / "run.lock", busy=""), pytest.raises(InputError, match="is running"):
        library.remove(place, FIRST)
    assert folder.exists()


def test_a_crash_between_the_journal_and_the_move_loses_nothing(place: Path, shop, monkeypatch) -> None:
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


def test_a_forged_journal_moves_nothing_that_lies_elsewhere(place: Path, shop) -> None:
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


def test_children_are_those_that_went_on_from_it(place: Path, shop) -> None:
    folder = shop(FIRST)
    shop(SECOND, parent={"folder": str(folder), "sha256": "3" * 64, "lineage": {"run": FIRST}})
    found = library.find(place, SECOND)
    assert (found.parent.run, found.parent.sha256) == (FIRST, "3" * 64)
    assert [item.name for item in library.children(place, library.find(place, FIRST))] == [SECOND]


def test_two_adapters_are_compared_by_what_they_are_and_by_their_evaluations(place: Path, shop) -> None:
    shop(FIRST)
    shop(SECOND, rank=8)
    one, two = library.find(place, FIRST), library.find(place, SECOND)
    found = compare(place, one, two)
    by_name = {fact.name: fact for fact in found.facts}
    assert by_name["base"].same
    assert (by_name["rank"].first, by_name["rank"].second) == ("4, scale 2", "8, scale 2")
    assert not by_name["weights"].same
    assert found.contrast is None
    assert found.why == f"{FIRST} was not evaluated here."
    assert {fact.name: fact for fact in compare(place, one, one).facts}["weights"].first == "the same"


def test_the_rows_of_a_run_have_one_hash_in_whatever_order_and_place(place: Path) -> None:
    record = {"source": "/a", "train": [{"id": "x", "line": 1}, {"id": "y", "line": 2}], "valid": ["v"], "test": ["t"]}
    other = {"source": "/b", "train": [{"id": "y", "line": 7}, {"id": "x", "line": 9}], "valid": ["v"], "test": ["t"]}
    assert data_hash(record) == data_hash(other)
    assert data_hash(record) != data_hash({**record, "train": record["train"][:1]})


def test_reading_loads_neither_mlx_nor_numpy(place: Path, shop) -> None:
    shop(FIRST)
    code = (
        "import sys; from pathlib import Path; from mlxtune.adapters import library\n"
        f"place = Path({str(place)!r}); library.rename(place, 'last', 'one'); library.tag(place, 'one', ['x'])\n"
        "library.remove(place, 'one'); library.restore(place); assert library.find(place, 'one').rank == 4\n"
        "print([name for name in ('mlx', 'mlx_lm', 'numpy', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
