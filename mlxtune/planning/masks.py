"""Training masks of rows: which tokens are trained, according to the recipe's tokenizer and template.

A child process (``models.mask_worker``) holds the tokenizer and stays alive between rows.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass

from mlxtune.core.child_process import ChildProcess
from mlxtune.core.errors import MachineError
from mlxtune.data.readers.formats import CONTENT_FORMATS
from mlxtune.data.rows import Row
from mlxtune.recipe import Recipe, read_template


@dataclass(frozen=True)
class TurnTokens:
    """A part of a row: its ``tokens``, how many of them are ``trained``, and where in its text they end (``cuts``).

    ``stop`` is the trained stop token after the text, ``truncated_at`` the first character beyond the window.
    """

    tokens: int
    trained: int
    cuts: tuple[int, ...] = ()
    stop: str = ""
    truncated_at: int | None = None

    def pieces(self, text: str) -> list[str]:
        """Split ``text`` where tokens end."""
        edges = [0, *(cut for cut in self.cuts if 0 < cut < len(text)), len(text)]
        return [text[start:end] for start, end in itertools.pairwise(edges) if end > start]


@dataclass(frozen=True)
class TrainingMask:
    """The parts of a row, in the order of ``parts_of(row)``, and its token counts."""

    turns: tuple[TurnTokens, ...]
    tokens: int
    trained: int


class MaskProcess:
    """The child process with the tokenizer. It starts with the first request; any thread may call it, one at a time."""

    def __init__(self, recipe: Recipe) -> None:
        base = recipe.folder / recipe.model.base
        self._base = str(base.resolve()) if base.is_dir() else recipe.model.base
        self._recipe = recipe
        self._child: ChildProcess | None = None
        self._lock = threading.Lock()
        self._closed = False

    def mask(self, row: Row) -> TrainingMask:
        """Return the mask of ``row``. Raises errors of the model, its template or the row; ``MachineError`` if the process dies."""
        model, data = self._recipe.model, self._recipe.data
        params = {
            "base": self._base, "thinking": model.thinking, "date": data.date, "template": read_template(self._recipe),
            "format": CONTENT_FORMATS[type(row)], "record": row.content, "max_tokens": data.max_tokens,
        }  # fmt: skip
        with self._lock:
            if self._closed:
                raise MachineError("The tokenizer process was closed.")
            if self._child is None or not self._child.alive:
                self._child = ChildProcess("mlxtune.models.mask_worker", name="The tokenizer process", hint="Open the row again.")
            turns, tokens, trained = self._child.call("mask", params)
        parts = [TurnTokens(tokens, trained, tuple(cuts), stop, end) for tokens, trained, cuts, stop, end in turns]
        return TrainingMask(tuple(parts), tokens, trained)

    def close(self) -> None:
        """End the process. A pending request raises ``MachineError``."""
        self._closed = True
        if self._child is not None:
            self._child.terminate()
