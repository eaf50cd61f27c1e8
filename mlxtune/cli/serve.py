"""``serve``: run an OpenAI-compatible server for a base model and its adapters."""

import os
import re
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mlxtune.adapters import library
from mlxtune.cli.chat import ShareAccelerator, Which, parse_model
from mlxtune.cli.options import Json, option
from mlxtune.cli.output import info, print_columns, progress_bar, show, show_json
from mlxtune.core.errors import InputError
from mlxtune.core.machine_load import share_arena
from mlxtune.core.text import one_line, speed
from mlxtune.models.resolve import resolve
from mlxtune.serving.client import Client
from mlxtune.serving.protocol import Done, Event, Failed, Ready

if TYPE_CHECKING:
    import uvicorn

TOKEN_VARIABLE = "MLXTUNE_SERVE_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    which: Which = "",
    host: Annotated[str, option("--host", "The address to listen on. By default, only this machine can reach it.")] = "127.0.0.1",
    port: Annotated[int, option("--port", "The port; 0: a free one.", min=0, max=65535)] = 8080,
    slots: Annotated[int, option("--slots", "Concurrent answers.", min=1, max=256)] = 16,
    queue: Annotated[int, option("--queue", "Most waiting requests.", min=0, max=10_000)] = 64,
    exact: Annotated[bool | None, option("--exact/--no-exact", "Independent of other requests. Default: on a CPU.")] = None,
    keep_alive: Annotated[float, option("--keep-alive", "Unload when idle; 0: never.", metavar="MINUTES", min=0)] = 0.0,
    allow_origin: Annotated[list[str] | None, option("--allow-origin", "Allowed CORS origin.", metavar="URL")] = None,
    share_accelerator: ShareAccelerator = False,
    json: Json = False,
) -> None:
    """Serve a base model and its adapters over an OpenAI-compatible API.

    The "model" field of a request selects one. Answers have at most 1,024 tokens unless a request sets "max_tokens".

    Ctrl-C stops the server; SIGTERM stops it once the answers in progress are complete.

    If MLXTUNE_SERVE_TOKEN is set, clients must send it as the API key.
    """
    try:
        from mlxtune.serving import http_server
        from mlxtune.serving.model_host import ModelHost
        from mlxtune.serving.server import Server
    except ImportError as error:
        raise InputError("Serving needs more packages.", hint="Run: pip install 'mlxtune[serve]'") from error
    origins, token = allow_origin or [], os.environ.get(TOKEN_VARIABLE, "")
    for origin in origins:
        if not re.fullmatch(r"\*|https?://[^/\s]+", origin, re.IGNORECASE):
            raise InputError(f"{one_line(origin, 80)} is not an origin.", hint="For example: https://example.com, or *.")
    share_arena()
    base, _ = parse_model(Path.cwd(), which)
    with progress_bar() as update:
        resolve(base, progress=update)
    watch = _ProcessWatch(base, keep_alive > 0)

    def start() -> Client:
        return Client(base, share_accelerator=share_accelerator, exact=exact, slots=slots, queue=queue, on_event=watch)

    with ExitStack() as stack:
        listener = stack.enter_context(http_server.listen(host, port))
        with progress_bar("loading the model") as update:
            update(f"loading {one_line(base, 60)}", 0.0)
            model = stack.enter_context(ModelHost(start, keep_alive * 60))
        server = Server(model, Path.cwd(), slots=slots, queue=queue, on_finish=_log_request)
        _print_start(model.ready, f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/v1", json)
        if host not in _LOOPBACK and not token:
            info(("! ", "bold warning"), f"Anyone who can reach {host} can use this server. {TOKEN_VARIABLE} requires an API key.")
        try:
            http_server.run(server.app(host, token, origins), listener, watch.servers.append)
        except KeyboardInterrupt:
            info("")
    for failure in watch.failures[:1]:
        raise failure.error


class _ProcessWatch:
    """Stops the server when its model process fails, or only logs that if the next request loads the model again."""

    def __init__(self, base: str, reloads: bool) -> None:
        self._base, self._reloads = base, reloads
        self.servers: list[uvicorn.Server] = []
        self.failures: list[Failed] = []

    def __call__(self, event: Event) -> None:
        if not isinstance(event, Failed):
            return
        if self._reloads and self.servers:
            _log_request(self._base, event)
            return
        self.failures.append(event)
        for server in self.servers:
            server.should_exit = True


def _print_start(ready: Ready, url: str, json: bool) -> None:
    adapters = library.compatible_adapters(Path.cwd(), ready.fingerprint)
    names = [ready.base, *(adapter.name for adapter in adapters)]
    if json:
        show_json({"url": url, "base": ready.base, "path": ready.path, "context": ready.context, "models": names})
        return
    show(("● ", "bold primary"), f"{url}   ", (f"{ready.path}; {ready.context:,} tokens", "muted"))
    print_columns([["", name, ("base" if name == ready.base else "adapter", "muted")] for name in names])


def _log_request(model: str, event: Done | Failed) -> None:
    if isinstance(event, Failed):
        info(("✗ ", "error"), f"{model}   ", (one_line(event.error.message, 120), "muted"))
    else:
        usage = f"{event.prompt_tokens:,} + {event.tokens:,} tokens, {event.seconds:.1f} s"
        rate = f", {speed(event.speed)} tokens/s" if event.speed else ""
        waited = f", waited {event.waited:.1f} s" if event.waited >= 0.1 else ""
        info(("· ", "faint"), f"{model}   ", (usage + rate + waited, "muted"))
