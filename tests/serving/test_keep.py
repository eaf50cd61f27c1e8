"""What was said becomes rows and pairs that the data room reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Conversation, Preference
from mlxtune.data.source import read_source
from mlxtune.serving.keep import keep_mended, keep_row
from mlxtune.serving.session import Session


def said() -> Session:
    session = Session(system="Be brief.")
    session.add("Where is it?", "On its way.")
    return session


def test_a_conversation_is_appended_as_a_training_row(tmp_path: Path) -> None:
    for _ in range(2):
        keep_row(said(), tmp_path / "data" / "chat.jsonl")
    rows = read_source(tmp_path / "data" / "chat.jsonl", "auto", {}).rows
    assert len(rows) == 2
    assert isinstance(rows[0], Conversation)
    assert [turn.role for turn in rows[0].messages] == ["system", "user", "assistant"]


def test_a_mended_answer_is_a_row_and_a_pair(tmp_path: Path) -> None:
    keep_mended(said(), "It left Hamburg.", tmp_path / "rows.jsonl", tmp_path / "pairs.jsonl")
    (row,), (pair,) = (read_source(tmp_path / name, "auto", {}).rows for name in ("rows.jsonl", "pairs.jsonl"))
    assert isinstance(row, Conversation)
    assert row.messages[-1].content == "It left Hamburg."
    assert isinstance(pair, Preference)
    assert (pair.chosen, pair.rejected) == ("It left Hamburg.", "On its way.")


@pytest.mark.parametrize("session", [Session(), said()], ids=["nothing said", "not mended"])
def test_what_would_teach_nothing_is_not_kept(tmp_path: Path, session: Session) -> None:
    with pytest.raises(InputError):
        keep_mended(session, "On its way.", tmp_path / "rows.jsonl", tmp_path / "pairs.jsonl")
    assert not any(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        keep_row(said(), tmp_path / "file" / "chat.jsonl")
