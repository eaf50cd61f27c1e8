"""``queue``: run training, evaluations, searches, and exports one after another, for example overnight."""

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.options import Detach, Json, argument
from mlxtune.cli.output import ERROR_FILE, err, info, print_columns, show, show_json
from mlxtune.core import settings
from mlxtune.core.child_process import python_command, python_environment
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, plural
from mlxtune.evaluation.arms import TUNED
from mlxtune.evaluation.history import Evaluation, evaluations
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.words import WORDS
from mlxtune.runs.locks import accelerator_lock, file_lock, is_locked
from mlxtune.runs.queue import COMMAND_LOCK, ENTRY, LOG, Queue, QueueEntry
from mlxtune.runs.registry import ACTIVE, RUN_KINDS, Run

app = typer.Typer(help="Run training, evaluations, searches, and exports one after another.", no_args_is_help=True)

COMMANDS = ("train", "eval", "search", "data generate", "export")
POLL = 1.0  # seconds
_REMOVED = "its run was removed"


@app.command(context_settings={"ignore_unknown_options": True})
def add(command: Annotated[list[str], argument("A command, for example: train recipes/support-json.toml")]) -> None:
    """Add a command: train, eval, search, data generate, or export, with its arguments. A trained adapter is also evaluated."""
    from mlxtune.cli.main import load_verb  # imports this module

    name = _command_name(command)
    load_verb(name).make_context(name, command[len(name.split()) :])  # raises if an option is unknown or missing
    entry = Queue(Path.cwd()).add(command)
    show(f"Added as number {entry.number}.   ", ("mlxtune queue run", "primary"))


@app.command("list")
def list_entries(json: Json = False) -> None:
    """List the commands and how they ended."""
    queue = Queue(Path.cwd())
    entries = [entry for entry in queue.entries() if entry.status != "cleared"]
    if json:
        show_json({"running": queue.is_running, "entries": [asdict(entry) for entry in entries]})
    elif entries:
        print_columns(
            [[WORDS.queued[entry.status], str(entry.number), entry.text, (entry.message, "muted")] for entry in entries], right=(1,)
        )
    else:
        _show_empty()


@app.command()
def clear() -> None:
    """Remove the commands that have not been started."""
    show(f"Removed {plural(len(Queue(Path.cwd()).remove()), 'command')}.")


@app.command()
def remove(number: Annotated[int, argument("The command's number.", show_default=False)]) -> None:
    """Remove a command that has not been started."""
    queue = Queue(Path.cwd())
    if not queue.remove(number):
        raise InputError(f"No command with number {number} is waiting.", hint="mlxtune queue list")
    show("Removed 1 command.")


@app.command()
def run(detach: Detach = False) -> None:
    """Run the commands in order. After an interruption, run it again: it continues with the command that was interrupted."""
    queue = Queue(Path.cwd())
    if detach:
        queue.start_runner()
        show("The queue runs in the background. Its output is in ", (LOG, "primary"), ".")
        return
    with queue.runner_lock():
        done: list[QueueEntry] = []
        before = evaluations(queue.workspace)
        while entry := next((entry for entry in queue.entries() if entry.status in ("started", "waiting")), None):
            info(("● ", "bold primary"), entry.text)
            try:
                _run_entry(queue, entry)
            except KeyboardInterrupt:
                info("")
                info(("■ ", "muted"), "Stopped; what runs now continues.   ", ("mlxtune queue run", "primary"))
                raise typer.Exit(130) from None
            done.append(_current(queue, entry))
            info(WORDS.queued[done[-1].status], " ", done[-1].text, "  ", (done[-1].message, "muted"))
    if not done:
        _show_empty()
        return
    summary = summarize(done, [one for one in evaluations(queue.workspace) if one not in before])
    show(summary)
    _notify(summary)
    raise typer.Exit(int(any(entry.status == "failed" for entry in done)))


def _show_empty() -> None:
    show("The queue is empty.   ", ("mlxtune queue add train RECIPE", "primary"))


def summarize(entries: list[QueueEntry], new: list[Evaluation]) -> str:
    text = f"{sum(entry.status == 'done' for entry in entries)} of {len(entries)} done"
    rates = []
    for one in new:
        metric = one.report.answer_metric
        if tuned := next((arm.rate(metric) for arm in reversed(one.report.arms) if arm.name == TUNED), None):
            rates.append((tuned.share, one_line(one.name), metric))
    if rates:
        rate, name, metric = max(rates)
        text += f", best: {name}, {'contract' if metric == CONTRACT else metric_label(metric)} {rate:.1%}"
    return f"{text}."


def _run_entry(queue: Queue, entry: QueueEntry) -> None:
    """Run an entry to its end, and record it. One that was started before continues with its newest run."""
    while is_locked(queue.workspace / COMMAND_LOCK):  # by the command of a queue that was killed, which may still start a run
        time.sleep(POLL)
    entry = _current(queue, entry)
    while is_locked(accelerator_lock()) and not (os.path.isdir(entry.run) and Run(Path(entry.run)).status() in ACTIVE):
        time.sleep(POLL)
    queue.start(entry)
    os.environ[ENTRY] = str(entry.number)
    try:
        error = _continue(queue, entry, _command_name(entry.command))
    except InputError as refused:
        error = refused.message
    finally:
        del os.environ[ENTRY]
    run = _current(queue, entry).run
    queue.end(entry, failed=bool(error), message=error or (Run(Path(run)).id if run else ""))


def _continue(queue: Queue, entry: QueueEntry, name: str) -> str:
    """Finish the run that an entry has, if any, and start what is missing. Return the error, empty if there is none."""
    several = [word for word in entry.command if word.startswith(("--seeds", "--generated"))]
    if entry.run:
        run = Run(Path(entry.run))
        own = {queue.workspace / kind.folder for kind in RUN_KINDS.values()}
        if run.folder.parent not in own or not (run.folder / "recipe.toml").is_file():
            return _REMOVED
        if error := _finish(run):
            return error
        is_last = run.kind == "eval" if several or name == "train" else True
        if is_last and "--generated" not in several:
            return ""
    if several or not entry.run:
        code, error = _call(*entry.command)
        entry = _current(queue, entry)
        if code or several or name != "train":
            return error
    return _call("eval", entry.run)[1] if entry.run else _REMOVED


def _finish(run: Run) -> str:
    """Follow a run until it ends, and return its error. A run that was interrupted is resumed."""
    while (status := run.status()) == "starting":
        time.sleep(POLL)
    if status == "finished":
        return ""
    return _call("runs", "resume" if status in ("stopped", "crashed") else "attach", str(run.folder))[1]


def _command_name(command: Sequence[str]) -> str:
    """Return which of ``COMMANDS`` an entry runs. Raise ``InputError`` if it is another, or one that no process can be given."""
    try:
        is_valid = b"\0" not in b"".join(map(os.fsencode, command))
    except UnicodeEncodeError:  # a lone surrogate
        is_valid = False
    for name in COMMANDS if is_valid else ():
        if tuple(command[: len(name.split())]) == tuple(name.split()):
            return name
    shown = one_line(" ".join(command[:1]), 40) or "An empty command"
    raise InputError(f"{shown} cannot be queued.", hint=f"Use one of: {', '.join(COMMANDS)}.")


def _current(queue: Queue, entry: QueueEntry) -> QueueEntry:
    """Return an entry as it is now, or as it was if its line was deleted."""
    return next((item for item in queue.entries() if item.number == entry.number), entry)


def _call(*command: str) -> tuple[int, str]:
    """Run a command of mlxtune. Return its exit code, and its error's message if it failed.

    The command continues if this process is interrupted or killed, and holds the lock that the next queue waits for.
    """
    with (
        tempfile.NamedTemporaryFile() as message,
        file_lock(Path.cwd() / COMMAND_LOCK, busy="A command of this queue still runs.") as lock,
    ):
        process = subprocess.Popen(
            python_command("mlxtune", *command),
            env={**python_environment(), ERROR_FILE: message.name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C ends only the queue
            pass_fds=(lock,),
        )
        code = process.wait()
        error = message.read().decode(errors="replace") or f"exit code {code}"
    return code, one_line(error, 200) if code else ""


def _notify(summary: str) -> None:
    if err.is_terminal:
        err.bell()
    commands: list[list[str]] = []
    if sys.platform == "darwin":
        script = ("on run argv", 'display notification (item 1 of argv) with title "mlxtune"', "end run")
        commands.append(["osascript", *(part for row in script for part in ("-e", row)), summary])
    if command := settings.load().notify_command:
        commands.append([*shlex.split(command), summary])
    for arguments in commands:
        try:
            subprocess.run(arguments, stdin=subprocess.DEVNULL, timeout=60, check=False)
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            info(("! ", "bold warning"), f"{arguments[0]} could not be run: {one_line(str(error))}")
