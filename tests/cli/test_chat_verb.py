"""The ``mlxtune chat`` and ``mlxtune serve`` commands, with a real model process."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from arenas import DESCRIBE, count_arenas
from waiting import PATIENCE

from mlxtune import serving
from mlxtune.adapters.layout import LINEAGE
from mlxtune.cli import chat
from mlxtune.core.errors import InputError
from mlxtune.core.files import write_json
from mlxtune.data.source import read_file
from mlxtune.models import lora
from mlxtune.runs.locks import accelerator_lease

pytestmark = pytest.mark.slow

QUICK = ("--share-accelerator", "--max-tokens", "6")


@pytest.fixture
def chat_workspace(cwd: Path, tiny: Path) -> Path:
    """A workspace with the tiny model in ``tiny`` and an adapter for it named ``mine``."""
    import mlx.core as mx
    from mlx_lm.utils import load_model

    from mlxtune.recipe import AdapterSection

    shutil.copytree(tiny, cwd / "tiny")
    model, _ = load_model(tiny)
    config = lora.add(model, AdapterSection(rank=4), seed=1)
    mx.random.seed(1)
    arrays = {name: mx.random.normal(array.shape) * 0.2 for name, array in lora.adapter_arrays(model).items()}
    lora.save(cwd / "adapters" / "mine", arrays, config | {"model": str(cwd / "tiny")})
    return cwd


def test_prompts_can_be_piped_in_and_saved_as_rows(ok, chat_workspace):
    """Also during a run, which shares the accelerator."""
    typed = "Hello?\n\n/save rows.jsonl\n/reset\nAgain?\n/save rows.jsonl\n/quit\nnever"
    with accelerator_lease("train", Path("shop"), "20261124-1412-shop"):
        result = ok("chat", "mine", *QUICK, "--system", "Be brief.", stdin=typed)
    (first, second) = read_file(chat_workspace / "rows.jsonl")
    assert [message.role for message in first.messages] == ["system", "user", "assistant"]
    assert second.messages[1].content == "Again?"
    assert "\x1b" not in result.out


@pytest.mark.parametrize(("options", "system"), [(("--system", "Be brief."), "Be brief."), (("--system", ""), "")])
@pytest.mark.exhaustive
def test_an_option_replaces_the_system_prompt_of_an_adapter(ok, chat_workspace, options, system):
    write_json(chat_workspace / "adapters" / "mine" / LINEAGE, {"v": 1, "system": "You answer in JSON."})
    result = ok("chat", "mine", *QUICK, *options, stdin="Hello?\n/adapter none\n/adapter mine\n/save rows.jsonl\n")
    (row,) = read_file(chat_workspace / "rows.jsonl")
    assert [turn.content for turn in row.messages if turn.role == "system"] == ([system] if system else [])
    assert "system prompt from its training rows" not in result.err


def test_an_adapter_uses_its_base_and_its_system_prompt_and_can_be_switched(ok, chat_workspace):
    write_json(chat_workspace / "adapters" / "mine" / LINEAGE, {"v": 1, "system": "You answer in JSON."})
    lines = ["Hello?", "/adapter none", "/reset", "Hello?", "/adapter mi", "/reset", "Hello?", "/adapters"]
    result = ok(
        "chat", "mine", *QUICK, "--json", stdin="\n".join([*lines, "/adapter none", "/adapter mine", "/save rows.jsonl", ""])
    )
    assert "system prompt from its training rows" in result.err
    (row,) = read_file(chat_workspace / "rows.jsonl")
    assert [turn.content for turn in row.messages if turn.role == "system"] == ["You answer in JSON."]
    events = [json.loads(line) for line in result.out.splitlines() if line.startswith("{")]
    texts = ["".join(event.get("text", "") for event in events if event["id"] == str(number)) for number in (1, 2, 3)]
    assert texts[0] == texts[2] != texts[1]
    assert [event["event"] for event in events if event["event"] != "piece"] == ["accepted", "done"] * 3


def test_bad_lines_are_reported_and_the_next_ones_run(cli, chat_workspace):
    lines = {
        "/adaptre x": "Did you mean /adapter", "/adapter nobody": "There is no adapter nobody", "/save": "/save requires a file",
        "/save rows.jsonl": "conversation is empty", "/xyzzy": "Commands: /adapter, /adapters", "word " * 3000: "context is 2,048 tokens",
    }  # fmt: skip
    result = cli("chat", "tiny", *QUICK, "--json", stdin="\n".join([*lines, "Hello?\n"]))
    assert [message for message in lines.values() if message not in result.err] == []
    assert json.loads(result.out.splitlines()[-1])["event"] == "done"
    assert result.code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["chat", "mein"], "no adapter or model named mein"), (["chat", "last"], "There are no adapters"),
        (["chat", "smollm2-135"], "Did you mean smollm2-135m?"), (["chat", "./nowhere"], "There is no model named ./nowhere"),
        (["chat", "--temperature", "7"], "temperature must be from 0 to 5, but is 7"), (["serve", "mein"], "no adapter or model named mein"),
        (["serve", "--host", "203.0.113.9", "tiny"], "Cannot listen on"),
        (["serve", "tiny", "--allow-origin", "https://example.com/chat"], "https://example.com/chat is not an origin"),
    ],
)  # fmt: skip
def test_bad_input_is_reported_before_loading(refused, cwd, tiny, arguments, words):
    shutil.copytree(tiny, cwd / "tiny")
    refused(arguments, words)


def test_it_refuses_to_start_during_a_run_without_sharing(cli, chat_workspace):
    with accelerator_lease("train", Path("shop"), "20261124-1412-shop"):
        result = cli("chat", "tiny", "--max-tokens", "6", stdin="Hello?\n")
        assert result.code == 4
        assert "in use by the training run 20261124-1412-shop" in result.err
        assert "--share-accelerator" in result.err


def test_without_the_extra_serve_has_an_install_hint(refused, chat_workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("server", "http_server"):
        monkeypatch.delitem(sys.modules, f"mlxtune.serving.{name}", raising=False)
        monkeypatch.delattr(serving, name, raising=False)
    refused(("serve", "tiny"), "pip install 'mlxtune[serve]'")


@contextmanager
def running_server(workspace: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Start a server in ``workspace``. Yield its process and the document that it printed."""
    code = f"{DESCRIBE}\nfrom mlxtune.cli.start import main\nmain()"
    command = [sys.executable, "-c", code, "serve", "tiny", "--port", "0", "--share-accelerator", "--json"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=workspace, env=os.environ
    ) as server:
        assert server.stdout
        lines = ""
        while not lines.endswith("}\n"):
            lines += server.stdout.readline()
            assert server.poll() is None
        yield server, json.loads(lines)


def test_a_server_prints_its_url_answers_and_ends_on_ctrl_c(chat_workspace):
    with running_server(chat_workspace) as (server, document):
        assert document["models"] == ["tiny", "mine"]
        body = {"model": "mine", "messages": [{"role": "user", "content": "Hello?"}], "max_tokens": 4}
        request = urllib.request.Request(f"{document['url']}/chat/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            assert json.load(reply)["usage"]["completion_tokens"] == 4
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE) == 0
        assert "mine" in server.stderr.read()
    if platform.libc_ver()[0] == "glibc":
        assert count_arenas(chat_workspace) == 1  # threads do not keep the memory of requests


@pytest.mark.exhaustive
def test_a_server_completes_its_answers_on_sigterm(chat_workspace):
    with running_server(chat_workspace) as (server, document):
        body = {"model": "tiny", "prompt": "Once", "max_tokens": 600, "stream": True, "stream_options": {"include_usage": True}}
        request = urllib.request.Request(f"{document['url']}/completions", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            reply.readline()
            server.send_signal(signal.SIGTERM)
            text = reply.read().decode()
        assert '"completion_tokens": 600' in text
        assert text.endswith("data: [DONE]\n\n")
        assert server.wait(PATIENCE) == 0
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(request, timeout=5)


@pytest.mark.exhaustive
def test_a_server_whose_model_dies_exits_with_an_error(chat_workspace):
    with running_server(chat_workspace) as (server, _):
        children = subprocess.run(["pgrep", "-P", str(server.pid)], capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(children[0]), signal.SIGKILL)
        start = time.monotonic()
        assert server.wait(PATIENCE) == 4
        assert time.monotonic() - start < 30
        assert "The model process was killed" in server.stderr.read()


def test_names_are_resolved(chat_workspace):
    assert chat.parse_model(chat_workspace, "") == ("smollm2-135m", "")
    assert chat.parse_model(chat_workspace, "tiny") == ("tiny", "")
    assert chat.parse_model(chat_workspace, "org/model") == ("org/model", "")
    assert chat.parse_model(chat_workspace, "mine") == (str(chat_workspace / "tiny"), "mine")
    assert chat.parse_model(chat_workspace, "adapters/mine")[1] == "mine"
    with pytest.raises(InputError):
        chat.parse_model(chat_workspace, "nothing")
