"""Markup that cannot be broken out of: every text is escaped on its way in, and only an :class:`Html` is not."""

from __future__ import annotations

import html

from mlxtune.core.text import safe_text


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


Part = str | None


def text(value: str) -> Html:
    """``value`` as text, with what a reader would not see, or would be misled by, made visible."""
    return Html(html.escape(safe_text(value), quote=True))


def join(*parts: Part) -> Html:
    """``parts`` one after another; ``None`` is nothing."""
    return Html("".join(part if isinstance(part, Html) else text(part) for part in parts if part is not None))


def el(name: str, *parts: Part, **attributes: str | float | None) -> Html:
    """An element with ``parts`` in it. ``class_`` gives ``class``, ``_`` gives ``-``; an attribute that is ``None`` is left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{text(str(value))}"' for key, value in attributes.items() if value is not None
    )
    return Html(f"<{name}{told}>{join(*parts)}</{name}>")
