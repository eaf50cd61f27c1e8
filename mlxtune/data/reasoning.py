"""Reasoning written into an answer as a ``<think>`` block."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)


def split_reasoning(text: str) -> tuple[str, str]:
    """Return the reasoning in the ``<think>`` block at the start of ``text``, and the answer after it."""
    match = _BLOCK.match(text)
    return (match[1].strip(), text[match.end() :]) if match else ("", text)


def join_reasoning(reasoning: str, answer: str) -> str:
    """Return ``answer`` with ``reasoning`` before it, in the form that :func:`split_reasoning` reads."""
    return f"<think>\n{reasoning}\n</think>\n\n{answer}" if reasoning else answer
