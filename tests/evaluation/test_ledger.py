import hashlib
import json
import shutil

import pytest

from mlxtune.core.errors import InputError
from mlxtune.evaluation.evidence import HOLDOUT
from mlxtune.evaluation.holdout.ledger import HoldoutHistory, enter, history, last_look, ledger_path, load, read, record
from mlxtune.present.blocks import Fact
from mlxtune.present.verdict import history_facts

ROWS = ["a1", "b2", "c3"]


@pytest.fixture
def book(tmp_path):
    return ledger_path(tmp_path / "evals" / "20261124-1412-shop")


def test_evaluations_are_counted_for_their_rows(book):
    assert history(read(book), ROWS) == HoldoutHistory(0, 0, 0, 0, 0)
    for kind in ("eval", "blind", "judge"):
        record(book, kind, "one", ROWS)
    record(book, "eval", "elsewhere", ["z9"])
    assert history(read(book), ROWS) == HoldoutHistory(3, 0, 0, 0, 0, judged=2)
    assert history(read(book), ["z9"]).evaluations == 1
    assert history(read(book), ["never"]).evaluations == 0


@pytest.mark.parametrize(
    ("known", "fact"),
    [
        (HoldoutHistory(0, 0, 0, 0, 0), Fact("evaluated", "0 times")),
        (HoldoutHistory(1, 0, 0, 0, 0), Fact("evaluated", "1 time")),
        (
            HoldoutHistory(4, 0, 0, 0, 0, judged=2, looks=2, look=2),
            Fact("evaluated", "4 times", "2 in blind sessions or by a judge; look 2 at an adapter, level 2.5%", "warning"),
        ),
        (
            HoldoutHistory(3, 0, 0, 0, 0, models=2, looks=3, look=3),
            Fact("evaluated", "3 times", "2 of exported models; look 3 at an adapter, level 0.83%", "warning"),
        ),
        (
            HoldoutHistory(2, 0, 0, 0, 0, ledger="ledger_elsewhere"),
            Fact("ledger", "of another folder", "lines known from mlxtune's home folder are counted", "warning"),
        ),
        (HoldoutHistory(1, 0, 2, 1, 0), Fact("rows changed", "2 rows new, 1 removed", "since the last evaluation", "warning")),
        (HoldoutHistory(1, 2, 0, 0, 0), Fact("exported", "2 rows", "for training", "warning")),
        (HoldoutHistory(1, 0, 0, 0, 4), Fact("ledger", "edited at line 4", "its count is unreliable", "error")),
        (
            HoldoutHistory(1, 0, 0, 0, 0, ledger="ledger_missing"),
            Fact("ledger", "missing", "lines known from mlxtune's home folder are counted", "error"),
        ),
    ],
)
def test_history_is_described(known, fact):
    assert history_facts(known)[-1] == fact


def test_resumed_evaluation_is_counted_once(book):
    for _ in range(2):
        record(book, "eval", "one", ROWS)
    assert history(read(book), ROWS).evaluations == 1
    record(book, "eval", "one", ["z9", *ROWS])
    assert history(read(book), ROWS).evaluations == 2


def test_repeated_evaluation_with_the_same_result_is_counted_once(book):
    for by, result in (("one", "same"), ("two", "same"), ("three", "other"), ("four", "")):
        record(book, "eval", by, ROWS, result=result)
    assert history(read(book), ROWS).evaluations == 3


def test_changed_holdout_is_reported(book):
    record(book, "eval", "one", ROWS)
    record(book, "blind", "one", ROWS[:1])
    summary = history(read(book), ["a1", "d4", "e5"])
    assert (summary.new, summary.missing) == (2, 2)


@pytest.mark.parametrize("line", [0, 1])
def test_edited_line_is_detected(book, line):
    for by in ("one", "two", "three"):
        record(book, "eval", by, ROWS)
    lines = book.read_text().splitlines()
    lines[line] = json.dumps({**json.loads(lines[line]), "by": "another"})
    book.write_text("\n".join(lines) + "\n")
    assert history(read(book), ROWS).edited_line == line + 2


def test_removed_or_malformed_line_is_detected(book):
    for by in ("one", "two", "three"):
        record(book, "eval", by, ROWS)
    lines = book.read_text().splitlines()
    book.write_text("\n".join(lines[1:]) + "\n")
    assert history(read(book), ROWS).edited_line == 1
    book.write_bytes("\n".join([lines[0], "nonsense \udcff", lines[1], ""]).encode(errors="surrogateescape"))
    found = history(read(book), ROWS)
    assert (found.edited_line, found.evaluations, found.ledger) == (2, 3, "ledger_shortened")  # the third is known from the copy
    assert enter(_folder(book.parent / "new"), ROWS, "x", "").edited_line == 2
    assert load(book.parent / "new") == read(book)


def test_torn_last_line_is_overwritten(book):
    record(book, "eval", "one", ROWS)
    with book.open("a") as file:
        file.write('{"v": 1, "prev"')
    assert history(read(book), ROWS) == HoldoutHistory(1, 0, 0, 0, 0)
    record(book, "eval", "two", ROWS)
    assert history(read(book), ROWS) == HoldoutHistory(2, 0, 0, 0, 0)


def _folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def _look(evaluation, result, rows=ROWS, adapter="run"):
    return enter(_folder(evaluation), rows, result, adapter)


def test_looks_are_evaluations_of_adapters_with_new_results(tmp_path):
    evals = tmp_path / "evals"
    assert _look(evals / "one", "base", adapter="").look == 0
    assert _look(evals / "two", "first").look == 1
    assert _look(evals / "three", "second").look == 2
    assert _look(evals / "elsewhere", "third", rows=["z9"]).look == 1
    again = _look(evals / "four", "first")
    assert (again.look, again.looks, again.evaluations) == (1, 2, 3), "a repeated result keeps its number"
    record(evals / "ledger.jsonl", "judge", "two", ROWS)
    assert _look(evals / "five", "fourth", rows=["c3", "d4"]).look == 3, "a look at any of the rows counts"


@pytest.mark.parametrize(("cut", "code"), [(0, "ledger_missing"), (2, "ledger_shortened")])
def test_deleted_lines_are_counted_and_reported(tmp_path, cut, code):
    evals = tmp_path / "evals"
    for number in range(3):
        _look(evals / str(number), f"result {number}")
    lines = (evals / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (evals / "ledger.jsonl").write_bytes(b"".join(lines[:cut]))
    found = _look(evals / "new", "result new")
    assert (found.look, found.evaluations, found.ledger) == (4, 4, code)
    assert _look(evals / "later", "result later").ledger == code, "it stays known"
    assert _look(evals / "other", "other", rows=["z9"]).ledger == "whole", "other rows lost nothing"


def test_a_copied_or_moved_workspace_is_whole(tmp_path):
    first, second = tmp_path / "one" / "evals", tmp_path / "two" / "evals"
    _look(first / "a", "a")
    shutil.copytree(first, second)
    assert (_look(second / "b", "b").look, _look(first / "c", "c").look) == (2, 2)
    shutil.rmtree(first)
    second.parent.rename(tmp_path / "three")
    shutil.move(tmp_path / "three", tmp_path / "two")
    found = _look(second / "d", "d")
    assert (found.look, found.ledger, found.edited_line) == (3, "whole", 0)


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("move", [shutil.move, shutil.copytree])
def test_lines_that_another_folder_lacks_are_found_by_their_rows(tmp_path, move, kept):
    first, second = tmp_path / "one" / "evals", tmp_path / "two" / "evals"
    for number in range(3):
        enter(_folder(first / str(number)), ROWS, f"result {number}", "run", last=number == 2)
    move(first.parent, second.parent)
    lines = (second / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (second / "ledger.jsonl").write_bytes(b"".join(lines[:kept]))
    assert history(read(second / "ledger.jsonl", ROWS), ROWS).looks == 3
    assert last_look(second / "new", ROWS) == "2"
    _look(second / "unrelated", "unrelated", rows=["z9"])
    found = _look(second / "new", "result new")
    assert (found.look, found.evaluations, found.ledger) == (4, 4, "ledger_elsewhere")
    assert history(load(second / "new"), ROWS, "result new") == found
    assert load(second / "unrelated").elsewhere == (), "lines about other rows are not copied"
    assert _look(second / "later", "later").look == 5


def test_a_new_workspace_with_the_same_rows_goes_on_counting(tmp_path):
    first, second = tmp_path / "one" / "evals", tmp_path / "two" / "evals"
    assert _look(first / "a", "a").look == 1
    assert (_look(second / "a", "a").look, _look(second / "b", "b").look) == (1, 2), "the same answers count once"
    assert _look(first / "c", "c").look == 3
    assert history(read(second / "ledger.jsonl", ROWS[:1]), ROWS[:1]).looks == 3
    assert _look(second / "z", "z", rows=["z9"]).ledger == "whole"


def test_lines_rewritten_without_their_adapter_still_count(tmp_path):
    evals = tmp_path / "evals"
    for number in range(5):
        enter(_folder(evals / str(number)), ROWS, f"result {number}", "run", last=number == 4)
    lines, before = [], ""
    for line in (evals / "ledger.jsonl").read_bytes().splitlines():
        entry = {key: value for key, value in json.loads(line).items() if key not in ("adapter", "last")}
        lines.append(json.dumps({**entry, "prev": before}).encode())
        before = hashlib.sha256(lines[-1]).hexdigest()
    (evals / "ledger.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    again = _look(evals / "again", "result 4")
    assert (again.look, again.looks, again.last_look, again.evaluations) == (5, 5, True, 5)
    found = _look(evals / "new", "result new")
    assert (found.look, found.looks, found.ledger) == (6, 6, "ledger_missing")


def test_each_model_that_an_export_compares_is_a_look(tmp_path):
    evals = tmp_path / "evals"
    _look(evals / "one", "one")
    for by, result in (("x f16", "f16"), ("x q8_0", "q8_0"), ("x q8_0", "q8_0 again"), ("y f16", "f16")):
        record(evals / "ledger.jsonl", "fidelity", by, ROWS[:2], result=result, adapter="run")
    found = _look(evals / "two", "two")
    assert (found.look, found.evaluations, found.models, found.judged, found.exported, found.missing) == (4, 4, 2, 0, 0, 0)


def test_without_a_writable_home_folder_the_ledger_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "file" / "home"))
    assert [_look(tmp_path / "evals" / name, name).look for name in ("a", "b")] == [1, 2]


@pytest.mark.parametrize("line", ["[]", '["lost"]', '["lost", "x", "y"]', '["other", "x"]', "{}", '["lost", 1]'])
def test_a_malformed_copy_of_the_ledger_is_refused(tmp_path, line):
    (tmp_path / HOLDOUT).write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"holdout\.jsonl, line 1"):
        load(tmp_path)


def test_the_same_answers_again_are_the_same_look_whatever_other_folders_showed_since(tmp_path):
    """The looks of other folders count, but in the order of their time."""
    own, other = (ledger_path(tmp_path / name / "evals" / "e") for name in ("own", "other"))
    for path in (own, other):
        path.parent.mkdir(parents=True)
    record(own, "eval", "first", ROWS, result="r1", adapter="a1")
    for number in (2, 3, 4):
        record(other, "eval", f"e{number}", ROWS, result=f"r{number}", adapter=f"a{number}")
    assert history(read(own, ROWS), ROWS, "r1").look == 1
    assert history(read(own, ROWS), ROWS).looks == 4
