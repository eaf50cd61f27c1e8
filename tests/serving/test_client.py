"""A face and the process that computes: real pipes, real deaths."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.runs.locks import hold, is_held, lease_path
from mlxtune.serving.client import Client
from mlxtune.serving.protocol import Accepted, Done, Failed, Piece, Ready, Sampling

HELLO = [Message("user", "Hello?")]
SHORT = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def place(tiny_adapters: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with two adapters in its library."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "adapters").mkdir()
    for name in ("all", "wide"):
        shutil.copytree(tiny_adapters[name], folder / "adapters" / name)
    return folder


@pytest.fixture(scope="module")
def client(tiny: Path, place: Path) -> Iterator[Client]:
    with Client(str(tiny), place, beside=True, exact=True, slots=4, queue=2) as made:
        made.ready()
        yield made


def text(events) -> str:
    return "".join(event.text for event in events if isinstance(event, Piece))


def test_it_says_what_it_loaded(client: Client, tiny: Path) -> None:
    ready = client.ready()
    assert isinstance(ready, Ready)
    assert ready.base == str(tiny)
    assert ready.context == 2048
    assert "computed" in ready.path


def test_an_answer_is_accepted_then_pieces_then_done(client: Client) -> None:
    events = list(client.ask(HELLO, sampling=SHORT))
    assert isinstance(events[0], Accepted)
    assert isinstance(events[-1], Done)
    assert events[-1].tokens == 8
    assert events[-1].prompt_tokens == events[0].prompt_tokens
    assert {event.id for event in events} == {events[0].id}


def test_base_and_tuned_answer_side_by_side(client: Client) -> None:
    base, tuned = client.ask(HELLO, sampling=SHORT), client.ask(HELLO, adapter="all", sampling=SHORT)
    one, other = text(tuned), text(base)
    assert one != other
    assert text(client.ask(HELLO, sampling=SHORT)) == other


def test_events_can_be_calls_instead(client: Client) -> None:
    heard: list[object] = []
    answer = client.ask(HELLO, sampling=SHORT, tell=heard.append)
    give_up = time.monotonic() + 60
    while not (heard and isinstance(heard[-1], Done)) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert text(heard) == text(client.ask(HELLO, sampling=SHORT))
    assert answer.id == heard[-1].id


def test_a_cancelled_answer_ends(client: Client) -> None:
    answer = client.ask(HELLO, sampling=Sampling(max_tokens=1900))
    events = []
    for event in answer:
        events.append(event)
        if isinstance(event, Piece):
            answer.cancel()
    assert events[-1].ended == "cancelled"
    assert client.busy == 0
    answer.cancel()  # nobody minds


def test_an_interrupted_wait_can_be_begun_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_an_unknown_adapter_and_bad_input_are_said(client: Client) -> None:
    (_, failed) = client.ask(HELLO, adapter="al-of-it")
    assert (failed.kind, failed.code) == ("adapter", 2)
    assert "no adapter al-of-it" in failed.error
    (failed,) = client.ask([Message("user", "word " * 3000)])
    assert failed.kind == "input"
    assert isinstance(failed.as_error(), InputError)
    assert list(client.ask(HELLO, sampling=SHORT))[-1].ended


def test_a_full_queue_refuses_and_goes_on(client: Client) -> None:
    answers = [client.ask(HELLO, sampling=Sampling(max_tokens=300)) for _ in range(12)]
    ends = [list(answer)[-1] for answer in answers]
    assert any(isinstance(end, Failed) and end.kind == "full" for end in ends)
    assert sum(isinstance(end, Done) for end in ends) >= 6


def test_sampling_that_is_none_is_refused_before_it_is_sent() -> None:
    for wrong in ({"max_tokens": 0}, {"temperature": -1}, {"top_p": 0}, {"stop": ("",)}, {"seed": 2**70}):
        with pytest.raises(InputError):
            Sampling(**wrong)


def test_a_line_that_is_no_question_fails_and_the_next_is_answered(client: Client) -> None:
    client._say("not json\n")
    client._say('{"do": "ask"}\n')
    client._say("[1]\n")
    for _ in range(2):  # the second is asked after all that was wrong has been heard
        assert list(client.ask(HELLO, sampling=SHORT))[-1].ended == "length"


def test_a_base_that_cannot_be_loaded_raises_and_later_questions_fail(tmp_path: Path) -> None:
    with Client("no-such-model", tmp_path, beside=True) as client:
        with pytest.raises(InputError, match="no model called no-such-model"):
            client.ready()
        (failed,) = client.ask(HELLO)
        assert failed.kind == "gone"


def test_it_does_not_start_beside_a_run_unless_asked(tiny: Path, place: Path) -> None:
    with hold(lease_path(), busy="", note="20261124-1412-shop"):
        with Client(str(tiny), place) as client, pytest.raises(MachineError, match="in use by 20261124-1412-shop") as caught:
            client.ready()
        assert "--beside" in caught.value.mend


def test_it_holds_the_lease_and_gives_it_back(tiny: Path, place: Path) -> None:
    with Client(str(tiny), place) as client:
        client.ready()
        assert is_held(lease_path())
    assert not is_held(lease_path())


def test_a_killed_process_fails_its_questions_and_says_so(tiny: Path, place: Path) -> None:
    told = []
    with Client(str(tiny), place, beside=True, tell=told.append) as client:
        client.ready()
        answer = client.ask(HELLO, sampling=Sampling(max_tokens=1900))
        for event in answer:
            if isinstance(event, Piece):
                os.kill(client._process.pid, signal.SIGKILL)
                break
        last = list(answer)[-1]
        assert (last.kind, last.code) == ("gone", 4)
        assert list(client.ask(HELLO))[-1].kind == "gone"
        give_up = time.monotonic() + 10
        while len(told) < 2 and time.monotonic() < give_up:
            time.sleep(0.01)
    assert [type(event) for event in told] == [Ready, Failed]


def test_it_ends_and_frees_the_lease_when_its_parent_is_killed(tiny: Path, place: Path) -> None:
    code = (
        "import sys, time\nfrom mlxtune.serving.client import Client\nfrom mlxtune.data.rows import Message\n"
        "client = Client(sys.argv[1]); client.ready(); client.ask([Message('user', 'Hi')]); print('ready', flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tiny)], stdout=subprocess.PIPE, cwd=place, text=True)
    assert parent.stdout
    assert parent.stdout.readline() == "ready\n"
    assert is_held(lease_path())
    parent.kill()
    parent.wait()
    give_up = time.monotonic() + 30
    while is_held(lease_path()):
        assert time.monotonic() < give_up, "the process outlived its parent"
        time.sleep(0.05)


def test_a_face_imports_no_mlx() -> None:
    code = (
        "import sys, mlxtune.serving.client, mlxtune.serving.session, mlxtune.serving.shelf;"
        "sys.exit(any(name.partition('.')[0] in ('mlx', 'transformers') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
