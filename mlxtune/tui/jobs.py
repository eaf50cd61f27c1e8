"""Jobs: the one way in which the app runs work off its thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.tui.notices import Notice

if TYPE_CHECKING:
    from mlxtune.tui.app import MlxtuneApp

T = TypeVar("T")
OnError = Callable[[MlxtuneError], object]
_BUSY = Notice("warning", "Another task is still running.", "Try again when it has finished.")


class Jobs:
    """Runs functions in threads and passes their results to the app's thread."""

    def __init__(self, app: MlxtuneApp) -> None:
        self._app = app
        self.busy = False
        self.busy_notice = _BUSY  # what the app is busy with, for keys that have to wait
        self._counts: Counter[str] = Counter()  # jobs started, by group

    def run(
        self, job: Callable[[], T], on_result: Callable[[T], object] | None = None, on_error: OnError | None = None, *,
        group: str = "job", exclusive: bool = True, busy: str | None = None, holds_keys: bool = False,
    ) -> bool:  # fmt: skip
        """Run ``job`` in a thread, then pass its result to ``on_result`` in the app's thread.

        Without ``on_result``, a :class:`Notice` returned by the job is shown. ``MlxtuneError`` and ``OSError`` are passed to
        ``on_error``; without it, they are shown as a notice. The result of a job is dropped if a newer job in its ``group`` was
        started, unless ``exclusive`` is false. With ``busy``, a sentence to show (may be empty), the app is busy until the job
        ends and rejects other such jobs. If it also ``holds_keys``, keys that are typed meanwhile act on its result. Return
        whether the job was started.
        """
        app = self._app
        if busy is not None:
            if self.refuse_if_busy():
                return False
            self.busy, group = True, "busy"
            self.busy_notice = replace(_BUSY, kind="working", text=busy) if busy else _BUSY
            app.notices.show(Notice("working", busy) if busy else None)
            if holds_keys:
                app.hold_keys()
        self._counts[group] += 1
        number = self._counts[group]

        def finish(callback: Callable[[Any], object], value: object) -> None:
            if exclusive and self._counts[group] != number:
                return
            if busy is not None:
                self.busy, app.notices.current = False, None
                app.release_keys()
            callback(value)
            if busy is not None:
                app.redraw()

        def work() -> None:
            try:
                result = job()
            except MlxtuneError as error:
                app.call_later(finish, on_error or app.notices.show_error, error)
            except OSError as error:
                app.call_later(finish, on_error or app.notices.show_error, MachineError(one_line(str(error))))
            else:
                app.call_later(finish, on_result or self._show_result, result)

        app.run_worker(work, thread=True, group=group)
        return True

    def refuse_if_busy(self) -> bool:
        """Show a notice if the app is busy. Return whether it is."""
        if self.busy:
            self._app.notices.show(self.busy_notice)
        return self.busy

    def _show_result(self, result: object) -> None:
        if isinstance(result, Notice):
            self._app.notices.show(result)
