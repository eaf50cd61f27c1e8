"""``chat``: chat with a base model or an adapter in the terminal."""

import json as codec
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import info, out, print_columns, print_error, progress_bar
from mlxtune.core.errors import InputError, MlxtuneError
from mlxtune.core.files import user_path
from mlxtune.core.text import nearest, one_line, safe_text, suggest
from mlxtune.models import bundled
from mlxtune.models.resolve import ALIASES, resolve
from mlxtune.present.labels import saved, usage
from mlxtune.present.terminal import Part
from mlxtune.present.words import WORDS
from mlxtune.serving.chat_session import ChatSession
from mlxtune.serving.client import Client
from mlxtune.serving.protocol import Done, Event, Failed, Piece, Sampling

Which = Annotated[str, argument("An adapter (name, run, folder, or last) or a base model. Default: the bundled model.")]
ShareAccelerator = Annotated[bool, option("--share-accelerator", "Run even during a training run. Both become slower.")]


def chat(
    which: Which = "",
    adapter: Annotated[str, option("--adapter", "Start with this adapter on the given base.")] = "",
    system: Annotated[str | None, option("--system", "The system prompt. Default: the one in the adapter's training rows.")] = None,
    temperature: Annotated[float, option("--temperature", "Sampling temperature; 0 is greedy.")] = 0.0,
    top_p: Annotated[float, option("--top-p", "Nucleus sampling.")] = 1.0,
    seed: Annotated[int | None, option("--seed", "Random seed.")] = None,
    max_tokens: Annotated[int, option("--max-tokens", "Maximum tokens per answer, including reasoning.")] = 1024,
    effort: Annotated[str, option("--effort", "Reasoning: none, low, medium, or high. Default: as in training.")] = "",
    share_accelerator: ShareAccelerator = False,
    json: Json = False,
) -> None:
    """Chat with a model, one question per line; /help lists commands. Ctrl-C stops an answer, Ctrl-D quits.

    Questions can be piped in. With --json, each event is one line on stdout.
    """
    workspace = Path.cwd()
    base, default_adapter = parse_model(workspace, which)
    session = ChatSession(
        system or "", sampling=Sampling(max_tokens, temperature, top_p, seed), custom_system=system is not None, effort=effort
    )
    with progress_bar() as update:
        resolve(base, progress=update)
    with Client(base, workspace, share_accelerator=share_accelerator) as client:
        with progress_bar("loading the model") as update:
            update(f"loading {one_line(base, 60)}", 0.0)
            ready = client.ready()
        if name := adapter or default_adapter:
            entry = library.find_compatible(workspace, name, ready.fingerprint)
            session.use_adapter(entry.name, entry.system)
        if not json:
            model = f"{session.adapter} on {ready.base}" if session.adapter else ready.base
            info(("● ", "bold primary"), model, (f"   {ready.path}; /help", "muted"))
            _print_system(session)
        failed = False
        for line in _read_lines():
            try:
                if line.startswith("/"):
                    if not _run_command(line, session, workspace, ready.fingerprint):
                        break
                else:
                    _answer(client, session, line, json)
            except MlxtuneError as error:
                print_error(error)
                failed = True
    if failed and not sys.stdin.isatty():
        raise typer.Exit(2)


def parse_model(workspace: Path, which: str) -> tuple[str, str]:
    """Return the base and the adapter (or an empty string) that ``which`` names. Raise ``InputError`` if there is neither."""
    if not which or bundled.find(which):
        return which or bundled.DEFAULT.alias, ""
    folder = workspace / which
    if os.path.isfile(folder / "config.json") or ("/" in which and not os.path.exists(folder)):
        return which, ""
    try:
        entry = library.find_usable(workspace, which)
    except InputError:
        names = [entry.name for entry in library.all_adapters(workspace)]
        if which == "last" or "@" in which or any(which in name for name in names):
            raise
        suggestion = nearest(which, [*names, *ALIASES])
        valid = f"Specify an adapter (see mlxtune adapters), a folder, a Hub ID, or {' or '.join(ALIASES)}."
        hint = f"Did you mean {suggestion}?" if suggestion else valid
        raise InputError(f"There is no adapter or model named {one_line(which, 80)}.", hint=hint) from None
    return library.base_of(entry), entry.name


def _read_lines() -> Iterator[str]:
    terminal = sys.stdin.isatty()
    while True:
        try:
            line = input("○ " if terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            if terminal:
                info("")
            return
        if line:
            yield line


def _answer(client: Client, session: ChatSession, question: str, json: bool) -> None:
    """Ask a question, print the answer as it arrives, and add it to the session. Raise the error of a failed request."""
    answer = session.ask(client, question)
    pieces: dict[bool, list[str]] = {True: [], False: []}
    while True:
        try:
            event = next(answer)
        except KeyboardInterrupt:
            answer.cancel()
            continue
        if isinstance(event, Piece) and pieces[True] and not pieces[False] and not event.reasoning and not json:
            out.print("\n")  # between the reasoning and the answer
        _print_event(event, json)
        match event:
            case Piece():
                pieces[event.reasoning].append(event.text)
            case Failed():
                raise event.error
            case Done():
                text = "".join(pieces[False])
                if event.ended != "cancelled" or text:
                    session.add(question, text, "".join(pieces[True]).rstrip(), event.ended)
                return


def _print_event(event: Event, json: bool) -> None:
    if json:
        record = {"event": type(event).__name__.lower(), **vars(event)}
        if isinstance(event, Failed):
            record |= {"error": event.error.message, "hint": event.error.hint, "code": event.error.exit_code}
        print(codec.dumps(record), flush=True)
        return
    match event:
        case Piece():
            out.print(safe_text(event.text), end="", style="muted" if event.reasoning else None)
        case Done():
            out.print()
            if sys.stdin.isatty():
                info((f"  {usage(event)}", "faint"))


def _run_command(line: str, session: ChatSession, workspace: Path, fingerprint: str) -> bool:
    """Run a command that starts with a slash. Return ``False`` to quit. Raise ``InputError`` if the command is invalid."""
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    commands: dict[str, Callable[[], object]] = {
        "/adapter": lambda: _switch_adapter(session, workspace, argument, fingerprint),
        "/adapters": lambda: _list_adapters(session, workspace, fingerprint),
        "/system": lambda: session.set_system(argument),
        "/undo": lambda: info(("· ", "faint"), "Removed: ", one_line(session.undo(), 80)),
        "/reset": session.reset,
        "/save": lambda: _save(session, argument),
        "/help": lambda: print_columns([[name, (text, "muted")] for name, text in WORDS.chat_commands.items()]),
    }
    if name == "/quit":
        return False
    if name not in commands:
        raise InputError(f"There is no command named {one_line(name, 40)}.", hint=suggest(name, WORDS.chat_commands, "Commands:"))
    commands[name]()
    return True


def _switch_adapter(session: ChatSession, workspace: Path, name: str, fingerprint: str) -> None:
    if name in ("", "none", "base"):
        session.adapter = ""
    else:
        entry = library.find_compatible(workspace, name, fingerprint)
        session.use_adapter(entry.name, entry.system)
    info(("· ", "faint"), session.adapter or "Using the base without an adapter")
    _print_system(session)


def _print_system(session: ChatSession) -> None:
    if session.system and not session.custom_system:
        info(("  system prompt from its training rows; change it with /system: ", "muted"), (one_line(session.system, 60), "faint"))


def _list_adapters(session: ChatSession, workspace: Path, fingerprint: str) -> None:
    current: Part = ("▌", "primary")
    rows: list[list[Part]] = [[current if not session.adapter else "", "none", ("the base", "muted")]]
    for entry in library.compatible_adapters(workspace, fingerprint):
        rows.append([current if entry.name == session.adapter else "", entry.name, (entry.base, "muted")])
    print_columns(rows)


def _save(session: ChatSession, argument: str) -> None:
    if not argument:
        raise InputError("/save requires a file.", hint="For example: /save data/chat.jsonl")
    file = user_path(shlex.split(argument)[0])
    info(("▾ ", "bold primary"), saved(file, session.save_row(file)))
