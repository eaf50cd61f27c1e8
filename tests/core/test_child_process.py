import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from waiting import PATIENCE

from mlxtune.core import child_process
from mlxtune.core.child_process import ChildProcess, Reply, kill_children, python_command, python_environment
from mlxtune.core.errors import DataError, InputError, MachineError, MlxtuneError, TooLongError, error_from_json, error_to_json

WORKER = """
import sys, time
from mlxtune.core import child_process
from mlxtune.core.child_process import Channel, serve
from mlxtune.core.errors import TooLongError

def fail(request):
    raise TooLongError("Row 3 is too long.", hint="Raise data.max_tokens.")

def count(request):
    for number in range(request.params["to"]):
        request.progress(number)
    return "done"

def crash(request):
    raise RuntimeError("out of memory")

def sleep(request):
    child_process.ORPHAN_TIMEOUT = 50.0
    try:
        request.progress("asleep")
        time.sleep(60)
    finally:
        open(request.params["marker"], "w").close()

def stubborn(request):
    request.progress("busy")
    while True:
        try:
            time.sleep(60)
        except SystemExit:
            pass

def loud(request):
    print("not a reply", flush=True)
    return "printed"

if len(sys.argv) > 1:
    channel = Channel()
    for patience in (60.0, 0.01):  # three requests arrive, and then one that no other follows
        batch = channel.receive_batch(3, patience)
        for request in batch:
            request.result(len(batch))
    channel.receive()
else:
    sys.exit(serve({"fail": fail, "count": count, "crash": crash, "sleep": sleep, "loud": loud, "stubborn": stubborn}))
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Start the worker above; close it at the end."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "echo_worker.py").write_text(WORKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    children = []

    def start(*arguments: str, **options: object) -> ChildProcess:
        children.append(ChildProcess("echo_worker", *arguments, name="The echo process", **options))  # type: ignore[arg-type]
        return children[-1]

    yield start
    for child in children:
        child.close()


def test_progress_results_and_typed_errors(start) -> None:
    child = start()
    updates: list[int] = []
    assert child.call("count", {"to": 3}, updates.append) == "done"
    assert updates == [0, 1, 2]
    with pytest.raises(TooLongError, match=r"Row 3 is too long\.") as caught:
        child.call("fail")
    assert caught.value.hint == "Raise data.max_tokens."
    assert child.call("count", {"to": 0}) == "done"
    assert not child._listeners


def test_printed_text_is_not_a_reply(start) -> None:
    assert start().call("loud") == "printed"


def test_a_listener_gets_the_replies_of_its_own_request(start) -> None:
    child = start()
    replies: list[object] = []
    done = threading.Event()

    def listen(reply) -> None:
        replies.append((reply.kind, reply.value))
        if reply.kind == "result":
            done.set()

    child.request("count", {"to": 1}, listen)
    assert child.call("count", {"to": 2}) == "done"
    assert done.wait(PATIENCE)
    assert replies == [("progress", 0), ("result", "done")]


def test_requests_are_received_in_batches(start) -> None:
    child = start("batches")
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    for _ in range(4):
        child.request("size", {}, replies.put)
    assert [replies.get(timeout=PATIENCE).value for _ in range(4)] == [3, 3, 3, 1]


def test_an_exception_ends_the_process_and_is_quoted(start, tmp_path: Path) -> None:
    errors: list[MachineError] = []
    child = start(log=tmp_path / "log", hint="See the log.", on_exit=errors.append)
    with pytest.raises(MachineError, match=r"The echo process ended with code 1: RuntimeError: out of memory\.") as caught:
        child.call("crash")
    assert caught.value.hint == "See the log."
    assert not child.alive
    with pytest.raises(MachineError, match="RuntimeError: out of memory"):
        child.call("count", {"to": 1})
    child.close()
    assert errors == [caught.value]
    assert "Traceback" in (tmp_path / "log").read_text()


def test_an_exit_is_reported_although_its_listener_closes_the_process(start) -> None:
    errors: list[MachineError] = []
    child = start(on_exit=errors.append)
    closer = threading.Thread(target=child.close)

    def close(_reply: object) -> None:
        closer.start()
        give_up = time.monotonic() + PATIENCE
        while not child.process.stdin.closed and time.monotonic() < give_up:
            time.sleep(0.01)

    child.request("crash", {}, close)
    child._reader.join(PATIENCE)
    closer.join(PATIENCE)
    assert [str(error) for error in errors] == ["The echo process ended with code 1: RuntimeError: out of memory."]


def test_a_killed_process_fails_its_requests(start) -> None:
    child = start()
    errors: queue.SimpleQueue[MachineError] = queue.SimpleQueue()
    child.request("sleep", {"marker": os.devnull}, lambda reply: errors.put(reply.value) if reply.kind == "error" else None)
    os.kill(child.process.pid, signal.SIGKILL)
    with pytest.raises(MachineError, match="The echo process was killed by signal 9"):
        raise errors.get(timeout=PATIENCE)


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_a_closed_process_interrupts_its_handler_cleanly(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    monkeypatch.setattr(child_process, "CLOSE_TIMEOUT", 50.0)  # less than the handler would sleep: then it would be killed
    child = start()
    asleep = threading.Event()
    marker = tmp_path / "cleaned up"
    child.request("sleep", {"marker": str(marker)}, lambda reply: asleep.set())
    assert asleep.wait(PATIENCE)
    getattr(child, end)()
    assert marker.exists()
    with pytest.raises(MachineError, match="The echo process was closed"):
        child.call("count", {"to": 1})


def test_a_busy_process_does_not_outlive_its_parent(start) -> None:
    child = start()
    busy = threading.Event()
    child.request("stubborn", {}, lambda reply: busy.set())
    assert busy.wait(PATIENCE)
    child.process.stdin.close()  # as when the parent dies
    assert child.process.wait(PATIENCE) == 143


def test_all_children_are_killed(start) -> None:
    children = [start(), start()]
    kill_children()
    assert [child.process.wait(PATIENCE) for child in children] == [-9, -9]


def test_files_of_the_working_folder_do_not_shadow_modules(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('shadowed')")
    command = python_command("mlxtune.core.child_process")
    assert subprocess.run(command, cwd=tmp_path, env=python_environment()).returncode == 0


def test_python_environment_adds_the_package_root_if_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(__file__).parents[2])
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "path", [root, "/elsewhere"])
    assert python_environment()["PYTHONPATH"] == root
    monkeypatch.setattr(sys, "path", ["", "/elsewhere", root])
    assert "PYTHONPATH" not in python_environment()


def test_an_unknown_error_class_becomes_its_nearest_known_base() -> None:
    payload = error_to_json(TooLongError("Too long.", hint="Cut it."))
    assert payload["kinds"] == ["TooLongError", "DataError", "InputError", "MlxtuneError"]
    unknown = error_from_json({**payload, "kinds": ["OnlyInTheChild", "DataError", "MlxtuneError"]})
    assert (type(unknown), unknown.message, unknown.hint, str(unknown)) == (DataError, "Too long.", "Cut it.", "Too long.")
    assert isinstance(unknown, InputError)
    assert type(error_from_json({"kinds": [], "message": "", "hint": ""})) is MlxtuneError
