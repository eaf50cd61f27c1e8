"""What was said becomes data: a conversation as a training row, an answer that was mended as a preference pair. No mlx here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import disk_errors
from mlxtune.serving.session import Session


def keep_row(session: Session, file: Path) -> None:
    """Append the conversation to ``file``. Raises ``InputError`` for one that teaches nothing, ``MachineError`` when the disk is full."""
    _append(file, session.row())


def keep_mended(session: Session, text: str, rows: Path, pairs: Path) -> None:
    """Append the conversation with ``text`` as its last answer to ``rows``, and ``text`` against what was answered to ``pairs``.

    Raises ``InputError`` when nothing was said, or ``text`` is what was answered.
    """
    row = session.row()
    *prompt, answer = row["messages"]
    if text.strip() == str(answer["content"]).strip():
        raise InputError("The answer is as it was, so there is no pair.", mend="Save it as a row.")
    _append(rows, {"messages": [*prompt, {"role": "assistant", "content": text}]})
    _append(pairs, {"prompt": prompt, "chosen": text, "rejected": answer["content"]})


def _append(file: Path, row: Mapping[str, Any]) -> None:
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        with disk_errors(str(file)):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as rows:
                rows.write(line)
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"{file} cannot be written: {error}.") from error
