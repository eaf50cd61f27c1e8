"""The serving client and its model process, with real pipes and killed processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from waiting import wait_until

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.runs.locks import accelerator_lock, is_locked
from mlxtune.serving.client import Client
from mlxtune.serving.protocol import Accepted, AdapterUnavailableError, Done, Failed, Piece, QueueFullError, Ready, Sampling

pytestmark = pytest.mark.slow

HELLO = [Message("user", "Hello?")]
SHORT = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def client(tiny: Path, workspace: Path) -> Iterator[Client]:
    with Client(str(tiny), workspace, share_accelerator=True, exact=True, slots=4, queue=2) as client:
        client.ready()
        yield client


def text(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def test_ready_describes_the_loaded_model(client: Client, tiny: Path) -> None:
    ready = client.ready()
    assert isinstance(ready, Ready)
    assert ready.base == str(tiny)
    assert ready.context == 2048
    assert "computed" in ready.path


def test_the_events_of_an_answer(client: Client) -> None:
    events = list(client.ask(HELLO, sampling=SHORT))
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Done)
    assert events[-1].tokens == 8
    assert events[-1].prompt_tokens == events[0].prompt_tokens
    assert {event.id for event in events} == {events[0].id}


def test_a_canceled_answer_ends(client: Client) -> None:
    answer = client.ask(HELLO, sampling=Sampling(max_tokens=1900))
    events = []
    for event in answer:
        events.append(event)
        if isinstance(event, Piece):
            answer.cancel()
    assert events[-1].ended == "cancelled"
    assert not client._child._listeners
    answer.cancel()  # has no effect


def test_iteration_continues_after_an_interrupt(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = client.ask(HELLO, sampling=Sampling(max_tokens=1900))
    assert isinstance(next(answer), Accepted)

    class Interrupted:
        def get(self) -> None:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(answer, "_events", Interrupted())
        with pytest.raises(KeyboardInterrupt):
            next(answer)
    answer.cancel()
    assert list(answer)[-1].ended == "cancelled"
    assert list(answer) == []


def test_an_unknown_adapter_and_bad_input_fail_the_request(client: Client) -> None:
    (failed,) = client.ask(HELLO, adapter="al-of-it")
    assert (type(failed.error), failed.error.exit_code) == (AdapterUnavailableError, 2)
    assert "no adapter al-of-it" in failed.error.message
    (failed,) = client.ask([Message("user", "word " * 3000)])
    assert type(failed.error) is InputError
    assert list(client.ask(HELLO, sampling=SHORT))[-1].ended


def test_a_full_queue_refuses_requests(client: Client) -> None:
    answers = [client.ask(HELLO, sampling=Sampling(max_tokens=300)) for _ in range(12)]
    ends = [list(answer)[-1] for answer in answers]
    assert any(isinstance(end, Failed) and isinstance(end.error, QueueFullError) for end in ends)
    assert sum(isinstance(end, Done) for end in ends) >= 6


def test_invalid_lines_do_not_stop_the_process(client: Client) -> None:
    client._child._write("not a request")
    client._child._write({"id": 10**6, "method": "generate", "params": {}})
    client._child._write({"method": "cancel", "params": {}})
    for _ in range(2):  # the second one comes after all invalid lines
        assert list(client.ask(HELLO, sampling=SHORT))[-1].ended == "length"


def test_an_unknown_base_raises_and_fails_later_requests(tmp_path: Path) -> None:
    with Client("no-such-model", tmp_path, share_accelerator=True) as client:
        with pytest.raises(InputError, match="no model named no-such-model"):
            client.ready()
        (failed,) = client.ask(HELLO)
        assert isinstance(failed, Failed)


def test_it_holds_and_releases_the_accelerator_lease(tiny: Path, workspace: Path) -> None:
    with Client(str(tiny), workspace) as client:
        client.ready()
        assert is_locked(accelerator_lock())
    assert not is_locked(accelerator_lock())


def test_a_killed_process_fails_its_requests(tiny: Path, workspace: Path) -> None:
    received = []
    with Client(str(tiny), workspace, share_accelerator=True, on_event=received.append) as client:
        client.ready()
        answer = client.ask(HELLO, sampling=Sampling(max_tokens=1900))
        for event in answer:
            if isinstance(event, Piece):
                os.kill(client._child.process.pid, signal.SIGKILL)
                break
        last = list(answer)[-1]
        assert isinstance(last.error, MachineError)
        assert isinstance(list(client.ask(HELLO))[-1].error, MachineError)
        wait_until(lambda: len(received) == 2)
    assert [type(event) for event in received] == [Ready, Failed]


@pytest.mark.exhaustive
def test_it_ends_and_releases_the_lease_when_its_parent_is_killed(tiny: Path, workspace: Path) -> None:
    code = (
        "import sys, time\nfrom mlxtune.serving.client import Client\nfrom mlxtune.data.rows import Message\n"
        "client = Client(sys.argv[1]); client.ready(); client.ask([Message('user', 'Hi')]); print('ready', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tiny)], stdout=subprocess.PIPE, cwd=workspace, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "ready\n"
    assert is_locked(accelerator_lock())
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_locked(accelerator_lock()))
