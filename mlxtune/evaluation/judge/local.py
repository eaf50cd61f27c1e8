"""A local model as the judge. It runs in its own process, so MLX is not imported here, and closing it frees its memory.

Questions that several threads ask at the same time are answered in one batch.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

from mlxtune.core.child_process import ChildProcess

LOG = "worker.log"
BATCH_SIZE = 16  # questions answered in one batch


class LocalJudge:
    """An :data:`AskJudge` that decodes greedily with one loaded model. Leaving its ``with`` block ends the process."""

    def __init__(self, model: Path, folder: Path) -> None:
        """Load the model in the folder ``model``; the process logs to ``worker.log`` in ``folder``.

        Raises any error from loading, and ``MachineError`` if the process dies or the accelerator is in use.
        """
        log = folder / LOG
        self._child = ChildProcess(
            "mlxtune.evaluation.judge.judge_worker", str(BATCH_SIZE), name="The judge process", hint=f"Its log: {log}", log=log
        )
        try:
            self.path = str(self._child.call("load", {"model": str(model)}))
        except BaseException:
            self.close()
            raise

    def __call__(self, messages: list[dict[str, str]]) -> str:
        """Return the reply to ``messages``. Raises ``MachineError`` if the process died, and chat template errors."""
        return str(self._child.call("reply", {"messages": messages}))

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._child.__exit__(kind, error, trace)
