"""The app on a terminal: how soon it paints, how soon its rows are there, and how long a key takes while a run trains.

    python benchmarks/tui.py [--json] [--starts 9] [--rows 1000000] [--presses 150] [--rate 200]

The real app runs on a pseudo-terminal, and times are taken where its bytes come out: from the start of the process to the first
picture; from the key that opens Data to its first row, once before and once after the file's index is known; and from a key to the
picture that answers it, while another process writes ``--rate`` events a second into the journal of the run on show.
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

from common import HERE, where

sys.path.insert(0, str(HERE.parent))

from tests.tui.terminal import terminal

TARGETS = {"first paint": 0.5, "open": 1.0, "key to paint, p50": 0.030, "key to paint, p95": 0.060}
RECIPE = 'name = "bench"\n[model]\nbase = "smollm2-135m"\n[data]\nsource = "../rows.jsonl"\n'
WORKER = """
import math, sys, time
from pathlib import Path
from mlxtune.runs.events import EventWriter
from mlxtune.runs.locks import hold
folder, first, count, rate = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
with hold(folder / "run.lock", busy="busy"):
    writer = EventWriter(folder)
    if first == 1:
        writer.emit("run.started", kind="train", name="bench", base="smollm2-135m", pid=1, host="here", steps=20_000)
        writer.emit("model.loaded", base="smollm2-135m", path="4-bit", parameters=1, seconds=1.0, limit=24 << 30)
        writer.emit("data.ready", train=900, valid=100, test=100, tokens=1, trained=1, truncated=0, steps=20_000, epochs=1)
    start = time.perf_counter()
    for at in range(count):
        step = first + at
        loss = 0.6 + 1.5 * math.exp(-step / 900) + 0.1 * math.sin(step * 2.3)
        facts = {"rate": 1e-4, "tokens": 900, "speed": 1842.0, "memory": 12 << 30, "peak": 13 << 30, "epoch": 1.0}
        if step % 50:
            writer.emit("step", step=step, loss=loss, **facts)
        else:
            writer.emit("validation", step=step, loss=loss, tokens=9000)
        if rate:
            time.sleep(max(0.0, start + (at + 1) / rate - time.perf_counter()))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--starts", type=int, default=9, help="how often the app is started")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--presses", type=int, default=150)
    parser.add_argument("--rate", type=float, default=200, help="events a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shop, home = Path(folder) / "shop", Path(folder) / "home"
        run = workspace(shop, options.rows)
        start = starts(shop, home, options.starts)
        opened = [open_rows(shop, home) for _ in range(2)]
        pressed = presses(shop, home, run, options.presses, options.rate)
    every = [seconds for kind in pressed.values() for seconds in kind]
    measured = {
        "first paint": statistics.median(start),
        "open": opened[1],
        "key to paint, p50": quantile(every, 0.5),
        "key to paint, p95": quantile(every, 0.95),
    }
    result = {
        **where("textual", "numpy"),
        "first paint": {"median": statistics.median(start), "worst": max(start), "starts": len(start)},
        "open": {"rows": options.rows, "first time": opened[0], "again": opened[1]},
        "keys": {
            "events per second": options.rate,
            **{kind: {"p50": quantile(found, 0.5), "p95": quantile(found, 0.95)} for kind, found in pressed.items()},
        },
        "targets": {name: {"measured": measured[name], "target": target, "met": measured[name] <= target} for name, target in TARGETS.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else table(result))


def say(text: str) -> None:
    print(f"· {text}", file=sys.stderr, flush=True)


def workspace(shop: Path, rows: int) -> Path:
    """A workspace with ``rows`` short conversations, and a run of a thousand steps that ended; the run's folder."""
    say(f"{rows:,} rows")
    run = shop / "runs" / "20261124-1412-bench"
    for folder in (shop / "recipes", run):
        folder.mkdir(parents=True)
    (shop / "recipes" / "bench.toml").write_text(RECIPE)
    (run / "recipe.toml").write_text(RECIPE)
    with (shop / "rows.jsonl").open("w") as out:
        for at in range(rows):
            turns = [("user", f"Question {at}: where is parcel {at * 7919 % rows}?"), ("assistant", "We look into it at once.")]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    subprocess.run([sys.executable, "-c", WORKER, str(run), "1", "1000", "0"], check=True)
    return run


def starts(shop: Path, home: Path, count: int) -> list[float]:
    """Seconds from the start of the process to the first picture."""
    found = []
    for at in range(count + 1):
        start = time.perf_counter()
        with terminal(shop, home) as screen:
            screen.until("^p more")
            found.append(time.perf_counter() - start)
            screen.press("\x11")
            screen.end()
        say(f"start {at}: {found[-1] * 1000:.0f} ms" + ("" if at else ", not counted: files are read from the disk"))
    return found[1:]


def open_rows(shop: Path, home: Path) -> float:
    """Seconds from the key that opens Data to its first row."""
    with terminal(shop, home) as screen:
        screen.until("Journey")
        start = time.perf_counter()
        screen.press("D", shows="Question 0")
        taken = time.perf_counter() - start
        say(f"Data: {taken * 1000:.0f} ms")
        screen.press("H", shows="▎ Home")  # so that the next one starts there
        screen.press("\x11")
        screen.end()
    return taken


def presses(shop: Path, home: Path, run: Path, count: int, rate: float) -> dict[str, list[float]]:
    """Seconds from a key to the picture that answers it, by what the key does, while the run's journal grows."""
    dice = random.Random(7)
    found: dict[str, list[float]] = {"zoom": [], "focus": [], "room": []}
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(run), "1001", "100000", str(rate)])
    try:
        with terminal(shop, home) as screen:
            screen.until("Journey")
            screen.press("T", shows="▎ Train")
            zoomed = False
            for at in range(count):
                screen.wait(0.05 + dice.random() * 0.15)
                match at % 3:
                    case 0:
                        zoomed = not zoomed
                        found["zoom"].append(timed(screen, "z", "z whole" if zoomed else "z zoom"))
                    case 1:
                        found["focus"].append(timed(screen, "\t", "▌ Log"))
                        screen.press("\t", shows="▌ Loss")
                    case _:
                        found["room"].append(timed(screen, "H", "▎ Home"))
                        screen.press("T", shows="▎ Train")
            say(f"{count} keys while {rate:.0f} events a second came")
            screen.press("\x11")
            screen.end()
    finally:
        worker.kill()
        worker.wait()
    return found


def timed(screen: Any, key: str, shows: str) -> float:
    start = time.perf_counter()
    screen.press(key, shows=shows)
    return time.perf_counter() - start


def quantile(values: list[float], share: float) -> float:
    """The value below which ``share`` of ``values`` lie: the next one that was measured."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    rows = [f"{result['machine']['chip']}, {result['machine']['cores']} cores, textual {result['versions']['textual']}", ""]
    for target, found in result["targets"].items():
        name = f"{result['open']['rows']:,} rows" if target == "open" else target
        rows.append(
            f"{name:<22}{found['measured'] * 1000:>8.0f} ms   target {found['target'] * 1000:>5.0f}   {'✓' if found['met'] else '✗'}"
        )
    opened = result["open"]
    rows += ["", f"{opened['rows']:,} rows, the first time: {opened['first time']:.2f} s"]
    for kind in ("zoom", "focus", "room"):
        rows.append(f"{kind:<22}{result['keys'][kind]['p50'] * 1000:>8.0f} ms   p95 {result['keys'][kind]['p95'] * 1000:>5.0f} ms")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
