"""Where mlxtune keeps what it knows about a source: in files beside it, since the source itself is never written."""

from __future__ import annotations

from pathlib import Path


def beside(source: Path, ending: str) -> Path:
    """``support.jsonl`` with the ending ``review.jsonl`` gives ``support.review.jsonl``; a folder keeps its whole name.

    Files of one stem share what is beside them: decisions and shares go by content, so they hold after ``data import`` too.
    """
    source = source.resolve()
    return source.with_name(f"{source.name if source.is_dir() else source.stem}.{ending}")
