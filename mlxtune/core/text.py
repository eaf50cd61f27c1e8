"""Format text so that it is safe for the terminal, even if it comes from a dataset, a model, or a hub."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from typing import Any

# C0 and C1 controls (except newline and tab), line and paragraph separators, bidi overrides, tags, lone surrogates, and what Unicode
# calls default-ignorable or draws as nothing, which a terminal would interpret, hide, or fail on. Joiners are safe between characters
# beyond ASCII, and selectors of variants after one or in a keycap, because languages and emoji need them there.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u2800\u3164\ufeff\uffa0\ufff0-\ufffb\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\ud800-\udfff]"
    "|(?<![^\x00-\x7f\u200c\u200d])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f\u200c\u200d])"
    "|(?<![#*0-9\x80-\u200b\u200e-\ufdff\ufe10-\U0010ffff])[\ufe00-\ufe0f]"
)
_LONGEST_WORD = 1_000
_SCANNED = 8  # times its limit, of the characters of a text on one line: to look through megabytes would take a second
_LINE_ENDS = re.compile("[\r\x85\u2028\u2029]")
_CONTROL_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}


def safe_text(text: str, *, limit: int = 0) -> str:
    """Return ``text`` with control characters made visible, optionally truncated to ``limit`` characters."""
    text = text[: 2 * limit + 2] if limit else text  # a pair of line ends is one character of the result
    return _shorten(_UNSAFE.sub(_picture, text.replace("\r\n", "\n")), limit)


def _shorten(text: str, limit: int) -> str:
    return text if not limit or len(text) <= limit else text[: limit - 1] + "…"


def _picture(match: re.Match[str]) -> str:
    """Return a visible character: ``▯`` for an invisible one, and ``�`` for one that is not text."""
    is_text = unicodedata.category(match[0]) not in ("Cc", "Cs")  # controls, and surrogates
    return "▯" if is_text else _CONTROL_PICTURES.get(ord(match[0]), "\ufffd")


def restore_unsafe(original: str, edited: str) -> str:
    """Undo :func:`safe_text` in ``edited``, an edited ``safe_text(original)``, by restoring the characters in unchanged parts."""
    safe = safe_text(original)
    if safe == original:
        return edited
    units = re.findall(r"\r\n|[\s\S]", original)  # one per character in safe
    changes = difflib.SequenceMatcher(None, safe, edited, autojunk=False).get_opcodes()
    return "".join("".join(units[start:end]) if tag == "equal" else edited[begin:stop] for tag, start, end, begin, stop in changes)


def one_line(text: str, limit: int = 0) -> str:
    """Return :func:`safe_text` on one line, with each run of whitespace replaced by one space."""
    if limit and len(text) > _SCANNED * limit:
        text = text[: _SCANNED * limit] + "…"
    visible = safe_text(_LINE_ENDS.sub("\n", text))  # before split(), to which U+000C and others are whitespace
    return _shorten(" ".join(visible.split()), limit)


def one_line_fields(value: Any) -> Any:
    """Return ``value`` with :func:`one_line` applied to every string in it, including those in tuples and in fields of dataclasses."""
    if isinstance(value, str):
        return one_line(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: one_line_fields(getattr(value, field.name)) for field in fields(value)})
    return tuple(map(one_line_fields, value)) if isinstance(value, tuple) else value


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the choice most similar to ``word``, or ``None`` if no similarity (0 to 1) reaches ``cutoff``, or for a very long word."""
    if len(word) > _LONGEST_WORD:  # the comparison would take seconds
        return None
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def suggest(word: str, choices: Iterable[str], label: str = "Choose from") -> str:
    """Return a hint for an unknown ``word``: ``Did you mean X?`` or a list of all ``choices``."""
    choices = list(choices)
    match = nearest(word, choices)
    return f"Did you mean {match}?" if match else f"{label} {', '.join(choices)}."


def plural(count: float, noun: str, many: str = "") -> str:
    """Format a count with its noun: ``1 row``, ``1,204 rows``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def duration(seconds: float) -> str:
    """Format seconds: ``40 s``, ``7 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def age(seconds: float) -> str:
    """Return an age in a single unit: ``now``, ``3 min``, ``2 h``, ``5 d``."""
    if seconds < 60:
        return "now"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min"
    return f"{seconds // 3600:.0f} h" if seconds < 86400 else f"{seconds // 86400:.0f} d"


def ago(seconds: float) -> str:
    """Return an age for a sentence: ``just now``, ``3 min ago``."""
    return "just now" if seconds < 60 else f"{age(seconds)} ago"


def speed(tokens: float) -> str:
    """Format tokens per second: ``1,204``, ``15``, ``0.4``."""
    return f"{tokens:,.0f}" if tokens >= 0.95 else f"{tokens:.1f}"


def size(count: int) -> str:
    """Format a byte count in units of 2**30 or, if it is small, 2**20: ``21.3 GB``, ``12 MB``."""
    return f"{count / 2**30:.1f} GB" if count >= 0.1 * 2**30 else f"{count / 2**20:.0f} MB"
