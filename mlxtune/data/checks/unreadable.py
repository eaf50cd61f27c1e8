"""Records that cannot be read as rows. The readers' ``InvalidRecord.kind`` is the check's ID."""

from mlxtune.core.errors import DataError
from mlxtune.data.checks.base import DROP_UNUSABLE, Check, CheckFamily, Finding, Fix
from mlxtune.data.rows import RowError

family = CheckFamily()
for _id, _title, _short, _fix in (
    ("bad-row", "rows that cannot be read", "unreadable", DROP_UNUSABLE),
    ("encoding", "rows in another encoding", "encoding", Fix("put", "read as Windows-1252", safe=True)),
    ("different-prompts", "pairs with different prompts", "prompts", DROP_UNUSABLE),
    ("no-answer", "rows without a final answer", "no answer", DROP_UNUSABLE),
    ("role-order", "rows with turns in the wrong order", "turn order", DROP_UNUSABLE),
    ("empty-target", "rows with an empty answer", "empty", DROP_UNUSABLE),
):
    family.register(Check(_id, "block", _title, {"unreadable": "{error:all} {hint:all}"}, _fix, "✗", short=_short))


def unreadable(index: int, error: DataError) -> Finding:
    reason, kind = (error.reason, error.kind) if isinstance(error, RowError) else (error.message, "bad-row")
    return Finding(kind, "block", (index,), reason="unreadable", values={"error": reason, "hint": error.hint})
