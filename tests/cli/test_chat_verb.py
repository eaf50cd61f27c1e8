"""``mlxtune chat`` and ``mlxtune serve`` as a shell sees them, with a real process that computes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from mlxtune import serving
from mlxtune.adapters.layout import LINEAGE
from mlxtune.cli import chat
from mlxtune.core.errors import InputError
from mlxtune.core.files import write_json
from mlxtune.data.source import read_file
from mlxtune.models import lora
from mlxtune.runs.locks import hold, lease_path

QUICK = ("--beside", "--max-tokens", "6")


@pytest.fixture
def talk(place: Path, tiny: Path) -> Path:
    """A workspace with the tiny model in ``tiny`` and an adapter of it called ``mine``."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from mlxtune.recipe import AdapterSection

    shutil.copytree(tiny, place / "tiny")
    model, _ = load_model(tiny)
    config = lora.add(model, AdapterSection(rank=4), seed=1)
    mx.random.seed(1)
    arrays = {name: mx.random.normal(array.shape) * 0.2 for name, array in lora.weights(model).items()}
    lora.save(place / "adapters" / "mine", arrays, config | {"model": str(place / "tiny")})
    return place


def test_questions_can_be_piped_in_and_the_conversation_saved_as_rows(cli, talk: Path) -> None:
    ended = cli(
        "chat",
        "mine",
        *QUICK,
        "--system",
        "Be brief.",
        stdin="Hello?\n\n/save rows.jsonl\n/reset\nAgain?\n/save rows.jsonl\n/quit\nnever",
    )
    assert ended.code == 0, ended.err
    (first, second) = read_file(talk / "rows.jsonl")
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert second.messages[1].content == "Again?"
    assert "\x1b" not in ended.out


@pytest.mark.parametrize(
    ("given", "asked"), [((), "You answer in JSON."), (("--system", "Be brief."), "Be brief."), (("--system", ""), "")]
)
def test_an_adapter_is_asked_as_its_rows_are(cli, talk: Path, given: tuple[str, ...], asked: str) -> None:
    write_json(talk / "adapters" / "mine" / LINEAGE, {"v": 1, "system": "You answer in JSON."})
    ended = cli("chat", "mine", *QUICK, *given, stdin="Hello?\n/adapter none\n/adapter mine\n/save rows.jsonl\n")
    assert ended.code == 0, ended.err
    (row,) = read_file(talk / "rows.jsonl")
    assert [turn.content for turn in row.messages if turn.role == "system"] == ([asked] if asked else [])
    assert ("asked as its rows are" in ended.err) == (not given)


def test_an_adapter_brings_its_base_and_can_be_changed_in_the_middle(cli, talk: Path) -> None:
    ended = cli(
        "chat", "mine", *QUICK, "--json", stdin="Hello?\n/adapter none\n/reset\nHello?\n/adapter mi\n/reset\nHello?\n/adapters\n"
    )
    assert ended.code == 0, ended.err
    events = [json.loads(line) for line in ended.out.splitlines() if line.startswith("{")]
    texts = ["".join(event.get("text", "") for event in events if event["id"] == str(number)) for number in (1, 2, 3)]
    assert texts[0] == texts[2] != texts[1]
    assert [event["event"] for event in events if event["event"] != "piece"] == ["accepted", "done"] * 3


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/adaptre x", "Did you mean /adapter"), ("/adapter nobody", "There is no adapter nobody"), ("/save", "/save needs a file"),
        ("/save rows.jsonl", "Nothing was said yet"), ("/xyzzy", "/help shows what there is"), ("word " * 3000, "sees 2,048 in all"),
    ],
)  # fmt: skip
def test_a_line_that_cannot_be_done_is_said_and_the_next_one_is_done(cli, talk: Path, line: str, said: str) -> None:
    ended = cli("chat", "tiny", *QUICK, "--json", stdin=f"{line}\nHello?\n")
    assert said in ended.err
    assert json.loads(ended.out.splitlines()[-1])["event"] == "done"
    assert ended.code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chat", "mein"], "no adapter and no model called mein"), (["chat", "last"], "There are no adapters"),
        (["chat", "smollm2-135"], "Did you mean smollm2-135m?"), (["chat", "./nowhere"], "There is no model called ./nowhere"),
        (["chat", "--temperature", "7"], "temperature is 7"), (["serve", "mein"], "no adapter and no model called mein"),
        (["serve", "--host", "203.0.113.9", "tiny"], "cannot be listened on"),
    ],
)  # fmt: skip
def test_bad_input_is_said_before_anything_is_loaded(cli, place: Path, tiny: Path, arguments: list[str], said: str) -> None:
    shutil.copytree(tiny, place / "tiny")
    ended = cli(*arguments)
    assert ended.code == 2
    assert said in ended.err


def test_a_run_at_work_is_no_company_unless_asked(cli, talk: Path) -> None:
    with hold(lease_path(), busy="", note="20261124-1412-shop"):
        ended = cli("chat", "tiny", "--max-tokens", "6", stdin="Hello?\n")
        assert ended.code == 4
        assert "in use by 20261124-1412-shop" in ended.err
        assert "--beside" in ended.err
        assert cli("chat", "tiny", *QUICK, stdin="Hello?\n").code == 0


def test_without_the_extra_serve_says_what_to_install(cli, talk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "mlxtune.serving.server", raising=False)
    monkeypatch.delattr(serving, "server", raising=False)
    ended = cli("serve", "tiny")
    assert ended.code == 2
    assert "pip install 'mlxtune[serve]'" in ended.err


def test_a_server_says_where_it_is_answers_and_ends_on_ctrl_c(talk: Path) -> None:
    command = [sys.executable, "-m", "mlxtune", "serve", "tiny", "--port", "0", "--beside", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=talk, env=os.environ) as server:
        assert server.stdout
        lines = ""
        while not lines.endswith("}\n"):
            lines += server.stdout.readline()
            assert server.poll() is None
        told = json.loads(lines)
        assert told["models"] == ["tiny", "mine"]
        body = {"model": "mine", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}
        asked = urllib.request.Request(f"{told['url']}/chat/completions", json.dumps(body).encode())
        with urllib.request.urlopen(asked, timeout=60) as reply:
            assert json.load(reply)["usage"]["completion_tokens"] == 4
        server.send_signal(signal.SIGINT)
        assert server.wait(20) == 0
        assert "mine" in server.stderr.read()


def test_a_server_whose_model_dies_says_so(talk: Path) -> None:
    command = [sys.executable, "-m", "mlxtune", "serve", "tiny", "--port", "0", "--beside", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=talk, env=os.environ) as server:
        assert server.stdout
        while server.stdout.readline() != "}\n":
            assert server.poll() is None
        children = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(children[0]), signal.SIGKILL)
        start = time.monotonic()
        assert server.wait(30) == 4
        assert time.monotonic() - start < 30
        assert "The model's process ended" in server.stderr.read()


def test_what_is_meant_by_a_name(talk: Path) -> None:
    assert chat.subject(talk, "") == ("smollm2-135m", "")
    assert chat.subject(talk, "tiny") == ("tiny", "")
    assert chat.subject(talk, "org/model") == ("org/model", "")
    assert chat.subject(talk, "mine") == (str(talk / "tiny"), "mine")
    assert chat.subject(talk, "adapters/mine")[1] == "mine"
    with pytest.raises(InputError):
        chat.subject(talk, "nothing")
