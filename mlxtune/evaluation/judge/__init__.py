"""A model as judge: narrow questions, evidence that is checked, sentinels that show a judge who can be talked into anything."""

from __future__ import annotations

from collections.abc import Callable

Asker = Callable[[list[dict[str, str]]], str]
"""What asks a judge: chat messages in, the reply's text out. An endpoint is one, a local model another.

Raises :class:`Lost` when no reply came of a question that may have been worked on.
"""


class Lost(Exception):
    """A question was sent and no reply came. It may be on the bill, so it is not asked again."""
