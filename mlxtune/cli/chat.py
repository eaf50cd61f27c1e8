"""``chat``: talk to a base or an adapter in the terminal."""

from __future__ import annotations

import json as codec
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.cli.screen import Cell, bar, columns, complain, out, say
from mlxtune.cli.train import Json
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.text import nearest, one_line, safe_text
from mlxtune.models import bundled
from mlxtune.models.resolve import resolve
from mlxtune.serving import shelf
from mlxtune.serving.client import Client
from mlxtune.serving.keep import keep_row
from mlxtune.serving.protocol import Done, Event, Failed, Piece, Sampling
from mlxtune.serving.session import Session

Which = Annotated[
    str,
    typer.Argument(help="An adapter (name, run, folder, or last) or a base model. Default: the bundled base.", show_default=False),
]
Beside = Annotated[bool, typer.Option("--beside", help="Run though a training run has the accelerator; both get slower.")]

_COMMANDS = {
    "/adapter": "NAME    another adapter from here on; none for the base",
    "/adapters": "        what there is",
    "/system": "TEXT    another system prompt from here on; empty for none",
    "/undo": "        take the last question back",
    "/reset": "        begin again",
    "/save": "FILE    add the conversation to a file of training rows",
    "/help": "        this list",
    "/quit": "        end (or Ctrl-D)",
}


def chat(
    which: Which = "",
    adapter: Annotated[str, typer.Option("--adapter", help="An adapter to begin with, on the base that was named.")] = "",
    system: Annotated[
        str | None,
        typer.Option("--system", help="The system prompt. Default: the one that the adapter's rows share.", show_default=False),
    ] = None,
    temperature: Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", help="Only tokens within this share of the mass.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Draw the same answers again.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="The longest answer.")] = 1024,
    beside: Beside = False,
    json: Json = False,
) -> None:
    """Talk to a model: a question a line; /help shows what else a line can be. Ctrl-C stops an answer, Ctrl-D ends.

    Questions can be piped in. With --json every event is a line on stdout.
    """
    here = Path.cwd()
    base, named = subject(here, which)
    session = Session(system or "", sampling=Sampling(max_tokens, temperature, top_p, seed), own=system is not None)
    with bar("looking for the model") as update:
        resolve(base, progress=update)
    with Client(base, here, beside=beside) as client:
        with bar("loading the model") as update:
            update(f"loading {one_line(base, 60)}", 0.0)
            ready = client.ready()
        if adapter or named:
            entry = shelf.find(here, adapter or named, ready.fingerprint)
            session.use(entry.name, entry.system)
        if not json:
            say(("● ", "bold primary"), _who(session, ready.base), (f"   {ready.path}; /help", "muted"))
            _tell_system(session)
        failed = False
        for line in _lines(session):
            try:
                if line.startswith("/"):
                    if not _obey(line, session, here, ready.fingerprint):
                        break
                else:
                    failed = not _answer(client, session, line, json) or failed
            except MlxtuneError as error:
                complain(error)
                failed = True
    if failed and not sys.stdin.isatty():
        raise typer.Exit(2)


def subject(workspace: Path, which: str) -> tuple[str, str]:
    """The base and the adapter meant by ``which``: an adapter's name brings its base. Raises ``InputError``."""
    if which in ("", bundled.ALIAS):
        return bundled.ALIAS, ""
    folder = workspace / which
    if os.path.isfile(folder / "config.json") or ("/" in which and not os.path.exists(folder)):
        return which, ""
    try:
        found = library.usable(workspace, which)
    except InputError:
        names = [entry.name for entry in library.all_adapters(workspace)]
        if which == "last" or any(which in name for name in names):
            raise
        hint = nearest(which, [*names, bundled.ALIAS])
        raise InputError(
            f"There is no adapter and no model called {one_line(which, 80)}.",
            mend=f"Did you mean {hint}?" if hint else "Name an adapter (mlxtune adapters), a folder, a hub id, or smollm2-135m.",
        ) from None
    return shelf.base_of(found), found.name


def _who(session: Session, base: str) -> str:
    return f"{session.adapter} on {base}" if session.adapter else base


def _lines(session: Session) -> Iterator[str]:
    """What the user types, without empty lines; a prompt only where it is a terminal."""
    shown = sys.stdin.isatty()
    while True:
        try:
            line = input("○ " if shown else "").strip()
        except (EOFError, KeyboardInterrupt):
            if shown:
                say("")
            return
        if line:
            yield line


def _answer(client: Client, session: Session, question: str, json: bool) -> bool:
    """Ask, show the answer as it comes, and remember it. ``False`` where there is none."""
    answer = session.ask(client, question)
    said: list[str] = []
    while True:
        try:
            event = next(answer)
        except KeyboardInterrupt:
            answer.cancel()
            continue
        _show(event, json)
        match event:
            case Piece():
                said.append(event.text)
            case Failed():
                raise event.as_error()
            case Done():
                text = "".join(said)
                if event.ended != "cancelled" or text:
                    session.add(question, text)
                return True


def _show(event: Event, json: bool) -> None:
    if json:
        print(codec.dumps({"event": type(event).__name__.lower(), **asdict(event)}), flush=True)
        return
    match event:
        case Piece():
            out.print(safe_text(event.text), end="")
        case Done():
            out.print()
            if sys.stdin.isatty():
                cut = {"length": ", cut off", "cancelled": ", stopped"}.get(event.ended, "")
                speed = f", {event.speed:.0f} tokens/s" if event.speed else ""
                read = f"{event.prompt_tokens:,} tokens read ({event.cached:,} known)"
                say((f"  {read}, {event.tokens:,} written{speed}{cut}", "faint"))


def _obey(line: str, session: Session, workspace: Path, fingerprint: str) -> bool:
    """Do what a line that begins with a slash says. ``False`` to end. Raises ``InputError``."""
    verb, _, rest = line.partition(" ")
    rest = rest.strip()
    commands: dict[str, Callable[[], None]] = {
        "/adapter": lambda: _switch(session, workspace, rest, fingerprint),
        "/adapters": lambda: _list(session, workspace, fingerprint),
        "/system": lambda: session.instruct(rest),
        "/undo": lambda: say(("· ", "faint"), "Taken back: ", one_line(session.undo(), 80)),
        "/reset": session.reset,
        "/save": lambda: _save(session, rest),
        "/help": lambda: columns([[verb, (text, "muted")] for verb, text in _COMMANDS.items()]),
    }
    if verb == "/quit":
        return False
    if verb not in commands:
        hint = nearest(verb, _COMMANDS)
        raise InputError(
            f"There is no {one_line(verb, 40)}.", mend=f"Did you mean {hint}?" if hint else "/help shows what there is."
        )
    commands[verb]()
    return True


def _switch(session: Session, workspace: Path, named: str, fingerprint: str) -> None:
    if named in ("", "none", "base"):
        session.adapter = ""
    else:
        entry = shelf.find(workspace, named, fingerprint)
        session.use(entry.name, entry.system)
    say(("· ", "faint"), session.adapter or "The base, without an adapter")
    _tell_system(session)


def _tell_system(session: Session) -> None:
    """Say which system prompt goes ahead of the questions, where the user did not give it."""
    if session.system and not session.own:
        say(("  asked as its rows are, /system changes it: ", "muted"), (one_line(session.system, 60), "faint"))


def _list(session: Session, workspace: Path, fingerprint: str) -> None:
    here: Cell = ("▌", "primary")
    rows: list[list[Cell]] = [[here if not session.adapter else "", "none", ("the base", "muted")]]
    for one in shelf.fitting(workspace, fingerprint):
        rows.append([here if one.name == session.adapter else "", one.name, (one.base, "muted")])
    columns(rows)


def _save(session: Session, named: str) -> None:
    """Add the conversation to a file of rows."""
    if not named:
        raise InputError("/save needs a file.", mend="/save data/chat.jsonl")
    file = Path(shlex.split(named)[0]).expanduser()
    keep_row(session, file)
    say(("▾ ", "bold primary"), f"A row was added to {file}.")
