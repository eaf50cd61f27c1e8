"""The color themes: one accent, one color for reference data, three verdict colors, and grays.

Rooms use tokens (``$primary``, ``$muted``), never hex values. ``muted`` has a contrast of 4.5:1, ``faint`` 3:1. ``line`` is for
rules, axes and the empty part of a bar. ``second`` is for reference data, such as the validation loss. ``trained`` and
``trained-alt`` alternate behind trained tokens. ``span`` and ``span-ink`` highlight the part of an output that fails.
"""

from __future__ import annotations

from typing import Any, ClassVar

from textual.cache import LRUCache
from textual.css.stylesheet import Stylesheet
from textual.theme import Theme

INK = Theme(
    name="ink",
    dark=True,
    primary="#a3a8f5",
    accent="#a3a8f5",
    secondary="#9297a5",
    success="#86c59a",
    warning="#e8a05a",
    error="#ea7c86",
    foreground="#dcdee4",
    background="#14151a",
    surface="#1b1d24",
    panel="#242731",
    variables={
        "muted": "#9297a5",
        "faint": "#6b7080",
        "line": "#343846",
        "second": "#e0cfa9",
        "select": "#2a2d48",
        "select-ink": "#eceefa",
        "trained": "#262a4b",
        "trained-alt": "#32376a",
        "span": "#5a2a34",
        "span-ink": "#ffd9dc",
    },
)
PAPER = Theme(
    name="paper",
    dark=False,
    primary="#4f46c8",
    accent="#4f46c8",
    secondary="#62656f",
    success="#1f7446",
    warning="#a84c06",
    error="#b42a36",
    foreground="#26282f",
    background="#fbfaf7",
    surface="#f1efe9",
    panel="#e6e3da",
    variables={
        "muted": "#62656f",
        "faint": "#888b94",
        "line": "#d3cfc4",
        "second": "#8a6414",
        "select": "#e4e2f8",
        "select-ink": "#1d1b4a",
        "trained": "#e6e4fb",
        "trained-alt": "#d3cff6",
        "span": "#f8d3d5",
        "span-ink": "#6d0f1a",
    },
)
ANSI = Theme(
    name="ansi",
    dark=True,
    ansi=True,
    primary="ansi_blue",
    accent="ansi_blue",
    secondary="ansi_bright_black",
    success="ansi_green",
    warning="ansi_yellow",
    error="ansi_red",
    foreground="ansi_default",
    background="ansi_default",
    surface="ansi_default",
    panel="ansi_default",
    variables={
        "ansi-background": "ansi_black",  # the stylesheet of an ansi theme does not parse without these two
        "ansi-foreground": "ansi_white",
        "border-blurred": "ansi_bright_black",
        "muted": "ansi_default",
        "faint": "ansi_bright_black",
        "line": "ansi_bright_black",
        "second": "ansi_yellow",
        "select": "ansi_blue",
        "select-ink": "ansi_bright_white",
        "trained": "ansi_default",
        "trained-alt": "ansi_default",
        "span": "ansi_red",
        "span-ink": "ansi_bright_white",
    },
)
THEMES = (INK, PAPER, ANSI)
THEME_LABELS = {"ink": "dark", "paper": "light", "ansi": "the terminal's own colors"}

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
