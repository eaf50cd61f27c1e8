"""Follow a run's event log. Each event is applied once, even if a crash or a resume rewrites the file."""

from dataclasses import replace
from typing import Any, cast

from mlxtune.core.files import FileStamp, file_stamp
from mlxtune.core.text import one_line, safe_text
from mlxtune.runs import events
from mlxtune.runs.registry import Run
from mlxtune.runs.state import UNREADABLE, RunState, refused_state

_MULTILINE = frozenset({"prompt", "output"})  # fields that keep their line breaks

_PROGRESS = frozenset({"heartbeat", "reference", "replay", "validating", "arm.progress", "sample"})


class Follower:
    """The state and the log of a run, updated by :meth:`read`."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._events_stamp: FileStamp | None = None
        self._output_stamp: FileStamp | None = None
        self._output: tuple[str, ...] = ()
        self._restart()

    def _restart(self) -> None:
        self._reader = events.EventReader(self._run.folder)
        self._next_seq = 0
        self._size = 0
        self.state = RunState()
        self.log: list[events.Event] = []
        self.rows: tuple[int, int, int] | None = None
        self._dropped_history = False

    def drop_history(self) -> None:
        """Keep only the last step of a run that has ended. If it continues, its log is read again from the start."""
        if not self._dropped_history:
            self._dropped_history = True
            self.state = replace(self.state, steps=self.state.steps[-1:], samples=[])
            self.log = []

    def read(self) -> RunState:
        """Process newly added events, and return the state. A file that shrank or has events out of order is read again from the start."""
        stamp = file_stamp(self._run.folder / events.FILE)
        if stamp == self._events_stamp:
            return self.state
        self._events_stamp = stamp
        size = stamp[1] if stamp else 0
        if size < self._size or self._dropped_history:
            self._restart()
        self._size = size
        try:
            new = self._reader.read()
            if self._next_seq and new and new[0]["seq"] != self._next_seq:
                self._restart()  # a partial line was overwritten between two reads
                self._size = size
                new = self._reader.read()
            safe = ({key: _safe_value(value, key in _MULTILINE) for key, value in one.items()} for one in new)
            self._apply(cast(list[events.Event], list(safe)))
        except UNREADABLE as error:
            self.state = refused_state(error, self._run.id)
        return self.state

    def _apply(self, new: list[events.Event]) -> None:
        if not new:
            return
        self._next_seq = new[-1]["seq"] + 1
        self.state = self.state.apply(new)
        self.log += [event for event in new if event["type"] not in _PROGRESS]
        for event in new:
            if event["type"] == "data.ready":
                self.rows = event["train"], event["valid"], event["test"]

    def process_output(self) -> tuple[str, ...]:
        """Return the last lines that the worker process printed, safe to display."""
        stamp = file_stamp(self._run.log)
        if stamp != self._output_stamp:
            self._output_stamp = stamp
            self._output = tuple(one_line(line, 400) for line in self._run.log_tail(6))
        return self._output


def _safe_value(value: Any, multiline: bool) -> Any:
    """Make every string in a value of an event safe for a terminal, and put it on one line unless it may have several."""
    if isinstance(value, str):
        return safe_text(value).expandtabs(4) if multiline else one_line(value)
    if isinstance(value, dict):
        return {one_line(str(key)): _safe_value(item, multiline) for key, item in value.items()}
    return [_safe_value(item, multiline) for item in value] if isinstance(value, list) else value
