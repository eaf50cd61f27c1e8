"""Textual's stylesheet, which parses each style sheet only once per theme."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.cache import LRUCache
from textual.css.stylesheet import Stylesheet

_PER_THEME = 1024  # Textual's own cache holds 64 sheets, fewer than the app has, and is discarded on every change of screen


class CachedStylesheet(Stylesheet):
    """Keep parsed rules. Textual parses all sheets again up to three times when a room is opened for the first time."""

    _caches: ClassVar[dict[frozenset[tuple[str, str]], LRUCache[tuple[Any, ...], Any]]] = {}

    def __init__(self, *, variables: dict[str, str] | None = None) -> None:
        super().__init__(variables=variables)
        self._use_cache()

    def set_variables(self, variables: dict[str, str]) -> None:
        if variables != self._variables:
            self._parse_cache = LRUCache(1)  # the next line clears it
            super().set_variables(variables)
            self._use_cache()

    def reparse(self) -> None:
        self.parse()

    def _use_cache(self) -> None:
        self._parse_cache = self._caches.setdefault(frozenset(self._variables.items()), LRUCache(_PER_THEME))
