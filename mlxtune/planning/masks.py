"""Which tokens of a row train, as the recipe's own tokenizer and template say: asked in a process of its own, which stays for the next row."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from mlxtune.core import errors
from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.data.decisions import FORMAT
from mlxtune.data.rows import Row
from mlxtune.recipe import Recipe

MODULE = "mlxtune.models.masks"


@dataclass(frozen=True)
class Turn:
    """A part of a row: its ``tokens``, how many of them are ``trained``, and where in its text each ends (``cuts``).

    ``stop`` is the sign behind it that trains, too; ``lost`` the first character that is beyond the window.
    """

    tokens: int
    trained: int
    cuts: tuple[int, ...] = ()
    stop: str = ""
    lost: int | None = None

    def pieces(self, text: str) -> list[str]:
        """``text`` divided where tokens end, and what is left of it."""
        edges = [0, *(cut for cut in self.cuts if 0 < cut < len(text)), len(text)]
        return [text[start:end] for start, end in itertools.pairwise(edges) if end > start]


@dataclass(frozen=True)
class Mask:
    """The parts of a row, in the order of ``data.checks.look.parts``, and all of its tokens."""

    turns: tuple[Turn, ...]
    tokens: int
    trained: int


class Masks:
    """The process. Any thread may ask it, one at a time; it is started by the first question."""

    def __init__(self, recipe: Recipe) -> None:
        base = recipe.folder / recipe.model.base
        self._base = str(base.resolve()) if base.is_dir() else recipe.model.base
        self._max_tokens = recipe.data.max_tokens
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False

    def ask(self, row: Row) -> Mask:
        """The mask of ``row``. Raises what the model, its template or the row are to blame for, ``MachineError`` when the process died."""
        with self._lock:
            if self._process is None:
                self._start()
            found = self._tell({"kind": FORMAT[type(row)], "record": row.content, "max_tokens": self._max_tokens})
            turns = (Turn(**{**turn, "cuts": tuple(turn["cuts"])}) for turn in found["turns"])
            return Mask(tuple(turns), found["tokens"], found["trained"])

    def _start(self) -> None:
        if self._closed:
            raise MachineError("The tokenizer was put away.")
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, self._base], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True, env=os.environ | {"TOKENIZERS_PARALLELISM": "true"},
        )  # fmt: skip
        try:
            self._answer()
        except MlxtuneError:
            self._end()
            raise

    def _tell(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # it has died, and the answer says so
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            self._end()
            raise MachineError("The process with the tokenizer died.", mend="Look at the row again.")
        answer: dict[str, Any] = json.loads(line)
        if "error" not in answer:
            return answer
        raise getattr(errors, answer["kind"], MlxtuneError)(answer["error"], mend=answer["mend"])

    def close(self) -> None:
        """Put the process away; what is being asked is answered with ``MachineError``."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    pipe and pipe.close()
            self._process = None
