"""The process that computes: ``python -m mlxtune.serving.worker BASE [--slots N] [--queue N] [--exact] [--beside]``.

It speaks ``protocol.py`` over its standard input and output, finds adapters in the folder it is started in, and ends when its input
does. Unless ``--beside`` it holds the accelerator's lease, and does not start while a run has it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.models import blas
from mlxtune.models.resolve import resolve
from mlxtune.runs.locks import lease
from mlxtune.serving import protocol, shelf
from mlxtune.serving.protocol import Event, Failed, Kind, Ready

NOBODY = "?"  # whom a line that cannot be read is answered to; no id at all would be the end of the process
PATIENCE = 5.0  # seconds that what is being computed may take to end when nobody listens any more


class _Ear:
    """Listens to what is asked, so that the thread that owns MLX never waits for input."""

    def __init__(self) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._engine: Any = None
        threading.Thread(target=self._listen, name="ear", daemon=True).start()

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            self._lines.put(line)
        if self._engine:
            self._engine.close()
            threading.Event().wait(PATIENCE)
        os._exit(0)  # nobody waits for what may still be computed or loaded

    def hand_to(self, engine: Any, tell: Any) -> None:
        """Let ``engine`` answer what was asked and will be."""
        self._engine = engine
        threading.Thread(target=self._pass_on, args=(engine, tell), name="asks", daemon=True).start()

    def _pass_on(self, engine: Any, tell: Any) -> None:
        while True:
            _obey(self._lines.get(), engine, tell)


def _obey(line: bytes, engine: Any, tell: Any) -> None:
    """Do what ``line`` says; whatever is wrong with it is told, and the next one is listened to."""
    from mlxtune.serving.engine import Full

    told: Any = {}
    try:
        told = json.loads(line)
        if told["do"] == "cancel":
            engine.cancel(told["id"])
        else:
            engine.submit(protocol.parse_ask(told))
    except MlxtuneError as error:
        kind: Kind | None = "full" if isinstance(error, Full) else None
        tell(Failed.of(str(told.get("id") or NOBODY), error, kind))
    except Exception as error:
        name = str(told.get("id") or NOBODY) if isinstance(told, dict) else NOBODY
        tell(Failed(name, "fault", f"{type(error).__name__}: {error}", "A fault of ours.", 4))


def work(asked: argparse.Namespace, ear: _Ear, tell: Any) -> None:
    """Load the base and answer until nobody asks any more. Raises ``ModelError`` where it cannot be loaded."""
    source = resolve(asked.base)
    from mlxtune.models.load import load  # these import mlx, which must come after the BLAS
    from mlxtune.serving.engine import Engine

    loaded = load(source)
    here = Path.cwd()
    engine = Engine(
        loaded, lambda name: shelf.find(here, name, source.fingerprint).folder, tell, slots=asked.slots, queue=asked.queue, exact=asked.exact
    )  # fmt: skip
    tell(Ready(source.name, source.fingerprint, loaded.path, engine.context, loaded.seconds))
    ear.hand_to(engine, tell)
    engine.run()


def _lease(beside: bool) -> ExitStack:
    """The accelerator's lease, held until the stack is closed. Raises ``MachineError`` where another has it."""
    held = ExitStack()
    if not beside:
        try:
            held.enter_context(lease(f"a chat or server in {Path.cwd()}"))
        except MachineError as error:
            raise MachineError(
                error.message, mend="Wait for it, stop it, or run beside it with --beside: both get slower."
            ) from error
    return held


def main() -> int:
    """Entry point. Standard output is kept for events: whatever else is printed goes to the log."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lock = threading.Lock()

    def tell(event: Event) -> None:
        with lock:
            said.write(protocol.event_line(event))
            said.flush()

    parser = argparse.ArgumentParser()
    parser.add_argument("base")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--beside", action="store_true")
    asked = parser.parse_args()
    ear = _Ear()
    blas.preload()
    try:
        with _lease(asked.beside):
            work(asked, ear, tell)
    except BrokenPipeError:  # nobody listens any more
        return 0
    except Exception as error:
        known = (
            error if isinstance(error, MlxtuneError) else MlxtuneError(f"{type(error).__name__}: {error}", mend="A fault of ours.")
        )
        tell(Failed.of("", known))
        return known.exit_code
    return 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the ear may be listening still, which an orderly end would trip over
