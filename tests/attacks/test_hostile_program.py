"""A program behind ``verify-export`` that answers whatever it likes."""

import json
import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from http_stub import StubHandler, serve_http

from mlxtune.adapters.export import endpoint_prompts
from mlxtune.adapters.export.endpoint_prompts import rendered_prompt, served_model
from mlxtune.adapters.export.tried import find_export
from mlxtune.core.errors import MlxtuneError
from mlxtune.data.rows import Conversation, Location, Message

ROW = Conversation(Location(Path("rows.jsonl"), 1), {}, (Message("user", "Hello"), Message("assistant", "Hi")))
LISTS = (
    b"[1]",
    b"5",
    b'"x"',
    b"[" * 10**5,
    b"\xff\xfe",
    b"{",
    b'{"data": 5}',
    b'{"data": {"id": "a"}}',
    b'{"data": [5, {"id": {}}]}',
    b"",
)
PROMPTS = (
    b'{"tokens": [-1]}', b'{"tokens": [1e400]}', b'{"tokens": [true]}', b'{"tokens": [123456789012345678901234567890]}', b'{"tokens": [[]]}',
    b'{"tokens": {}}', b"[" * 10**5, b'{"tokens": [1, "a"]}',
)  # fmt: skip


@contextmanager
def replies(**bodies):
    """Serve a body for each path whose last part is a key, and 404 for the others."""
    seen = []

    class Handler(StubHandler):
        def do_GET(self):
            self.reply()

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply()

        def reply(self):
            seen.append(self.path)
            body = bodies.get(self.path.rpartition("/")[2].replace("-", "_"))
            self.send_body(404 if body is None else 200, body or b"{}")

    with serve_http(Handler) as url:
        yield f"{url}/v1", seen


@pytest.mark.parametrize("body", LISTS, ids=repr)
def test_a_list_of_models_that_is_none(body):
    with replies(models=body) as (url, _), pytest.raises(MlxtuneError, match="lists no models"):
        served_model(url)


def test_files_with_any_name_are_no_export_of_ours():
    files = ["a\0b", "x" * 10**5, "\ud800", ""]
    models = json.dumps({"data": [{"id": "m"}]}).encode()
    with replies(models=models, props=json.dumps({"model_path": files[0]}).encode(), lora_adapters=json.dumps(
        [{"path": file} for file in files[1:]]
    ).encode()) as (url, _):  # fmt: skip
        assert find_export([], served_model(url).files, "") is None


@pytest.mark.parametrize("body", PROMPTS, ids=repr)
def test_tokens_that_are_none(body):
    with replies(apply_template=b'{"prompt": "p"}', tokenize=body) as (url, _):
        assert rendered_prompt(url, "m", ROW, lambda text: []) is None


def test_a_prompt_with_lone_surrogates_can_be_encoded():
    chat = json.dumps({"_debug_info": {"rendered_template": "a\ud800b"}}).encode()
    with replies(version=b'{"version": "1"}', chat=chat) as (url, _):
        assert rendered_prompt(url, "m", ROW, lambda text: list(text.encode())) == list(b"a?b")


def test_a_redirect_to_another_machine_is_not_followed():
    with replies(models=b'{"data": [{"id": "elsewhere"}]}') as (elsewhere, seen):

        class Redirect(StubHandler):
            def do_GET(self):
                self.send_body(302, b"", {"Location": f"{elsewhere}/models"})

        with serve_http(Redirect) as url, pytest.raises(MlxtuneError, match="lists no models"):
            served_model(f"{url}/v1")
        assert seen == []


@pytest.mark.parametrize(
    "reply", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 200 OK\r\n" + b"a" * 70_000, b""]
)
def test_a_reply_that_is_not_http(reply):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            line, _ = listener.accept()
            with line:
                line.recv(1000)
                line.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(MlxtuneError):
            served_model(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        thread.join()


def test_an_endless_reply_ends(monkeypatch):
    monkeypatch.setattr(endpoint_prompts, "_MAX_BYTES", 1000)
    with replies(models=b'{"data": [{"id": "' + b"x" * 10**5 + b'"}]}') as (url, _), pytest.raises(MlxtuneError):
        served_model(url)
