"""The words of a generation: why texts of a teacher were not proposed."""

from __future__ import annotations

from mlxtune.core.text import one_line

_REFUSALS = {
    "no_difference": "says the same as the good answer",
    "no_reply": "no reply",
    "empty": "empty reply",
    "cut_off": "cut off at the token limit",
    "not_best": "another candidate was better",
    "wrong_form": "not in the requested form",
    "no_source": "the quote is not in the document",
    "repeats_training": "repeats a training row",
    "repeats_held_out": "repeats a held-out row",
    "repeats_proposed": "repeats a proposed row",
    "repeats_rejected": "repeats a rejected row",
    "repeats_generated": "repeats a generated row",
}


def refusal_title(kind: str) -> str:
    """Return why texts were refused, for a count of them: the title of a check, or the words for another code."""
    from mlxtune.data.checks.registry import is_check
    from mlxtune.present.check import check_title

    return check_title(kind) if is_check(kind) else _REFUSALS.get(kind, one_line(kind, 60))
