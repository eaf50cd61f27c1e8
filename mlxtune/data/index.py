"""The spans of a file's records, kept for the next time: found again by the file's place, valid while its content is."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from mlxtune.core.errors import MachineError
from mlxtune.core.files import home, write_bytes
from mlxtune.core.hashing import sha256_json
from mlxtune.data.layout import Layout
from mlxtune.data.mapped import Mapped
from mlxtune.data.scan import Spans

WORTH = 1 << 20  # bytes below which a file is scanned sooner than its index is found
_VERSION = 1


def spans(data: Mapped, layout: Layout) -> Spans:
    """Where the records of ``data`` are, from the index if it has one. Raises ``DataError`` as :meth:`Layout.spans` does."""
    if data.copied or data.size < WORTH:
        return layout.spans(data)
    resolved = data.path.resolve()
    name = f"{sha256_json(str(resolved))[:16]}-{sha256_json([_VERSION, layout.kind, layout.delimiter, data.key()])[:16]}.npy"
    file = home() / "index" / name
    if (kept := _load(file, data.size)) is not None:
        return kept
    found = layout.spans(data)
    _save(file, found)
    return found


def _load(file: Path, size: int) -> Spans | None:
    try:
        table = np.load(file, allow_pickle=False)
        kept = Spans(*(np.asarray(column, np.int64) for column in table))
    except (OSError, ValueError, TypeError, EOFError):
        return None
    return kept if table.ndim == 2 and kept.fit(size) else None


def _save(file: Path, found: Spans) -> None:
    """Keep ``found``, and forget what was kept of an earlier content of the same file. A disk that takes nothing is no harm."""
    buffer = io.BytesIO()
    np.save(buffer, np.stack([found.starts, found.ends, found.lines]))
    try:
        write_bytes(file, buffer.getbuffer().tobytes())
        for old in file.parent.glob(f"{file.name.partition('-')[0]}-*.npy"):
            if old != file:
                old.unlink(missing_ok=True)
    except (MachineError, OSError):
        return
