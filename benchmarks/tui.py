"""The app on a terminal: time to first paint, to the first rows, and from a key press to its effect while a run trains.

    python benchmarks/tui.py [--json] [--starts 9] [--rows 1000000] [--presses 150] [--rate 200]

The app runs on a pseudo-terminal, and times are taken at its output: from the start of the process to the first screen; from the
key that opens Data to its first row, before and after the file is indexed; and from a key to the screen that answers it, while
another process appends ``--rate`` events per second to the journal of the shown run.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import FOLDER, environment

sys.path[:0] = [str(FOLDER.parent), str(FOLDER.parent / "tests")]

from tests.tui.terminal import terminal  # noqa: E402

TARGETS = {"first paint": 0.5, "open": 1.0, "key to paint, p50": 0.030, "key to paint, p95": 0.060}
RECIPE = 'name = "bench"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "../rows.jsonl"\n'
WORKER = """
import math, sys, time
from pathlib import Path
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import file_lock
folder, first, count, rate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with file_lock(folder / "run.lock", busy="busy"):
    writer = EventWriter(folder)
    if first == 1:
        writer.emit("run.started", kind="train", name="bench", base="smollm2-135m", pid=1, host="here", steps=20_000)
        writer.emit("model.loaded", base="smollm2-135m", path="4-bit", parameters=1, seconds=1.0, limit=24 << 30)
        writer.emit("data.ready", train=900, valid=100, test=100, tokens=1, trained=1, truncated=0, steps=20_000, epochs=1)
    start = time.perf_counter()
    for index in range(count):
        step = first + index
        loss = 0.6 + 1.5 * math.exp(-step / 900) + 0.1 * math.sin(step * 2.3)
        facts = {"rate": 1e-4, "tokens": 900, "speed": 1842.0, "memory": 12 << 30, "peak": 13 << 30, "epoch": 1.0}
        if step % 50:
            writer.emit("step", step=step, loss=loss, **facts)
        else:
            writer.emit("validation", step=step, loss=loss, tokens=9000)
        if rate:
            time.sleep(max(0.0, start + (index + 1) / rate - time.perf_counter()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--starts", type=int, default=9, help="number of starts")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--presses", type=int, default=150)
    parser.add_argument("--rate", type=float, default=200, help="events per second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shop, home = Path(folder) / "shop", Path(folder) / "home"
        run = workspace(shop, options.rows)
        start = starts(shop, home, options.starts)
        opened = [open_rows(shop, home) for _ in range(2)]
        pressed = presses(shop, home, run, options.presses, options.rate)
    all_seconds = [seconds for kind in pressed.values() for seconds in kind]
    measured = {
        "first paint": statistics.median(start),
        "open": opened[1],
        "key to paint, p50": quantile(all_seconds, 0.5),
        "key to paint, p95": quantile(all_seconds, 0.95),
    }
    result = {
        **environment("textual", "numpy"),
        "first paint": {"median": statistics.median(start), "worst": max(start), "starts": len(start)},
        "open": {"rows": options.rows, "first time": opened[0], "again": opened[1]},
        "keys": {
            "events per second": options.rate,
            **{kind: {"p50": quantile(found, 0.5), "p95": quantile(found, 0.95)} for kind, found in pressed.items()},
        },
        "targets": {name: {"measured": measured[name], "target": target, "met": measured[name] <= target} for name, target in TARGETS.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else table(result))


def log(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


def workspace(shop: Path, rows: int) -> Path:
    """Create a workspace with ``rows`` short conversations and a finished run of 1,000 steps; return the run's folder."""
    log(f"{rows:,} rows")
    run = shop / "runs" / "20261124-1412-bench"
    for folder in (shop / "recipes", run):
        folder.mkdir(parents=True)
    (shop / "recipes" / "bench.toml").write_text(RECIPE)
    (run / "recipe.toml").write_text(RECIPE)
    with (shop / "rows.jsonl").open("w") as out:
        for index in range(rows):
            turns = [
                ("user", f"Question {index}: where is parcel {index * 7919 % rows}?"),
                ("assistant", "We look into it at once."),
            ]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    subprocess.run([sys.executable, "-c", WORKER, str(run), "1", "1000", "0"], check=True)
    return run


def starts(shop: Path, home: Path, count: int) -> list[float]:
    """Return the seconds from the start of the process to the first screen."""
    seconds = []
    for index in range(count + 1):
        start = time.perf_counter()
        with terminal(shop, home) as screen:
            screen.until("^p more")
            seconds.append(time.perf_counter() - start)
            screen.press("\x11")
            screen.end()
        log(f"start {index}: {seconds[-1] * 1000:.0f} ms" + ("" if index else " (not counted: cold file cache)"))
    return seconds[1:]


def open_rows(shop: Path, home: Path) -> float:
    """Return the seconds from the key that opens Data to its first row."""
    with terminal(shop, home) as screen:
        screen.until("Workflow")
        start = time.perf_counter()
        screen.press("D", shows="Question 0")
        seconds = time.perf_counter() - start
        log(f"Data: {seconds * 1000:.0f} ms")
        screen.press("H", shows="▎ Home")  # the next start opens Home
        screen.press("\x11")
        screen.end()
    return seconds


def presses(shop: Path, home: Path, run: Path, count: int, rate: float) -> dict[str, list[float]]:
    """Return the seconds from a key to the screen that answers it, by action, while the run's journal grows."""
    rng = random.Random(7)
    seconds_by_action: dict[str, list[float]] = {"zoom": [], "focus": [], "room": []}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(run), "1001", "100000", str(rate)])
    try:
        with terminal(shop, home) as screen:
            screen.until("Workflow")
            screen.press("T", shows="▎ Train")
            zoomed = False
            for index in range(count):
                screen.wait(0.05 + rng.random() * 0.15)
                match index % 3:
                    case 0:
                        zoomed = not zoomed
                        seconds_by_action["zoom"].append(timed(screen, "z", "z whole" if zoomed else "z zoom"))
                    case 1:
                        seconds_by_action["focus"].append(timed(screen, "\t", "▌ Log"))
                        screen.press("\t", shows="▌ Loss")
                    case _:
                        seconds_by_action["room"].append(timed(screen, "H", "▎ Home"))
                        screen.press("T", shows="▎ Train")
            log(f"{count} keys while {rate:.0f} events per second arrived")
            screen.press("\x11")
            screen.end()
    finally:
        worker.kill()
        worker.wait()
    return seconds_by_action


def timed(screen: Any, key: str, shows: str) -> float:
    start = time.perf_counter()
    screen.press(key, shows=shows)
    return time.perf_counter() - start


def quantile(values: list[float], fraction: float) -> float:
    """Return the measured value at quantile ``share`` of ``values``."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(fraction * len(ordered)) - 1)]


def table(result: dict[str, Any]) -> str:
    """Print the result as text."""
    rows = [f"{result['machine']['chip']}, {result['machine']['cores']} cores, textual {result['versions']['textual']}", ""]
    for target, figures in result["targets"].items():
        name = f"{result['open']['rows']:,} rows" if target == "open" else target
        rows.append(
            f"{name:<22}{figures['measured'] * 1000:>8.0f} ms   target {figures['target'] * 1000:>5.0f}   {'✓' if figures['met'] else '✗'}"
        )
    opened = result["open"]
    rows += ["", f"{opened['rows']:,} rows, first time: {opened['first time']:.2f} s"]
    for kind in ("zoom", "focus", "room"):
        rows.append(f"{kind:<22}{result['keys'][kind]['p50'] * 1000:>8.0f} ms   p95 {result['keys'][kind]['p95'] * 1000:>5.0f} ms")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
