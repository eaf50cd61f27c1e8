"""Text that is safe to put on a terminal, whatever a dataset, a model or a hub put into it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# C0 and C1 controls (but for newline and tab), line and paragraph separators, bidi overrides, zero-width signs,
# tags, and lone surrogates: whatever a terminal would obey, hide or choke on.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
_PICTURES = {code: chr(0x2400 + code) for code in range(0x20)} | {0x7F: "\u2421"}


def safe_text(text: str, *, limit: int = 0) -> str:
    """``text`` with everything a terminal would obey made visible, optionally cut to ``limit`` characters."""
    shown = _UNSAFE.sub(lambda match: _PICTURES.get(ord(match[0]), "\ufffd"), text.replace("\r\n", "\n"))
    return shown if not limit or len(shown) <= limit else shown[: limit - 1] + "…"


def restored(original: str, edited: str) -> str:
    """What ``edited`` means, when it is what somebody made of ``safe_text(original)``: what was not touched is as it was.

    Where :func:`safe_text` shows something in a sign's place, the sign itself comes back with it.
    """
    shown = safe_text(original)
    if shown == original:
        return edited
    units = re.findall(r"\r\n|[\s\S]", original)  # one for each character of what is shown
    changes = difflib.SequenceMatcher(None, shown, edited, autojunk=False).get_opcodes()
    return "".join("".join(units[start:end]) if tag == "equal" else edited[begin:stop] for tag, start, end, begin, stop in changes)


def one_line(text: str, limit: int = 0) -> str:
    """:func:`safe_text` on one line: runs of white space become one space."""
    return safe_text(" ".join(text.split()), limit=limit)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that ``word`` was most likely meant to be, if one is close enough."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return found[0] if found else None


def plural(count: int, noun: str, many: str = "") -> str:
    """``1 row``, ``1,204 rows``."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def duration(seconds: float) -> str:
    """``40 s``, ``7 min``, ``2 h 05 min``."""
    if seconds < 90:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int) -> str:
    """Bytes as people buy memory: ``0.4 GB``, ``21.3 GB`` (2**30 bytes each), ``12 MB`` below a tenth of one."""
    return f"{count / 2**30:.1f} GB" if count >= 0.1 * 2**30 else f"{count / 2**20:.0f} MB"
