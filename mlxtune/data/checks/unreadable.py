"""Records that cannot be read as rows. The readers' ``InvalidRecord.kind`` is the check's ID."""

from __future__ import annotations

from mlxtune.core.errors import DataError
from mlxtune.data.checks.base import DROP_UNUSABLE, Check, CheckFamily, Finding
from mlxtune.data.rows import RowError

family = CheckFamily()
family.register(Check("bad-row", "block", "rows that cannot be read", DROP_UNUSABLE, "✗", short="unreadable"))
family.register(Check("different-prompts", "block", "pairs with different prompts", DROP_UNUSABLE, "✗", short="prompts"))
family.register(Check("no-answer", "block", "rows without a final answer", DROP_UNUSABLE, "✗", short="no answer"))
family.register(Check("role-order", "block", "rows with turns in the wrong order", DROP_UNUSABLE, "✗", short="turn order"))
family.register(Check("empty-target", "block", "rows with an empty answer", DROP_UNUSABLE, "✗", short="empty"))


def unreadable(index: int, error: DataError) -> Finding:
    """Return the finding for a record that could not be read."""
    reason, kind = (error.reason, error.kind) if isinstance(error, RowError) else (error.message, "bad-row")
    return Finding(kind, "block", (index,), f"{reason[:1].upper()}{reason[1:]} {error.hint}".strip())
