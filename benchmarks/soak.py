"""A soak test of everything at once: the app on a live run, the server under load, and an evaluation after each run.

    python benchmarks/soak.py [--json] [--minutes 60] [--warm-up 10] [--clients 8] [--pause 4] [--steps 60] [--busy 0.25]
                              [--keep 3] [--folder FOLDER]

The app runs in tmux, and gets a key every two seconds: a tour through every room and its pages, and a chat. Beside it, the tiny random
model of the tests trains, run after run, each followed by an evaluation, and clients send requests to a server, each after a ``--pause`` of
some seconds. The training process runs for the share ``--busy`` of the time, so that the test fits beside other work. Only the newest
``--keep`` runs and evaluations are kept, because each that is listed takes some memory in the app and in the server. Memory, descriptors,
threads, and child processes of the app, of the server, and of its model process are sampled once a minute, after ``--warm-up`` minutes and
``--keep`` evaluations. Until then, the keys come four times as fast, and the training process runs all the time: a dozen tours fill the
caches of Textual, which have a limit for each widget and for the app, and the allocator's pages reach their largest number. By
then, the tour has shown the first verdicts in every room, and the server's prompt cache is full. Each has the medians of the first quarter
and of the last quarter, and its change per hour, over the whole time and over its second half: the Theil–Sen slope with a 95% interval.
Linux only, because it reads ``/proc``; it needs tmux and scipy.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import FOLDER, environment
from own_serving import serving
from scipy import stats
from soak_server import Load, child_of, resources

sys.path.insert(0, str(FOLDER.parent / "tests"))

from tiny_model import make_tiny

from mlxtune.core import files
from mlxtune.core.errors import MachineError
from mlxtune.data import samples
from mlxtune.recipe.edit import edit_recipe
from mlxtune.runs import registry
from mlxtune.runs.locks import accelerator_lock, lock_note

KEY_INTERVAL, WARM_UP_INTERVAL = 2.0, 0.5
SIZE = ("140", "45")
ROWS = "data/samples/support.jsonl"
RECIPE = {
    "model.base": "../tiny", "data.holdout": 0.05, "data.max_tokens": 1024, "training.batch_size": 2, "training.save_every": 20,
    "training.validate_every": 20, "training.samples": 2, "evaluation.max_tokens": 8, "evaluation.rows": 8, "evaluation.regression": "",
}  # fmt: skip
# Every room, with its pages. Nothing here starts or stops a run; decisions are undone. The chat gets some time to load the model, and begins
# a new conversation each time, which would otherwise grow.
TOUR = """
H Down Down F1 Escape
D Down Down PageDown g Escape , Escape / a v Escape
G Down Down Up
R Right Right a u x u g Escape Left
P Down Down Down Down Right u g Escape
T z z m g Escape L Escape Left Left Escape [ ] S Escape
E m Enter Escape o Escape r Escape Tab Down
B Enter Escape m Escape g Escape
A Down Up Enter Escape
C Enter Down Enter Escape Down Up Down Up Down Up Down Up Down Up Down Up n Enter h i Enter Escape Down Up s n e Escape x
V Down v Escape g Escape
C-p Escape ; Escape
"""


@dataclass
class Runs:
    """The runs that were trained and evaluated so far."""

    trained: int = 0
    evaluated: int = 0
    refused: int = 0  # because the tour's chat held the model, as it should; tried again
    failed: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=10.0, help="minutes before the first sample")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--pause", type=float, default=4.0, help="seconds between the requests of a client")
    parser.add_argument("--steps", type=int, default=60, help="of each training run")
    parser.add_argument("--busy", type=float, default=0.25, help="share of the time for which the training process runs")
    parser.add_argument("--keep", type=int, default=3, help="runs, and as many evaluations; older ones are removed")
    parser.add_argument("--folder", type=Path, help="where the samples are written, line by line")
    options = parser.parse_args()
    if not Path("/proc").is_dir():
        sys.exit("This script reads /proc, which this system does not have.")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(lines(soak(options, folder)) if not options.json else json.dumps(soak(options, folder), indent=2))


def soak(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything in ``folder``, and return the figures."""
    workspace, home = folder / "shop", folder / "home"
    recipe = samples.create(workspace)
    make_tiny(folder / "tiny", texts=(workspace / ROWS).read_text(encoding="utf-8").splitlines())
    (workspace / "tiny").symlink_to(folder / "tiny")
    edit_recipe(recipe, RECIPE)
    home.mkdir()
    if (files.home() / "blas").exists():
        (home / "blas").symlink_to(files.home() / "blas")
    os.environ["MLXTUNE_HOME"] = str(home)
    runs, warm, stopped = Runs(), threading.Event(), threading.Event()
    with tmux(workspace, folder) as (app, press), serving(workspace, options.clients, str(folder / "tiny")) as info:
        load = Load(info["url"], info["base"], 16, options.pause)
        threads = [threading.Thread(target=load.client, args=(seed,)) for seed in range(options.clients)]
        threads += [
            threading.Thread(target=train_and_evaluate, args=(workspace, options.steps, options.keep, runs, stopped)),
            threading.Thread(target=tour, args=(press, warm, stopped)),
            threading.Thread(target=throttle, args=(workspace, options.busy, warm, stopped)),
        ]
        for thread in threads:
            thread.start()
        taken: list[dict[str, int]] = []
        try:
            time.sleep(options.warm_up * 60)
            while len(registry.list_runs(workspace, "eval")) < options.keep:
                time.sleep(1)
            warm.set()
            start = time.monotonic()
            while time.monotonic() - start < options.minutes * 60:
                pids = {"app": app, "server": info["pid"], "model": child_of(info["pid"])}
                taken.append({"t": round(time.monotonic() - start), **sample(pids, home)})
                with (folder / "samples.jsonl").open("a") as file:
                    file.write(json.dumps(taken[-1]) + "\n")
                time.sleep(60)
        finally:
            load.stopped.set()
            stopped.set()
            for thread in threads:
                thread.join()
    time.sleep(5)
    return {
        **environment(), "minutes": options.minutes, "clients": options.clients, "samples": len(taken),
        "requests": sum(load.requests.values()), "unexpected": dict(load.unexpected),
        "runs": runs.trained, "evaluations": runs.evaluated, "refused": runs.refused, "failed": runs.failed,
        "first_and_last_quarter": quarters(taken), "change_per_hour": slopes(taken),
        "change_per_hour_of_second_half": slopes(taken[len(taken) // 2 :]),
        "processes_left": [command(pid) for pid in processes(home)],
    }  # fmt: skip


@contextlib.contextmanager
def tmux(workspace: Path, folder: Path) -> Iterator[tuple[int, Any]]:
    """Start the app in a tmux server of its own; yield its process ID, and a function that presses a key."""
    server = ["tmux", "-f", "/dev/null", "-S", str(folder / "tmux")]
    app = shlex.join([sys.executable, "-P", "-m", "mlxtune"])
    pane = ["-x", SIZE[0], "-y", SIZE[1], "-c", str(workspace)]
    subprocess.run([*server, "new-session", "-d", *pane, f"exec {app}"], check=True)
    pid = int(subprocess.run([*server, "list-panes", "-F", "#{pane_pid}"], check=True, capture_output=True, text=True).stdout)
    try:
        yield pid, lambda key: subprocess.run([*server, "send-keys", key], check=True)
    finally:
        subprocess.run([*server, "kill-server"], check=False)


def tour(press: Any, warm: threading.Event, stopped: threading.Event) -> None:
    for key in itertools.cycle(TOUR.split()):
        if stopped.wait(KEY_INTERVAL if warm.is_set() else WARM_UP_INTERVAL):
            return
        press(key)


def train_and_evaluate(workspace: Path, steps: int, keep: int, runs: Runs, stopped: threading.Event) -> None:
    """Train and evaluate, again and again, and remove all but the newest ``keep`` runs and evaluations."""

    def mlxtune(*arguments: str) -> bool:
        """Run a command until it has had the model, and return whether it succeeded."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mlxtune", *arguments],
            cwd=workspace, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        while True:
            try:
                output, _ = process.communicate(timeout=1)
            except subprocess.TimeoutExpired:
                if stopped.is_set():
                    process.kill()
                    subprocess.run(
                        [sys.executable, "-P", "-m", "mlxtune", "runs", "stop", "last"], cwd=workspace, capture_output=True
                    )
                    return False
                continue
            if process.returncode == MachineError.exit_code and json.loads(lock_note(accelerator_lock()))["holder"] == "chat":
                runs.refused += 1
                return not stopped.wait(5) and mlxtune(*arguments)
            if process.returncode and not stopped.is_set():
                runs.failed.append(f"{shlex.join(arguments)}: {output[-500:]}")
            return not process.returncode

    while not stopped.is_set():
        if mlxtune("train", "recipes/support-json.toml", "--set", f"training.steps={steps}"):
            runs.trained += 1
            runs.evaluated += mlxtune("eval", "last")
        for old in (*registry.list_runs(workspace, "train")[keep:], *registry.list_runs(workspace, "eval")[keep:]):
            registry.remove(old)
        stopped.wait(1)


def throttle(workspace: Path, busy: float, warm: threading.Event, stopped: threading.Event, interval: float = 0.5) -> None:
    """Let the training process run for the share ``busy`` of the time once it takes steps and the app is ``warm``."""
    while busy < 1 and not stopped.wait(2):
        runs = registry.list_runs(workspace, "train")
        if not warm.is_set() or not runs or runs[0].status() != "running" or not (state := runs[0].state()).step:
            continue
        with contextlib.suppress(ProcessLookupError):
            while not stopped.is_set():
                for number, seconds in ((signal.SIGSTOP, interval * (1 - busy)), (signal.SIGCONT, interval * busy)):
                    os.kill(state.pid, number)
                    time.sleep(seconds)


def processes(home: Path) -> list[int]:
    """Return the IDs of all processes, orphans included, that use the folder ``home`` as mlxtune's."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MLXTUNE_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:  # it has ended, or belongs to another user
            continue
    return [pid for pid in found if pid != os.getpid()]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def sample(watched: dict[str, int], home: Path) -> dict[str, int]:
    """Return the resources of the ``watched`` processes, and the number of all processes."""
    result = {f"{name} {key}": value for name, pid in watched.items() for key, value in {**resources(pid), **family(pid)}.items()}
    return {**result, "processes": len(processes(home))}


def family(pid: int) -> dict[str, int]:
    """Return the number of the children of the process ``pid``, those included that have ended and were not waited for."""
    tasks = Path(f"/proc/{pid}/task")
    children = sum(len((tasks / task / "children").read_text().split()) for task in os.listdir(tasks))
    return {"children": children}


def quarters(taken: list[dict[str, int]]) -> dict[str, list[float]]:
    """Return the medians of the first quarter and of the last quarter of the samples, by resource."""
    part = max(1, len(taken) // 4)
    return {key: [statistics.median(one[key] for one in some) for some in (taken[:part], taken[-part:])] for key in watched(taken)}


def slopes(taken: list[dict[str, int]]) -> dict[str, list[float]]:
    """Return the change per hour, and the lower and upper bound of its 95% interval, by resource."""
    hours = [one["t"] / 3600 for one in taken]
    fits = {key: stats.theilslopes([one[key] for one in taken], hours) for key in watched(taken)}
    return {key: [fit.slope, fit.low_slope, fit.high_slope] for key, fit in fits.items()}


def watched(taken: list[dict[str, int]]) -> list[str]:
    return [key for key in taken[0] if key != "t"]


def rate(slope: list[float]) -> str:
    return "{:+,.1f} an hour ({:+,.1f} to {:+,.1f})".format(*slope)


def lines(result: dict[str, Any]) -> str:
    unexpected = sum(result["unexpected"].values())
    texts = [
        f"{result['minutes']:g} minutes, {result['samples']} samples: {result['runs']} runs, {result['evaluations']} evaluations, {result['refused']} refused, "
        f"{result['requests']:,} requests of {result['clients']} clients; {unexpected} unexpected replies",
        *(
            f"{key}: {first:,.0f} → {last:,.0f}, {rate(whole)}; second half {rate(half)}"
            for (key, (first, last)), whole, half in zip(
                result["first_and_last_quarter"].items(),
                result["change_per_hour"].values(),
                result["change_per_hour_of_second_half"].values(),
                strict=True,
            )
        ),
        *(f"{count} × {what}" for what, count in result["unexpected"].items()),
        *(f"failed: {what}" for what in result["failed"]),
        *(f"still running: {what}" for what in result["processes_left"]),
    ]
    return "\n".join(texts)


if __name__ == "__main__":
    main()
