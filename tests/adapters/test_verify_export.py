"""A program that runs an export is compared with the adapter: its prompts token for token, and its answers on the contract."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from http_stub import StubHandler, serve_http
from llama_cpp import Llama, llama
from mlx_lm.utils import dequantize_model, load_model

from mlxtune.adapters import library
from mlxtune.adapters.export import export_worker as exporting
from mlxtune.adapters.export import fidelity, gguf, start, verify_worker
from mlxtune.adapters.export.endpoint_prompts import api_url, served_model
from mlxtune.adapters.export.tried import find_export, tried_exports
from mlxtune.adapters.publish import published_base
from mlxtune.core.errors import InputError, MachineError
from mlxtune.data.rows import Message
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.present.card import adapter_card
from mlxtune.present.export import exports_table
from mlxtune.runs import registry
from mlxtune.runs.state import RunState
from mlxtune.runs.worker import Worker
from mlxtune.tui.rooms.adapters import screen
from mlxtune.tui.rooms.adapters.screen import draw_detail

from .conftest import Exports, launched

RENAMED = [("user", "human")]


class Program:
    """A stub of llama.cpp's server, of Ollama, or of a program that only counts tokens. ``wrong`` replaces words in its template."""

    def __init__(self, template: ChatTemplate, kind: str) -> None:
        self.template, self.kind = template, kind
        self.wrong: list[tuple[str, str]] = []
        self.answer: Callable[[str], str] = lambda text: "ok"
        self.files: list[str] = []
        self.url = ""

    def text(self, body: dict[str, Any]) -> str:
        text = self.template.render(
            [Message(turn["role"], turn["content"]) for turn in body["messages"]], (), generation_prompt=True
        )
        for old, new in self.wrong:
            text = text.replace(old, new)
        return text

    def reply(self, path: str, body: dict[str, Any] | None) -> Any:
        """Return the JSON reply, or ``None`` for an unknown path."""
        encode = lambda text: self.template.tokenizer.encode(text, add_special_tokens=False)  # noqa: E731
        match self.kind, path:
            case _, "/v1/models":
                return {"data": [{"id": "mine"}]}
            case _, "/v1/chat/completions":
                message = {"role": "assistant", "content": self.answer(body["messages"][-1]["content"])}
                usage = {"prompt_tokens": len(encode(self.text(body))), "completion_tokens": 2}
                return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
            case "llama.cpp", "/props":
                return {"model_path": self.files[0] if self.files else ""}
            case "llama.cpp", "/lora-adapters":
                return [{"id": 0, "path": file} for file in self.files[1:]]
            case "llama.cpp", "/apply-template":
                return {"prompt": self.text(body or {})}
            case "llama.cpp", "/tokenize":
                return {"tokens": encode(body["content"])}
            case "Ollama", "/api/version":
                return {"version": "0.30.0"}
            case "Ollama", "/api/chat":
                assert body["_debug_render_only"]
                return {"_debug_info": {"rendered_template": self.text(body)}}
        return None


@contextmanager
def running(exports: Exports, kind: str) -> Iterator[Program]:
    source = resolve(str(exports.base))
    program = Program(load_template(source, TemplateSettings(date="2026-11-26")), kind)

    class Handler(StubHandler):
        def do_GET(self) -> None:
            self.respond(None)

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: Any) -> None:
            reply = program.reply(self.path, body)
            self.send_json(404 if reply is None else 200, reply or {"error": "unknown"})

    with serve_http(Handler) as url:
        program.url = f"{url}/v1"
        yield program


def verified(exports: Exports, program: Program | Llama, export: str = "") -> fidelity.Verification:
    """Run the verification worker in this process."""
    runs = launched(exports.monkeypatch)
    url = api_url(program.url)
    start.start_verification(exports.workspace, library.find(exports.workspace, "last"), url, served_model(url).name, export)
    verify_worker.verify(Worker(runs[-1].folder))
    return fidelity.load_verification(runs[-1].folder)


@pytest.mark.parametrize(("kind", "compared"), [("llama.cpp", "tokens"), ("Ollama", "tokens"), ("LM Studio", "counts")])
def test_equal_prompts_are_confirmed(exports: Exports, kind: str, compared: str) -> None:
    with running(exports, kind) as program:
        result = verified(exports, program)
    assert (result.prompts, result.difference) == (compared, None)
    assert [rate.metric for rate in result.answers.rates] == ["forbidden", "contract"]
    assert result.answers.rows == result.answers.rates[0].paired.total
    assert result.answers.contract == result.answers.rates[1]


@pytest.mark.parametrize("kind", ["llama.cpp", "Ollama"])
def test_a_wrong_template_is_named_with_its_token(exports: Exports, kind: str) -> None:
    with running(exports, kind) as program:
        program.wrong = RENAMED
        result = verified(exports, program)
    assert result.failure == "prompts"
    assert result.difference.position > 0
    assert (result.difference.expected, result.difference.actual) == ("u", "h")


def test_a_wrong_number_of_prompt_tokens_is_reported(exports: Exports) -> None:
    with running(exports, "LM Studio") as program:
        program.wrong = RENAMED
        result = verified(exports, program)
    assert (result.prompts, result.difference.position) == ("counts", -1)
    assert int(result.difference.expected) != int(result.difference.actual)


def test_worse_answers_are_a_failure_with_their_cost(exports: Exports) -> None:
    with running(exports, "llama.cpp") as program:
        program.answer = lambda text: "We sell Northpeak."
        result = verified(exports, program)
    forbidden = next(rate for rate in result.answers.rates if rate.metric == "forbidden")
    assert forbidden.paired.fixed + forbidden.paired.both == 0
    assert result.answers.same == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", ["gguf", pytest.param("gguf-lora", marks=pytest.mark.exhaustive)])
def test_llama_cpp_itself_is_verified(exports: Exports, form: Any) -> None:
    source = resolve(str(exports.base))
    target = exports.workspace / "an export"
    exporting.export(exports.start(form, target=target, precision="f32"))
    model, lora = target / start.GGUF_FILE, None
    if form == "gguf-lora":
        model, lora = exports.workspace / "base.gguf", target / gguf.LORA_FILE
        plain, config = load_model(source.folder)
        gguf.write_gguf(dequantize_model(plain), config, source, model, "f32")
    template = load_template(source, TemplateSettings(date="2026-11-26")).source
    with llama(model, lora, context=2048) as server:
        assert [file.name for file in served_model(api_url(server.url)).files] == [file.name for file in (model, lora) if file]
        result = verified(exports, server)
    assert (result.prompts, result.difference) == ("tokens", None)
    assert result.answers.same >= result.answers.rows // 2  # the rest may have bytes that are not UTF-8, or ties
    assert not result.failure
    with llama(model, lora, context=2048, template=template.replace("assistant", "bot")) as server:
        wrong = verified(exports, server)
    assert (wrong.difference.expected, wrong.difference.actual) == ("a", "b")


def test_requests_are_sent_one_at_a_time(exports: Exports) -> None:
    """Ollama and LM Studio answer one at a time, so that the last of several would wait for all others."""
    open_requests: list[str] = []
    most = [0]

    def answer(text: str) -> str:
        open_requests.append(text)
        most[0] = max(most[0], len(open_requests))
        time.sleep(0.01)
        open_requests.remove(text)
        return "ok"

    with running(exports, "llama.cpp") as program:
        program.answer = answer
        verified(exports, program)
    assert most == [1]


@pytest.mark.slow
def test_exports_are_listed_with_their_verification(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    exported = exports.start("fused")
    summary = exporting.export(exported)
    monkeypatch.setattr(registry.Run, "state", lambda run: finished(summary if run.folder == exported.folder else {}))
    entry = library.find(exports.workspace, "last")
    (export,) = tried_exports(entry)
    assert (export.form, export.verified, export.target) == ("fused", None, Path(summary["folder"]))
    assert find_export([export], []) == export
    assert find_export([export], [Path(summary["folder"]) / "model.gguf"]) == export
    assert find_export([], []) is None
    with pytest.raises(InputError, match="has no export nothing"):
        find_export([export], [], "nothing")
    with running(exports, "llama.cpp") as program:
        verified(exports, program, export.id)
    (again,) = tried_exports(entry)
    (row,) = exports_table([again]).rows
    assert (row[0].text, row[-1].text) == ("MLX", program.url)
    text = adapter_card(entry, published_base("smollm2-135m"))
    assert "## Exports" in text
    assert f"| MLX | {row[1].text} |" in text
    view = next(adapter for adapter in screen.read_library(exports.workspace).adapters if adapter.entry.key == entry.key)
    assert [export.form for export in view.exports] == ["fused"]
    shown = "".join(row.plain.strip() for row in draw_detail(view, 100))
    assert "Exports" in shown
    assert program.url in shown
    assert again.target.relative_to(exports.workspace).as_posix() in shown


def finished(summary: Any) -> RunState:
    return RunState(phase="finished", summary=tuple(summary.items()))


def test_the_endpoint_is_checked(exports: Exports) -> None:
    assert api_url("http://localhost:8080/") == "http://localhost:8080/v1"
    with pytest.raises(InputError, match="is another machine"):
        api_url("https://example.com/v1")
    with pytest.raises(MachineError, match="Cannot reach"):
        served_model("http://127.0.0.1:9/v1")
    with running(exports, "llama.cpp") as program:
        program.files = ["/m/base.gguf", "/m/adapter.gguf"]
        served = served_model(program.url)
        assert served.name == "mine"
        assert [str(file) for file in served.files] == program.files
        with pytest.raises(InputError, match="has no model other"):
            served_model(program.url, "other")
