"""Records that cannot be read as rows. The readers' ``InvalidRecord.kind`` is the check's ID."""

from mlxtune.core.errors import DataError
from mlxtune.data.checks.base import DROP_UNUSABLE, Check, CheckFamily, Finding
from mlxtune.data.rows import RowError

family = CheckFamily()
for _id, _title, _short in (
    ("bad-row", "rows that cannot be read", "unreadable"),
    ("different-prompts", "pairs with different prompts", "prompts"),
    ("no-answer", "rows without a final answer", "no answer"),
    ("role-order", "rows with turns in the wrong order", "turn order"),
    ("empty-target", "rows with an empty answer", "empty"),
):
    family.register(Check(_id, "block", _title, {"unreadable": "{error:all} {hint:all}"}, DROP_UNUSABLE, "✗", short=_short))


def unreadable(index: int, error: DataError) -> Finding:
    reason, kind = (error.reason, error.kind) if isinstance(error, RowError) else (error.message, "bad-row")
    return Finding(kind, "block", (index,), reason="unreadable", values={"error": reason, "hint": error.hint})
