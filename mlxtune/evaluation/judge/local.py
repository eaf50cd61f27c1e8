"""A model on this machine as judge. It lives in a process of its own: mlx is not imported here, and its memory goes with it.

Questions that are asked at the same time, from several threads, are answered in one batch.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from queue import Empty, Queue
from types import TracebackType
from typing import Any

from mlxtune.core.errors import InputError, MachineError, MlxtuneError
from mlxtune.core.files import disk_errors
from mlxtune.core.text import one_line

LOG = "worker.log"
_WORKER = "mlxtune.evaluation.judge.worker"
TOGETHER = 16  # questions that are answered in one batch
_GATHER = 0.05  # seconds that the first question of a batch waits for others
_PATIENCE = 10.0  # seconds that a worker may take to end once nobody asks any more

Asked = tuple[list[dict[str, str]], "Future[str]"]


class Local:
    """An ``Asker``: one loaded model answers each question greedily. To be used in a ``with``; leaving it ends the model's process."""

    def __init__(self, model: Path, folder: Path) -> None:
        """Load the model in the folder ``model``; what its process prints goes to ``worker.log`` in ``folder``.

        Raises what loading raises, and ``MachineError`` when the process ends or the accelerator is in use.
        """
        self._log = folder / LOG
        with disk_errors(LOG), self._log.open("wb") as log:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self._waiting: Queue[Asked | None] = Queue()
        self._asking = threading.Thread(target=self._ask, name="local judge", daemon=True)
        try:
            self.path = str(self._read()["path"])
            self._asking.start()
        except BaseException:
            self.close()
            raise

    def __call__(self, messages: list[dict[str, str]]) -> str:
        """The reply to ``messages``. Raises ``MachineError`` when the process ended, and what the model's template raises."""
        reply: Future[str] = Future()
        self._waiting.put((messages, reply))
        return reply.result()

    def _ask(self) -> None:
        """Hand on what waits, a batch at a time, until the end is asked for."""
        while (first := self._waiting.get()) is not None:
            batch, ends = [first], False
            while len(batch) < TOGETHER and not ends:
                try:
                    following = self._waiting.get(timeout=_GATHER)
                except Empty:
                    break
                ends = following is None
                batch += [following] if following is not None else []
            try:
                replies = self._answered([messages for messages, _ in batch])
                for (_, reply), text in zip(batch, replies, strict=True):
                    reply.set_result(str(text))
            except Exception as error:
                for _, reply in batch:
                    reply.set_exception(error)
            if ends:
                return

    def _answered(self, batch: list[list[dict[str, str]]]) -> list[Any]:
        assert self._worker.stdin
        try:
            self._worker.stdin.write(json.dumps(batch).encode() + b"\n")
            self._worker.stdin.flush()
        except OSError as error:
            raise self._ended() from error
        return list(self._read()["replies"])

    def _read(self) -> dict[str, Any]:
        assert self._worker.stdout
        match _parsed(self._worker.stdout.readline()):
            case {"error": str(text), "mend": str(mend), "code": int(code)}:
                kind: type[MlxtuneError] = InputError if code == InputError.exit_code else MachineError
                raise kind(text, mend=mend)
            case dict(told):
                return told
        raise self._ended()

    def _ended(self) -> MachineError:
        lines = self._log.read_text("utf-8", "replace").strip().splitlines()
        last = f": {one_line(lines[-1], 200)}" if lines else ""
        return MachineError(f"The judge's process ended without a reply{last}.", mend=f"Its log: {self._log}")

    def close(self) -> None:
        """End the process, by letting it see that nobody asks any more; by force where it does not hear."""
        self._waiting.put(None)
        if self._asking.is_alive():
            self._asking.join(_PATIENCE)
        for pipe in (self._worker.stdin, self._worker.stdout):
            try:
                if pipe:
                    pipe.close()
            except OSError:
                pass
        try:
            self._worker.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()

    def __enter__(self) -> Local:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
