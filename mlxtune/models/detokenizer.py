"""Decode tokens to text in pieces that contain only complete characters and no possible start of a stop string.

mlx-lm's streaming detokenizers drop a leading space, so their text differs from decoding all tokens together, and do not support stop strings.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class StreamingDetokenizer:
    """Decodes tokens incrementally. The joined pieces equal ``decode`` of all tokens, up to the first of ``stops``."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._tokens: list[int] = []
        self._start, self._decoded = 0, 0  # tokens from _start on are decoded together; those before _decoded were emitted
        self._pending = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """Append ``token`` and return the text that can be shown now."""
        self._tokens.append(token)
        text = self._new_text()
        if text is None:
            return ""
        self._start, self._decoded = self._decoded, len(self._tokens)
        return self._emit(text)

    def end(self) -> str:
        """Return the remaining text after the last token."""
        rest = self._emit(self._new_text(partial=True) or "") + ("" if self.stopped else self._pending)
        self._pending = ""
        return rest

    def _new_text(self, *, partial: bool = False) -> str | None:
        """Return the text of the new tokens, or ``None`` if it may end within a character."""
        before = self._decode(self._tokens[self._start : self._decoded])
        text = self._decode(self._tokens[self._start :])
        return None if text.endswith("\ufffd") and not partial else text[len(before) :]

    def _emit(self, new: str) -> str:
        """Return pending and ``new`` text up to a stop string; hold back a possible start of one."""
        text = self._pending + new
        self._pending = ""
        stop = min((index for index in map(text.find, self._stops) if index >= 0), default=-1)
        if stop >= 0:
            self.stopped = True
            return text[:stop]
        size = max((partial_length(text, stop) for stop in self._stops), default=0)
        self._pending = text[len(text) - size :]
        return text[: len(text) - size]


def partial_length(text: str, marker: str) -> int:
    """Return the length of the longest end of ``text`` that may be the beginning of ``marker``."""
    sizes = range(min(len(marker) - 1, len(text)), 0, -1)
    return next((size for size in sizes if marker.startswith(text[-size:])), 0)
