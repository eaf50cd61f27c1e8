"""A fake workspace, the story a worker tells in it, and what a test asks of the app."""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from textual.css.query import NoMatches
from waiting import PATIENCE

from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import file_lock
from mlxtune.runs.registry import RUN_KINDS
from mlxtune.tui.app import MlxtuneApp, SnapshotTaken
from mlxtune.workspace.index import Snapshot, WorkspaceIndex

NOW = 1_795_530_000.0  # a Tuesday afternoon
GB = 2**30

RECIPE = """name = "{name}"
[model]
base = "smollm2-135m"
[data]
source = "../data/support.jsonl"
"""


Event = tuple[str, dict[str, Any]]
FINISHED: Event = ("run.finished", {"summary": {}})


def started(kind: str, name: str = "support-json", **more: Any) -> Event:
    return "run.started", {"kind": kind, "name": name, "base": "smollm2-135m", "pid": 1, "host": "mac", **more}


_JOURNALS: dict[str, bytes] = {}  # of runs, as they were first written


class Shop:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, stack: ExitStack) -> None:
        self.folder = folder
        self.monkeypatch, self._stack = monkeypatch, stack
        folder.mkdir()

    def recipe(self, name: str = "support-json", text: str = "") -> Path:
        path = self.folder / "recipes" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text or RECIPE.format(name=name))
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "data" / "support.jsonl").touch()
        return path

    def run(
        self,
        id: str,
        *,
        steps: int = 0,
        total: int = 960,
        age: float = 0.0,
        end: Event | None = None,
        alive: bool = False,
        samples: bool = False,
        lost: int | None = None,
        printed: str = "",
        name: str = "",
        kind: str = "train",
        pairs: bool = False,
        adapter: bool = False,
    ) -> Path:
        """A run folder whose last event is ``age`` seconds before ``NOW``; ``alive`` holds its lock, ``pairs`` makes it DPO."""
        folder = self.folder / RUN_KINDS[kind].folder / id
        folder.mkdir(parents=True)
        name = name or id.split("-", 2)[2]
        (folder / "recipe.toml").write_text(RECIPE.format(name=name).replace("../data", "../../data"))
        if printed:
            (folder / "worker.log").write_text(printed)
        if adapter:
            (folder / "adapter").mkdir()
            (folder / "adapter" / "adapters.safetensors").touch()
        journal, key = folder / "events.jsonl", repr((name, steps, total, samples, lost, pairs, end, age))
        if key in _JOURNALS:
            journal.write_bytes(_JOURNALS[key])
        else:
            self.tell(folder, [*story(name, steps, total, samples, lost, pairs), *([end] if end else [])], age)
            _JOURNALS[key] = journal.read_bytes()
        if alive:
            self.hold(folder)
        return folder

    def tell(self, folder: Path, events: list[Event], age: float = 0.0) -> None:
        """Append events, one a second, the last of them ``age`` seconds before ``NOW``."""
        times = iter([NOW - age - len(events) + at for at in range(1, len(events) + 1)])
        with self.monkeypatch.context() as patch:
            patch.setattr("mlxtune.runs.events.time", SimpleNamespace(time=lambda: next(times)))
            patch.setattr("mlxtune.core.journal.Journal.sync", lambda self: None)
            with EventWriter(folder) as writer:
                for type, fields in events:
                    writer.emit(type, **fields)

    def hold(self, folder: Path) -> None:
        self._stack.enter_context(file_lock(folder / "run.lock", busy="busy"))

    def snapshot(self, now: float = NOW) -> Snapshot:
        return WorkspaceIndex(self.folder, lambda: now).read()

    def app(self, now: float = NOW, room: str = "") -> MlxtuneApp:
        """The app on a snapshot of now, opened in a room; later ones are posted by the test."""
        app = MlxtuneApp(self.folder, watch=False, state={"room": room})
        app.snapshot = self.snapshot(now)
        return app


def loss(step: int) -> float:
    """A curve like a real one: steep, then flat, with a ripple for noise."""
    return 0.66 + 1.5 * math.exp(-step / 95) - 0.00016 * step + 0.11 * math.sin(step * 2.3)


def rewards(step: int) -> dict[str, float]:
    """What a preference run measures: the chosen answer gains slowly, the rejected one loses more."""
    grown = 1 - math.exp(-step / 160)
    chosen, rejected = 0.5 * grown + 0.15 * math.sin(step * 1.9), -1.4 * grown + 0.2 * math.sin(step * 2.7)
    accuracy = min(1.0, 0.52 + 0.4 * grown + 0.06 * math.sin(step * 3.1))
    means = {"rewards/chosen": chosen, "rewards/rejected": rejected, "rewards/margins": chosen - rejected}
    return {**means, "rewards/accuracies": accuracy, "logps/chosen": -80.0, "logps/rejected": -95.0}


def story(name: str, steps: int, total: int, samples: bool, lost: int | None, pairs: bool = False) -> list[Event]:
    """What a training worker says up to ``steps``."""
    loaded = {"base": "smollm2-135m", "path": "4-bit on Metal", "parameters": 1, "seconds": 2.9, "limit": 24 * GB}
    events: list[Event] = [started("train", name, steps=total), ("model.loaded", loaded)]
    if not steps:
        return events
    rows = {"train": 1069, "valid": 80, "test": 181, "tokens": 190_000, "trained": 61_000, "truncated": 0}
    events.append(("data.ready", {**rows, "steps": total, "epochs": 2}))
    speed = {"tokens": 900, "memory": round(11.8 * GB), "peak": round(13.4 * GB), "epoch": 1.0}
    answer = '{"category": "shipping", "priority": "normal", "answer": "It left Hamburg on Monday."}'
    sample = {"row": "a", "prompt": "Where is my parcel?", "output": answer, "outcome": "passes"}
    for step in range(1, steps + 1):
        facts = {"loss": None if step == lost else loss(step), "rate": 2e-4 * (1 - step / total / 2), "speed": 1842.0 + step % 7}
        metrics = {"metrics": rewards(step)} if pairs else {}
        events.append(("step", {"step": step, **facts, **speed, **metrics}))
        if step % 50 == 0:
            metrics = {"metrics": {**rewards(step), "kl": 0.004 * step**0.8}} if pairs else {}
            valid = 0.73 + 1.5 * math.exp(-step / 95) - 0.00016 * step
            events.append(("validation", {"step": step, "loss": valid, "tokens": 9000, **metrics}))
            events.append(("checkpoint", {"step": step, "seconds": 0.3}))
            events += [("sample", {"step": step, **sample})] if samples else []
    return events


def shown(app: MlxtuneApp) -> str:
    return "\n".join("".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips())


async def until(pilot: Any, true: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Let the app work until something is true and laid out. A widget that is not there yet makes it false.

    It is checked less and less often, because a check takes time from the worker that the test waits for.
    """
    give_up, interval = time.monotonic() + seconds, 0.01
    while True:
        with suppress(NoMatches):
            if true() and not pilot.app.screen._layout_required:
                return
        assert time.monotonic() < give_up, f"never came true; on screen:\n{shown(pilot.app)}"
        await pilot.pause(interval)
        interval = min(0.2, 1.3 * interval)


async def observe(pilot: Any, snapshot: Snapshot) -> None:
    pilot.app.post_message(SnapshotTaken(snapshot))
    await pilot.pause()
