"""Word what the model process reports about an answer, and what saving a conversation does."""

from pathlib import Path

from mlxtune.core.text import speed
from mlxtune.serving.protocol import Done

_ENDINGS = {"length": ", cut off at the length limit", "cancelled": ", stopped"}


def usage(done: Done) -> str:
    """Return an answer's tokens and speed, and why it ended early, if it did."""
    cached = f" ({done.cached:,} cached)" if done.cached else ""
    rate = f", {speed(done.speed)} tokens/s" if done.speed else ""
    return f"{done.prompt_tokens:,} prompt tokens{cached}, {done.tokens:,} generated{rate}{_ENDINGS.get(done.ended, '')}"


def saved(rows: Path, cut_off: bool, pairs: Path | None = None) -> str:
    """Say where a conversation was saved, and whether an answer in it has to be completed before training."""
    warning = " An answer in it was cut off: complete it before training." if cut_off else ""
    return f"Added {'the edited answer' if pairs else 'a row'} to {rows}{f' and a pair to {pairs}' if pairs else ''}.{warning}"
