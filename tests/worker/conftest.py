from collections.abc import Iterator
from pathlib import Path

import pytest
from in_process_workers import workers_in_process
from waiting import kill_worker

from mlxtune.runs import registry
from mlxtune.runs.locks import is_locked

__all__ = ["workers_in_process"]


@pytest.fixture
def workspace(workspace: Path) -> Iterator[Path]:
    """The shared workspace. Runs that a failed test leaves behind are killed, so that they do not block the next test."""
    yield workspace
    for run in registry.list_runs(workspace, None):
        if is_locked(run.lock):
            kill_worker(run)
