"""Follow one run's journal: fold and narrate each event once, whatever a crash or a resume does to the file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from mlxtune.core.text import one_line, safe_text
from mlxtune.runs import events
from mlxtune.runs.events import Event
from mlxtune.runs.narrate import Line, narrate
from mlxtune.runs.registry import Run
from mlxtune.runs.state import RunState, fold

_LONG = frozenset({"prompt", "output"})  # fields that keep their line breaks
_BROKEN = (KeyError, TypeError, ValueError, AttributeError)  # what a line that is JSON but no event of ours leads to


class Follower:
    """The state and the story of one run, kept up to date by :meth:`read`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events_stamp: object = None
        self._log_stamp: object = None
        self._log_tail: tuple[str, ...] = ()
        self._restart()

    def _restart(self) -> None:
        self._tail = events.tail(self._run.folder)
        self._seen = 0
        self._size = 0
        self.state = RunState()
        self.log: list[Line] = []
        self.digest: list[Line] = []
        self.rows: tuple[int, int, int] | None = None
        self._after_step = False

    def read(self) -> None:
        """Take in what was added. A file that shrank, or events out of order, are read again from the start."""
        mark = stamp(self._run.folder / events.FILE)
        if mark == self._events_stamp:
            return
        self._events_stamp = mark
        size = mark[1] if mark else 0
        if size < self._size:
            self._restart()
        self._size = size
        new = self._tail.read()
        if any(event.get("seq") != self._seen + at for at, event in enumerate(new)) and self._seen:
            self._restart()  # a torn line was cut and written over between two looks at the file
            self._size = size
            new = self._tail.read()
        self._seen += len(new)
        self._take([_safe(event) for event in new])

    def _take(self, new: list[Event]) -> None:
        try:
            self.state = fold(new, self.state) if new else self.state
        except _BROKEN:
            for event in new:
                try:
                    self.state = fold([event], self.state)
                except _BROKEN:
                    continue
        for event in new:
            try:
                told = narrate(event)
            except _BROKEN:
                told = Line(time.time(), "!", "warning", f"an event of type {event.get('type', 'unknown')} could not be read")
            if event.get("type") == "data.ready":
                self.rows = _rows(event)
            if told is None:
                continue
            step = event.get("type") == "step"
            if step and self._after_step:
                self.digest[-1] = told
            else:
                self.digest.append(told)
            self.log.append(told)
            self._after_step = step

    def worker_log(self) -> tuple[str, ...]:
        """The last lines that the worker's process printed, safe to show."""
        mark = stamp(self._run.log)
        if mark != self._log_stamp:
            self._log_stamp = mark
            self._log_tail = tuple(one_line(line, 400) for line in self._run.log_tail(6))
        return self._log_tail


def stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does: time, size, and which file it is; ``None`` if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _safe(event: Event) -> Event:
    """The event with every string in it made safe for a terminal, on one line but for prompts and outputs."""
    return {key: _safe_value(value, key in _LONG) for key, value in event.items()}


def _safe_value(value: Any, long: bool) -> Any:
    if isinstance(value, str):
        return safe_text(value).expandtabs(4) if long else one_line(value)
    if isinstance(value, dict):
        return {one_line(str(key)): _safe_value(item, long) for key, item in value.items()}
    return [_safe_value(item, long) for item in value] if isinstance(value, list) else value


def _rows(event: Event) -> tuple[int, int, int] | None:
    try:
        return int(event["train"]), int(event["valid"]), int(event["test"])
    except _BROKEN:
        return None
