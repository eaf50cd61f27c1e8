"""Ask an installed program how it renders a prompt.

llama.cpp's server and Ollama report the tokens; other programs report only their number.

llama.cpp's server has ``/apply-template`` and ``/tokenize`` (https://github.com/ggml-org/llama.cpp, ``tools/server/README.md``). Ollama renders a
prompt without answering it if a request has ``_debug_render_only`` (https://github.com/ollama/ollama, ``api/types.go``).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from mlxtune.adapters.export.llama_server import LlamaSettings, llama_server
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.text import one_line
from mlxtune.data.rows import REASONING, PromptRow
from mlxtune.evaluation.judge.endpoint import host, is_local

_TIMEOUT, _SLOW = 60.0, 600.0  # seconds: for a request, and for one that generates an answer
_MAX_BYTES = 2**24  # maximum size of a reply
_MAX_TOKEN = 2**31


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, which could lead to another machine."""

    def redirect_request(self, *_: Any) -> None:
        return None


_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects())


@dataclass(frozen=True)
class ServedModel:
    """The model at an endpoint: its ``name`` there, and the ``files`` that the program loaded if it reports them."""

    name: str
    files: tuple[Path, ...]


def api_url(url: str) -> str:
    """Return the base URL of the OpenAI-compatible API at ``url``. Raise ``InputError`` unless it is local."""
    url = url.rstrip("/")
    if not is_local(host(url)):
        raise InputError(
            f"{host(url)} is another machine, but exports are verified on this one.",
            hint="To evaluate a model on another machine, add it as an arm: set [evaluation.endpoints] in the recipe and run mlxtune eval",
        )
    return url if url.endswith("/v1") else f"{url}/v1"


def served_model(url: str, name: str = "") -> ServedModel:
    """Return the model ``name`` at the API ``url``, by default the only one. Raise ``InputError`` if there is no such model."""
    match _request(f"{url}/models"):
        case {"data": list(listed)}:
            names = [one["id"] for one in listed if isinstance(one, dict) and isinstance(one.get("id"), str)]
        case _:
            names = []
    if not names:
        raise MachineError(f"{one_line(url, 80)} lists no models.", hint="Start the program with the exported model.")
    if not name and len(names) > 1:
        shown = one_line(", ".join(names[:5]), 160)
        raise InputError(f"The endpoint has {len(names)} models: {shown}.", hint="Name one with --model.")
    if name and name not in names and f"{name}:latest" not in names:
        raise InputError(f"The endpoint has no model {one_line(name, 60)}.", hint=f"It has: {one_line(', '.join(names[:5]), 160)}")
    root = url.removesuffix("/v1")
    props, adapters = _request(f"{root}/props"), _request(f"{root}/lora-adapters")
    paths = [props.get("model_path")] if isinstance(props, dict) else []
    paths += [one.get("path") for one in adapters if isinstance(one, dict)] if isinstance(adapters, list) else []
    files = (Path(path) for path in paths if isinstance(path, str) and path and path.isprintable())
    return ServedModel(name or names[0], tuple(files))


def rendered_prompt(url: str, model: str, row: PromptRow, encode: Callable[[str], list[int]]) -> list[int] | None:
    """Return the tokens of the prompt for ``row`` as the program at ``url`` renders them, or ``None`` if it cannot report them.

    ``encode`` returns the tokens of a text, for Ollama, which reports only the text.
    """
    from mlxtune.evaluation.endpoint_answers import openai_message  # imports mlx

    root = url.removesuffix("/v1")
    reasoning = ({REASONING: turn.extra[REASONING]} if REASONING in turn.extra else {} for turn in row.prompt)
    body: dict[str, Any] = {"messages": [openai_message(turn) | more for turn, more in zip(row.prompt, reasoning, strict=True)]}
    if row.tools:
        body["tools"] = list(row.tools)
    match _request(f"{root}/apply-template", body):
        case {"prompt": str(text)}:
            match _request(f"{root}/tokenize", {"content": text, "add_special": True, "parse_special": True}):
                case {"tokens": list(tokens)} if all(type(token) is int and 0 <= token < _MAX_TOKEN for token in tokens):
                    return tokens
            return None
    if _request(f"{root}/api/version") is None:
        return None
    options = {"model": model, "stream": False, "_debug_render_only": True, "options": {"num_predict": 1}}
    match _request(f"{root}/api/chat", body | options):
        case {"_debug_info": {"rendered_template": str(text)}}:
            return encode(text.encode("utf-8", "replace").decode())  # JSON can hold lone surrogates
    return None


def llama_speed(file: Path) -> float | None:
    """Return the tokens per second with which llama.cpp continues a text with the model in ``file``."""
    with llama_server(LlamaSettings(str(file), fast=True)) as url:
        match _request(f"{url}/completion", {"prompt": "Once", "n_predict": 64, "ignore_eos": True}, timeout=_SLOW):
            case {"timings": {"predicted_per_second": float(speed)}}:
                return speed
    return None


def _request(url: str, body: dict[str, Any] | None = None, timeout: float = _TIMEOUT) -> Any:
    """Return a JSON reply, or ``None`` if the program does not know this request. Raise ``MachineError`` if it cannot be reached."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with _DIRECT.open(request, timeout=timeout) as reply:
            return json.loads(reply.read(_MAX_BYTES))
    except (urllib.error.HTTPError, ValueError, RecursionError):
        return None
    except (OSError, HTTPException) as error:
        hint = "Start the program with the exported model, then try again."
        raise MachineError(f"Cannot reach {one_line(url, 80)}: {one_line(str(error), 80)}.", hint=hint) from error
