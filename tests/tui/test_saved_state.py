from pathlib import Path

import pytest

from mlxtune.tui import saved_state


def test_each_workspace_has_its_own_state(tmp_path: Path) -> None:
    assert saved_state.load(tmp_path / "a") == {}
    saved_state.save(tmp_path / "a", {"room": "train"})
    saved_state.save(tmp_path / "b", {"room": "home"})
    saved_state.save(tmp_path / "a", {"room": "data", "rooms": {"data": {"cursor": 4}}})
    assert saved_state.load(tmp_path / "a") == {"room": "data", "rooms": {"data": {"cursor": 4}}}
    assert saved_state.load(tmp_path / "b") == {"room": "home"}
    assert saved_state.load(tmp_path / "x" / ".." / "a") == saved_state.load(tmp_path / "a"), "the same folder"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"v": 1}', '{"v": 2, "left": {"room": "train"}}', '{"v": 1, "left": 3}', "\x00\xff"]
)
def test_a_broken_file_is_ignored(tmp_path: Path, text: str) -> None:
    saved_state.save(tmp_path, {"room": "train"})
    (file,) = (tmp_path / "home" / "sessions").iterdir()
    file.write_bytes(text.encode("latin-1"))
    assert saved_state.load(tmp_path) == {}
