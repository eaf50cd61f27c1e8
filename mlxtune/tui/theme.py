"""The color themes: one accent, one color for reference data, three verdict colors, and grays.

Rooms use tokens (``$primary``, ``$muted``), never hex values. ``muted`` has a contrast of 4.5:1, ``faint`` 3:1. ``line`` is for
rules, axes and the empty part of a bar. ``second`` is for reference data, such as the validation loss. ``trained`` and
``trained-alt`` alternate behind trained tokens. ``span`` and ``span-ink`` highlight the part of an output that fails.
"""

from typing import Any

from textual.css.stylesheet import Stylesheet
from textual.theme import Theme

_TOKENS = {  # of the themes ink, paper, and ansi
    "primary": ("#a3a8f5", "#4f46c8", "ansi_blue"),
    "accent": ("#a3a8f5", "#4f46c8", "ansi_blue"),
    "secondary": ("#9297a5", "#62656f", "ansi_bright_black"),
    "success": ("#86c59a", "#1f7446", "ansi_green"),
    "warning": ("#e8a05a", "#a84c06", "ansi_yellow"),
    "error": ("#ea7c86", "#b42a36", "ansi_red"),
    "foreground": ("#dcdee4", "#26282f", "ansi_default"),
    "background": ("#14151a", "#fbfaf7", "ansi_default"),
    "surface": ("#1b1d24", "#f1efe9", "ansi_default"),
    "panel": ("#242731", "#e6e3da", "ansi_default"),
}
_VARIABLES = {
    "muted": ("#9297a5", "#62656f", "ansi_default"),
    "faint": ("#6b7080", "#888b94", "ansi_bright_black"),
    "line": ("#343846", "#d3cfc4", "ansi_bright_black"),
    "second": ("#e0cfa9", "#8a6414", "ansi_yellow"),
    "select": ("#2a2d48", "#e4e2f8", "ansi_blue"),
    "select-ink": ("#eceefa", "#1d1b4a", "ansi_bright_white"),
    "trained": ("#262a4b", "#e6e4fb", "ansi_default"),
    "trained-alt": ("#32376a", "#d3cff6", "ansi_default"),
    "span": ("#5a2a34", "#f8d3d5", "ansi_red"),
    "span-ink": ("#ffd9dc", "#6d0f1a", "ansi_bright_white"),
}
_ANSI_ONLY = {  # the stylesheet of an ansi theme does not parse without the first two
    "ansi-background": "ansi_black", "ansi-foreground": "ansi_white", "border-blurred": "ansi_bright_black",
}  # fmt: skip


def _theme(index: int, name: str, *, dark: bool, ansi: bool = False) -> Theme:
    variables = {token: colors[index] for token, colors in _VARIABLES.items()}
    tokens: dict[str, Any] = {token: colors[index] for token, colors in _TOKENS.items()}
    return Theme(name, dark=dark, ansi=ansi, variables=variables | (_ANSI_ONLY if ansi else {}), **tokens)


THEMES = (_theme(0, "ink", dark=True), _theme(1, "paper", dark=False), _theme(2, "ansi", dark=True, ansi=True))
THEME_LABELS = {"ink": "dark", "paper": "light", "ansi": "the terminal's own colors"}


class CachedStylesheet(Stylesheet):
    """Keep parsed rules. Textual parses all sheets again up to three times when a room is opened for the first time."""

    def set_variables(self, variables: dict[str, str]) -> None:
        if variables != self._variables:
            super().set_variables(variables)

    def reparse(self) -> None:
        self.parse()
