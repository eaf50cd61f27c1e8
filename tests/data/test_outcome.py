"""What a check came to is known afterwards, until the file changes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlxtune.data import outcome
from mlxtune.data.checks import check
from mlxtune.data.outcome import Outcome


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))


def test_a_check_leaves_what_it_came_to_and_a_change_forgets_it(chat_file: Path) -> None:
    assert outcome.last(chat_file) is None
    report = check(chat_file)
    known = outcome.last(chat_file)
    assert known == Outcome(report.word, report.sentence, report.kept, report.rows("block") or report.rows("warn"))
    with chat_file.open("a") as file:
        file.write("\n")
    assert outcome.last(chat_file) is None


def test_a_touched_file_is_asked_anew(chat_file: Path) -> None:
    outcome.keep(chat_file, Outcome("clean", "Clean.", 40, 0))
    assert outcome.last(chat_file)
    os.utime(chat_file, (1, 1))
    assert outcome.last(chat_file) is None


@pytest.mark.parametrize("text", ["", "[]", '{"v": 1}', '{"v": 1, "files": [], "outcome": {}}', "\x00"])
def test_a_broken_record_is_none(chat_file: Path, tmp_path: Path, text: str) -> None:
    outcome.keep(chat_file, Outcome("clean", "Clean.", 40, 0))
    (file,) = (tmp_path / "home" / "checks").iterdir()
    file.write_text(text)
    assert outcome.last(chat_file) is None


def test_a_source_that_is_gone_is_not_known_and_a_disk_that_takes_nothing_is_no_harm(
    chat_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "file"))
    outcome.keep(chat_file, Outcome("clean", "Clean.", 40, 0))
    assert outcome.last(chat_file) is None
    assert outcome.last(tmp_path / "nowhere.jsonl") is None
