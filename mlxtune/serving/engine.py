"""Many requests on one base, each with the adapter it asks for: continuous batching in the one thread that owns MLX.

In each round one block of one prompt is read, then every adapter that has rows is put on the base in turn and all its rows get a
token. Rows join when their prompt is read and leave when they end, so nobody waits for a batch to fill or to drain. Other threads
hand in questions (:meth:`Engine.submit`) and take them back (:meth:`Engine.cancel`); what happens is told as events.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.generate import wired_limit
from mlx_lm.models.cache import make_prompt_cache

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.models.grammar import Grammar
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.serving.choose import Choice, choose
from mlxtune.serving.exact import SAFETY, movement
from mlxtune.serving.kept import Kept
from mlxtune.serving.protocol import Accepted, Ask, Ending, Event, Failed, Kind, Piece
from mlxtune.serving.row import Row
from mlxtune.serving.swap import Rack

BLOCK = 256  # tokens of a prompt that are read before the others get their next token
POSITIONS = 65_536  # keys and values that all rows may have together, but for a single row that has more
KEPT = 2**29  # bytes of keys and values that are kept for later turns

Tell = Callable[[Event], None]
Find = Callable[[str], Path]


class Full(MachineError):
    """There is no place for another question now."""


class _Batch:
    """The rows that answer under one adapter, and their keys and values; a single row where ``many`` cannot be put together."""

    def __init__(self, many: bool) -> None:
        self.rows: list[Row] = []
        self.caches: list[Any] = []
        self._many = many

    def join(self, row: Row) -> None:
        """Take in a row whose prompt is read, and its caches."""
        new = [cache.merge([cache]) for cache in row.caches] if self._many else row.caches
        if self.caches:
            for cache, other in zip(self.caches, new, strict=True):
                cache.extend(other)
        else:
            self.caches = new
        self.rows.append(row)

    def own(self, at: int) -> list[Any]:
        """The caches of one row, which is about to leave."""
        own = [cache.extract(at) for cache in self.caches] if self._many else self.caches
        mx.eval([cache.state for cache in own])
        return own

    def leave(self, gone: Sequence[int]) -> None:
        """Let rows go."""
        keep = [at for at in range(len(self.rows)) if at not in gone]
        self.rows = [self.rows[at] for at in keep]
        if not keep:
            self.caches = []
        elif gone:
            for cache in self.caches:
                cache.filter(keep)


class Engine:
    """Answers questions with ``loaded`` and adapters that ``find`` knows by name. Make and :meth:`run` it in the thread that owns MLX.

    ``slots`` answers are written at a time, ``queue`` more may wait. With ``exact`` an answer does not depend on who else asks; see
    ``exact.py``. ``tell`` is called with events from whichever thread they happen in.
    """

    def __init__(
        self, loaded: LoadedModel, find: Find, tell: Tell, *, slots: int = 16, queue: int = 64, exact: bool = True, context: int = 0
    ) -> None:  # fmt: skip
        self.loaded, self.slots, self.queue, self.exact = loaded, slots, queue, exact
        self.rack = Rack(loaded.model)
        self.context = context or _context(loaded)
        moved = movement(loaded.model)
        self.batched = moved is not None
        self.moved = moved or 0.0
        self.kept = Kept(KEPT if self.batched or not exact else 0)  # what was read before moves scores too
        self._decode = copy.deepcopy(loaded.tokenizer._tokenizer).decode  # the other one belongs to the threads that submit
        self._template = ChatTemplate(loaded.tokenizer)
        self._find, self._tell = find, tell
        self._change = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._cancelled: set[str] = set()
        self._closing = False
        self._reading: list[Row] = []
        self._batches: dict[Any, _Batch] = {}
        self._taken = 0  # rows that have a place: reading or in a batch

    def submit(self, ask: Ask) -> None:
        """Take a question in, or raise: ``InputError`` for one that cannot be answered, ``Full`` when too many wait."""
        tokens = self._prompt(ask)
        room = self.context - len(tokens)
        if room < 1:
            raise InputError(
                f"The prompt has {len(tokens):,} tokens, and the model sees {self.context:,} in all.", mend="Shorten it."
            )
        allowed = Grammar(self.loaded.tokenizer, ask.schema).start(1) if ask.schema is not None else None
        seed = random.getrandbits(63) if ask.sampling.seed is None else ask.sampling.seed
        row = Row(ask, tokens, min(room, ask.sampling.max_tokens), seed, self._decode, allowed)
        with self._change:
            ahead = len(self._waiting)
            if ahead + self._taken >= self.slots + self.queue:
                raise Full("Too many questions wait already.", mend="Ask again in a moment.")
            self._tell(Accepted(ask.id, len(tokens), ahead, seed))
            self._waiting.append(row)
            self._change.notify()

    def cancel(self, id: str) -> None:
        """Let go of a question; its place is free before the next token."""
        with self._change:
            self._cancelled.add(id)
            self._change.notify()

    def close(self) -> None:
        """Let :meth:`run` return."""
        with self._change:
            self._closing = True
            self._change.notify()

    def run(self) -> None:
        """Answer until :meth:`close`; the model is the base alone then."""
        with wired_limit(self.loaded.model):
            while self._wait():
                self._drop()
                self._admit()
                if self._reading:
                    self._guarded([self._reading[0]], self._read)
                for batch in list(self._batches.values()):
                    self._guarded(batch.rows, partial(self._step, batch))
                self._batches = {key: batch for key, batch in self._batches.items() if batch.rows}
        self.rack.put(None)

    def _prompt(self, ask: Ask) -> list[int]:
        try:
            json.dumps([[message.as_dict() for message in ask.messages], ask.tools], ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InputError("A message holds half a character (a lone surrogate).", mend="Send valid Unicode.") from error
        prompt = self._template.prompt(ask.messages, ask.tools)
        if ask.tools and prompt == self._template.prompt(ask.messages):
            raise InputError(
                "This model's chat template has no place for tools.", mend="Leave tools out, or say them in the prompt."
            )
        return prompt

    def _wait(self) -> bool:
        """Sleep until there is something to do; ``False`` when it is time to end."""
        with self._change:
            self._change.wait_for(lambda: self._closing or self._waiting or self._cancelled or self._taken)
            return not self._closing

    def _drop(self) -> None:
        """Let go of cancelled questions, wherever they are."""
        with self._change:
            gone, self._cancelled = self._cancelled, set()
            waiting = [row for row in self._waiting if row.ask.id in gone]
            self._waiting = deque(row for row in self._waiting if row.ask.id not in gone)
        for row in waiting:
            self._tell(row.done("cancelled"))
        for row in [row for row in self._reading if row.ask.id in gone]:
            self._end(row, "cancelled")
        for batch in self._batches.values():
            leaving = [at for at, row in enumerate(batch.rows) if row.ask.id in gone]
            for at in leaving:
                row = batch.rows[at]
                self.kept.put(row.adapter, row.tokens[:-1], batch.own(at))
                self._end(row, "cancelled")
            batch.leave(leaving)

    def _admit(self) -> None:
        """Give places to those who wait, in their order."""
        while True:
            with self._change:
                if not self._waiting or self._taken >= self.slots:
                    return
                used = sum(row.positions for row in self._rows)
                if used and used + self._waiting[0].positions > POSITIONS:
                    return
                row = self._waiting.popleft()
                self._taken += 1
            self._reading.append(row)
            self._guarded([row], partial(self._begin, row), kind="adapter")

    @property
    def _rows(self) -> list[Row]:
        return [*self._reading, *(row for batch in self._batches.values() for row in batch.rows)]

    def _begin(self, row: Row) -> None:
        row.begin(self.rack.load(self._find(row.ask.adapter)) if row.ask.adapter else None)
        self.kept.only({None, *self.rack.adapters})
        if found := self.kept.take(row.adapter, row.prompt):
            row.caches, row.read = found
            row.cached = row.read

    def _read(self) -> None:
        """Read one block of the first prompt; a row whose prompt is read joins the others."""
        row = self._reading[0]
        self.rack.put(row.adapter)
        row.caches = row.caches or make_prompt_cache(self.loaded.model)
        last = len(row.prompt) - 1
        if row.read < last:
            block = row.prompt[row.read : min(row.read + BLOCK, last)]
            self.loaded.model(mx.array([block]), cache=row.caches)
            mx.eval([cache.state for cache in row.caches])
            row.read += len(block)
        if row.read == last:
            self._reading.remove(row)
            key = row.adapter if self.batched else row
            batch = self._batches.setdefault(key, _Batch(self.batched))
            if self.batched and last:
                self.kept.put(row.adapter, row.prompt[:last], row.caches)
            batch.join(row)
            row.caches = []
            mx.clear_cache()

    def _step(self, batch: _Batch) -> None:
        """A token for each row of ``batch``."""
        rows = batch.rows
        self.rack.put(rows[0].adapter)
        nexts = mx.array([[row.last] for row in rows])
        scores = self.loaded.model(nexts, cache=batch.caches)[:, -1].astype(mx.float32)
        gone = []
        for at, (row, choice) in enumerate(zip(rows, self._choose(rows, scores), strict=True)):
            if self.exact and choice.margin < SAFETY * self.moved:
                choice = self._choose_alone(row, scores[at])
            fed = row.tokens
            text, ended = row.take(choice.token, self._template.stops)
            if text:
                self._tell(Piece(row.ask.id, text))
            if ended:
                gone.append(at)
                self.kept.put(row.adapter, fed, batch.own(at))
                self._end(row, ended)
        batch.leave(gone)
        if gone:
            mx.clear_cache()

    def _choose(self, rows: Sequence[Row], scores: mx.array) -> list[Choice]:
        if not all(row.free for row in rows):
            scores = mx.concatenate([row.allow(scores[at : at + 1]) for at, row in enumerate(rows)])
        return choose(scores, [row.ask.sampling for row in rows], [row.seed for row in rows], [len(row.said) for row in rows])

    def _choose_alone(self, row: Row, seen: mx.array) -> Choice:
        """The choice that depends on the row alone; ``seen`` are its scores in the batch, from which the tolerance learns."""
        scores = row.scores(self.loaded.model)
        self.moved = max(self.moved, float(mx.abs(scores[0] - seen).max().item()))  # type: ignore[arg-type]
        (choice,) = self._choose([row], scores)
        return choice

    def _end(self, row: Row, ended: Ending) -> None:
        self._leave(row)
        self._tell(row.done(ended))

    def _leave(self, row: Row) -> None:
        """Free a row's place."""
        row.over = True
        if row in self._reading:
            self._reading.remove(row)
        with self._change:
            self._taken -= 1

    def _guarded(self, rows: Sequence[Row], work: Callable[[], None], kind: Kind | None = None) -> None:
        """Do ``work``; where it fails, so do the questions of ``rows``, and no others."""
        hit = list(rows)
        try:
            work()
            return
        except MlxtuneError as error:
            known = error
        except Exception as error:
            traceback.print_exc(file=sys.stderr)
            known = MlxtuneError(f"{type(error).__name__}: {error}", mend="A fault of ours or the machine's; the log has more.")
            kind = "fault"
        for row in hit:
            if not row.over:
                self._leave(row)
                self._tell(Failed.of(row.ask.id, known, kind))
        self._batches = {key: batch for key, batch in self._batches.items() if not set(batch.rows) & set(hit)}


def _context(loaded: LoadedModel) -> int:
    """How many tokens the model was made to see."""
    config = loaded.source.config
    config = config.get("text_config") or config
    return int(config.get("max_position_embeddings") or 8192)
