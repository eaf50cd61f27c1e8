"""What the fault cases interrupt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.runs.worker import Worker


@dataclass(frozen=True)
class Scenario:
    """A run in ``folder`` of a workspace, such as ``runs``. All functions but ``install`` get the run's folder.

    ``prepare`` creates it, and ``install`` returns its work, after replacing what would take long. ``check`` asserts after the fault that
    nothing is lost, and ``end`` describes the final state, without times. The last ``final`` operations are tried more densely.
    """

    folder: str
    prepare: Callable[[Path], None]
    install: Callable[[], Callable[[Worker], Mapping[str, Any]]]
    check: Callable[[Path], None]
    end: Callable[[Path], dict[str, Any]]
    final: int = 0
