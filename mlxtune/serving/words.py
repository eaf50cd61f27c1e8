"""An answer's tokens as text, piece by piece: whole characters only, and nothing that may still turn out to be a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]


class Words:
    """The pieces joined are ``decode`` of all tokens, up to the first of ``stops``."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode, self._stops = decode, stops
        self._tokens: list[int] = []
        self._start, self._shown = 0, 0  # tokens from _start on are decoded together, those up to _shown were shown
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """What can be shown now that ``token`` was said."""
        self._tokens.append(token)
        before, now = (self._decode(self._tokens[self._start : end]) for end in (self._shown, len(self._tokens)))
        if now.endswith("\ufffd"):  # perhaps half a character
            return ""
        self._start, self._shown = self._shown, len(self._tokens)
        return self._safe(now[len(before) :])

    def end(self) -> str:
        """What is left when no token follows."""
        before, now = (self._decode(self._tokens[self._start : end]) for end in (self._shown, len(self._tokens)))
        rest = self._safe(now[len(before) :]) + ("" if self.stopped else self._held)
        self._held = ""
        return rest

    def _safe(self, new: str) -> str:
        """``new`` and what was held back, without what begins a stop string or follows one."""
        text = self._held + new
        at = min((place for place in map(text.find, self._stops) if place >= 0), default=-1)
        if at >= 0:
            self.stopped = True
            self._held = ""
            return text[:at]
        keep = next((size for size in range(min(self._longest, len(text)), 0, -1) if self._begins(text[-size:])), 0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    @property
    def _longest(self) -> int:
        return max(map(len, self._stops), default=1) - 1

    def _begins(self, tail: str) -> bool:
        return any(stop.startswith(tail) for stop in self._stops)
