"""Loss masks of rows: which tokens are trained on, according to the recipe's tokenizer and template.

A child process (``models.mask_worker``) holds the tokenizer and stays alive between rows.
"""

import itertools
import threading
from dataclasses import dataclass

from mlxtune.core.child_process import ChildProcess
from mlxtune.core.errors import MachineError
from mlxtune.core.json_fields import from_json
from mlxtune.data.readers.formats import CONTENT_FORMATS
from mlxtune.data.rows import Row
from mlxtune.recipe import Recipe, dump


@dataclass(frozen=True)
class TurnTokens:
    """The tokens of a part of a row."""

    tokens: int
    trained: int
    cuts: tuple[int, ...] = ()  # where in its text tokens end
    stop: str = ""  # the trained text after it: calls, and the stop token
    truncated_at: int | None = None  # the first character beyond the window
    lead: str = ""  # the trained text before it: reasoning

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
        self._recipe = dump(recipe)
        self._child: ChildProcess | None = None
        self._lock = threading.Lock()
        self._closed = False

    def mask(self, row: Row) -> TrainingMask:
        """Return the mask of ``row``. Raises errors of the model, its template or the row; ``MachineError`` if the process dies."""
        params = {"recipe": self._recipe, "format": CONTENT_FORMATS[type(row)], "record": row.content}
        with self._lock:
            if self._closed:
                raise MachineError("The tokenizer process was closed.")
            if self._child is None or not self._child.alive:
                self._child = ChildProcess("mlxtune.models.mask_worker", name="The tokenizer process", hint="Open the row again.")
            return from_json(TrainingMask, self._child.call("mask", params))

    def close(self) -> None:
        """End the process. A pending request raises ``MachineError``."""
        self._closed = True
        if self._child is not None:
            self._child.terminate()
