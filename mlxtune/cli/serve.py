"""``serve``: an OpenAI-style server over a base and its adapters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.cli.chat import Beside, Which, subject
from mlxtune.cli.screen import bar, columns, out, say, show, show_json
from mlxtune.cli.train import Json
from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.text import one_line
from mlxtune.models.resolve import resolve
from mlxtune.serving import shelf
from mlxtune.serving.client import Client
from mlxtune.serving.protocol import Done, Event, Failed, Ready

TOKEN = "MLXTUNE_SERVE_TOKEN"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    which: Which = "",
    host: Annotated[
        str, typer.Option("--host", help="The address to listen on; other machines can only reach one of its own.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port; 0 takes a free one.", min=0, max=65535)] = 8080,
    slots: Annotated[int, typer.Option("--slots", help="Answers that are written at a time.", min=1, max=256)] = 16,
    queue: Annotated[int, typer.Option("--queue", help="Requests that may wait behind them.", min=0, max=10_000)] = 64,
    beside: Beside = False,
    json: Json = False,
) -> None:
    """Serve a base and every adapter of it over an OpenAI-style API; a request's "model" chooses. Ctrl-C ends it.

    MLXTUNE_SERVE_TOKEN, if it is set, is the key that every request must bring.
    """  # fmt: skip
    try:
        import uvicorn

        from mlxtune.serving import server as http
    except ImportError as error:
        raise InputError("Serving needs starlette and uvicorn.", mend="pip install 'mlxtune[serve]'") from error
    base, _ = subject(Path.cwd(), which)
    token = os.environ.get(TOKEN, "")
    with bar("looking for the model") as update:
        resolve(base, progress=update)
    ended: list[Failed] = []

    def hear(event: Event) -> None:
        if isinstance(event, Failed):
            ended.append(event)
            if running:
                running[0].should_exit = True

    running: list[uvicorn.Server] = []
    with http.listen(host, port) as place, Client(base, beside=beside, exact=True, slots=slots, queue=queue, tell=hear) as client:
        with bar("loading the model") as update:
            update(f"loading {one_line(base, 60)}", 0.0)
            ready = client.ready()
        server = http.Server(client, Path.cwd(), slots=slots, queue=queue, told=_tell)
        address = f"http://{f'[{host}]' if ':' in host else host}:{place.getsockname()[1]}/v1"
        _greet(ready, address, json)
        if host not in _LOOPBACK and not token:
            say(("! ", "bold warning"), f"Everybody who can reach {host} may use it. Set {TOKEN} to ask for a key.")
        try:
            http.run(server.app(host, token), place, running.append)
        except KeyboardInterrupt:
            say("")
    if ended:
        raise MachineError(ended[0].error, mend=ended[0].mend)


def _greet(ready: Ready, address: str, json: bool) -> None:
    names = [ready.base, *(one.name for one in shelf.fitting(Path.cwd(), ready.fingerprint))]
    if json:
        show_json({"url": address, "base": ready.base, "path": ready.path, "context": ready.context, "models": names})
        return
    show(("● ", "bold primary"), f"{address}   ", (f"{ready.path}; {ready.context:,} tokens", "muted"))
    columns([["", name, ("base" if at == 0 else "adapter", "muted")] for at, name in enumerate(names)], console=out)


def _tell(model: str, ended: Done | Failed) -> None:
    if isinstance(ended, Failed):
        say(("✗ ", "error"), f"{model}   ", (one_line(ended.error, 120), "muted"))
    else:
        took = f"{ended.prompt_tokens:,} + {ended.tokens:,} tokens, {ended.seconds:.1f} s"
        speed = f", {ended.speed:.0f} tokens/s" if ended.speed else ""
        waited = f", waited {ended.waited:.1f} s" if ended.waited >= 0.1 else ""
        say(("· ", "faint"), f"{model}   ", (took + speed + waited, "muted"))
