"""Handle keys one at a time, in the order in which they were typed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from textual import events
from textual.app import App
from textual.timer import Timer

_PATIENCE = 2.0  # seconds after which keys are forwarded in any case: a widget that is being removed never handles its key


class _TrackedKey(events.Key):
    """A key that reports when a widget has handled it."""

    def __init__(self, key: events.Key, on_stop: Callable[[_TrackedKey], None]) -> None:
        super().__init__(key.key, key.character)
        self.time = key.time  # when it was typed
        self.set_sender(None)  # type: ignore[arg-type]  # if the app were its sender, the screen would stop the key before the app's bindings see it
        self._on_stop = on_stop

    def stop(self, stop: bool = True) -> _TrackedKey:
        super().stop(stop)
        self._on_stop(self)
        return self


_TrackedKey.handler_name = events.Key.handler_name  # Textual derives it from the name of the class


class OrderedKeys(App[None]):
    """An app that forwards a key only after the previous one has been handled.

    Textual forwards each key at once to the focused widget, and runs a binding only after the key has bubbled up from there. If
    the first key moves the focus, a second one that was typed quickly still goes to the old widget: a letter meant for a text
    field then runs an action.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._typed: deque[events.Key] = deque()
        self._current: _TrackedKey | None = None
        self._patience: Timer | None = None
        self._between_keys: deque[Callable[[], object]] = deque()
        self._hold: Timer | None = None

    def hold_keys(self) -> None:
        """Forward no key until :meth:`release_keys`, or until the time is up: the keys are meant for the result of a job."""
        self._hold = self.set_timer(_PATIENCE, self.release_keys)

    def release_keys(self) -> None:
        """Forward the keys typed since :meth:`hold_keys`."""
        if self._hold is not None:
            self._hold.stop()
            self._hold = None
            self.call_later(self._forward_next)

    def call_between_keys(self, callback: Callable[..., object], *args: object) -> None:
        """Call ``callback`` when no key is being handled, because it moves what keys act on. Safe to call from any thread."""
        self.call_later(self._call_between_keys, partial(callback, *args))

    def _call_between_keys(self, callback: Callable[[], object]) -> None:
        if self._current is None:
            callback()
        else:
            self._between_keys.append(callback)

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key) and not self.screen_stack:  # typed while the app exits
            return
        if isinstance(event, events.Key) and not event.is_forwarded:
            self._typed.append(event)
            if self._current is None:
                await self._forward_next()
            return
        await super().on_event(event)
        if isinstance(event, _TrackedKey):
            self._on_stop(event)

    def _on_stop(self, key: _TrackedKey) -> None:
        """Forward the next key, but only after the changes of focus and of room that this one has requested."""
        self.call_later(self._forward_next, key)

    async def _forward_next(self, handled: _TrackedKey | None = None) -> None:
        if handled is not self._current:  # reported twice, or only after its time was up
            return
        self._current = None
        if self._patience is not None:
            self._patience.stop()
        while self._between_keys:
            self._between_keys.popleft()()
        while self._typed and self._current is None and self._hold is None and self.screen_stack:
            key = self._current = _TrackedKey(self._typed.popleft(), self._on_stop)
            await super().on_event(key)
            if not key.is_forwarded:  # a priority binding handled it
                self._current = None
        if self._current is not None:
            self._patience = self.set_timer(_PATIENCE, partial(self._on_stop, self._current))
