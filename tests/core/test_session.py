"""Sessions: what was left comes back, per workspace; what is broken is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.core import session


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLXTUNE_HOME", str(tmp_path / "home"))


def test_each_workspace_gets_back_its_own(tmp_path: Path) -> None:
    assert session.recall(tmp_path / "a") == {}
    session.remember(tmp_path / "a", {"room": "train"})
    session.remember(tmp_path / "b", {"room": "home"})
    session.remember(tmp_path / "a", {"room": "data", "rooms": {"data": {"cursor": 4}}})
    assert session.recall(tmp_path / "a") == {"room": "data", "rooms": {"data": {"cursor": 4}}}
    assert session.recall(tmp_path / "b") == {"room": "home"}
    assert session.recall(tmp_path / "x" / ".." / "a") == session.recall(tmp_path / "a"), "the same folder by another name"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"v": 1}', '{"v": 2, "left": {"room": "train"}}', '{"v": 1, "left": 3}', "\x00\xff"]
)
def test_a_broken_file_is_ignored(tmp_path: Path, text: str) -> None:
    session.remember(tmp_path, {"room": "train"})
    (file,) = (tmp_path / "home" / "sessions").iterdir()
    file.write_bytes(text.encode("latin-1"))
    assert session.recall(tmp_path) == {}
