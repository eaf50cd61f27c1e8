"""A language model as judge: narrow questions, checked evidence, and sentinels that expose an unreliable judge."""

from collections.abc import Callable

AskJudge = Callable[[list[dict[str, str]]], str]
"""A function that sends chat messages to a judge and returns the text of its reply.

It raises :class:`ReplyLost` if no reply arrived to a question that may have been processed.
"""


class ReplyLost(Exception):
    """A question was sent, but no reply arrived. It may have been billed, so it is not asked again."""
