"""Every command of the documents runs, in order, in one workspace a document; what it says is what the document shows."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import tomlkit
import typer
from console import Command, agrees, blocks, commands, prose, said, sections
from tiny_model import make_tiny

from mlxtune.cli.main import app, main
from mlxtune.data import formats, samples
from mlxtune.data.rows import Place
from mlxtune.evaluation.power import BROKEN, detectable
from mlxtune.models import blas, bundled
from mlxtune.planning import ask
from mlxtune.recipe import parse
from mlxtune.recipe.edit import edit
from mlxtune.recipe.schema import Recipe
from mlxtune.runs import launch

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
sys.path.insert(0, str(ROOT / "tools"))
import reference  # noqa: E402

# What is read by the parser and not run, each with the reason.
NOT_RUN = {
    "mlxtune": "opens the app: it needs a terminal",
    "mlxtune serve": "serves until it is stopped; tests/cli/test_chat_verb.py starts it",
    "mlxtune chat": "a conversation: it needs a terminal",
    "mlxtune blind": "votes: it needs a terminal",
    "mlxtune judge": "needs a model that can judge",
    "mlxtune models pull": "needs the hub",
    "mlxtune adapters push": "needs the hub",
}
ELSEWHERE = {
    "git": "the clone this runs in",
    "make": "sets up the environment this runs in",
    ".": "enters the environment this runs in",
    "pip": "installs what is installed here",
    "python": "another program",
    "caffeinate": "a program of macOS",
    "sudo": "changes a Mac",
}
PLAIN = ("cat", "cp", "head", "ls", "mkdir", "wc")  # of the shell
# What is not the same on every machine, or says what the bundled model did: there only the sections must be those that are shown.
VARIES = {"adapters", "advise", "compare", "doctor", "eval", "models", "plan", "runs", "train", "verify"}

SMALL = {  # of the sample recipes, so that mechanics take a moment: this is about commands, not about learning
    "training.steps": 2, "training.samples": 0, "evaluation.rows": 4, "evaluation.max_tokens": 4,
}  # fmt: skip
PARSER: Any = typer.main.get_command(app)


class AtOnce:
    """A worker that has ended before its launcher looks. It runs here: a process of its own would load MLX anew each time."""

    def __init__(self, command: list[str], *, stdout: Any, **_: Any) -> None:
        self.pid = os.getpid()
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = [signal.getsignal(number) for number in numbers]
        arguments, sys.argv = sys.argv, command[2:]
        try:
            with os.fdopen(os.dup(stdout.fileno()), "w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                self.returncode = importlib.import_module(command[2]).main()
        finally:
            sys.argv = arguments
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def poll(self) -> int:
        return self.returncode


@pytest.fixture(scope="module")
def small_home(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A home in which the bundled model is a tiny one that knows the words of the samples."""
    folder = tmp_path_factory.mktemp("docs-home")
    (folder / "blas").symlink_to(home / "blas")
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "data/samples").glob("support*.jsonl"))]
    make_tiny(folder / "models" / bundled.folder().name, texts=texts)
    return folder


@pytest.fixture
def reader(
    small_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> Callable[[Command], tuple[int, str]]:
    """Somebody who types commands in an empty folder, on a terminal of eighty columns."""
    from mlxtune.training import probe

    monkeypatch.setenv("MLXTUNE_HOME", str(small_home))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # and one lane: for so small a model more are in each other's way
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(blas, "preload", lambda: "a BLAS")  # tests have loaded it, ahead of MLX
    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=AtOnce, DEVNULL=subprocess.DEVNULL))
    monkeypatch.setattr(ask, "_ask", lambda what, request: getattr(probe, what)(request))
    create = samples.create

    def created(folder: Path) -> Path:
        made = create(folder)
        for path in (folder / "recipes").glob("*.toml"):
            edit(path, SMALL)
        return made

    monkeypatch.setattr(samples, "create", created)
    monkeypatch.chdir(tmp_path)
    return lambda command: _type(command.typed, monkeypatch) if command.language == "console" else _run(command.typed)


def _type(typed: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Do what a line says; its exit code, and all that it prints."""
    if "<<" in typed:
        return _shell(typed)
    code, told = 0, ""
    for words in _parts(typed):
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
        elif words[0] in PLAIN:
            code, told = _shell(shlex.join(words))
        elif _start(words):
            read(words[1:])
        elif words[0] == "mlxtune":
            code, told = _mlxtune(words, monkeypatch)
        else:
            assert words[0] in ELSEWHERE, f"what is {words[0]}?"
            if "mlxtune" in words:
                read(words[words.index("mlxtune") + 1 :])
    return code, told


def _run(program: str) -> tuple[int, str]:
    """Run a program in Python; what it raises is raised."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "document", "exec"), {})
    return 0, out.getvalue()


def _parts(typed: str) -> list[list[str]]:
    """The commands of a line, as words."""
    return [shlex.split(part, comments=True) for part in re.split(r"\s&&\s", typed.split("\n", 1)[0])]


def _shell(typed: str) -> tuple[int, str]:
    done = subprocess.run(typed, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def _mlxtune(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), out.getvalue()


def _start(words: list[str]) -> str:
    """What of :data:`NOT_RUN` a command begins with; empty for one that runs."""
    if words == ["mlxtune"]:
        return "mlxtune"
    return next((start for start in NOT_RUN if " " in start and words[: len(start.split())] == start.split()), "")


def read(arguments: list[str]) -> None:
    """Let the parser read a command that is not run. Raises what it raises for a verb, an option or an argument that it does not know."""
    command, rest = PARSER, arguments
    while rest and rest[0] in getattr(command, "commands", {}):
        command, rest = command.commands[rest[0]], rest[1:]
    command.make_context("mlxtune", list(rest))


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_every_command_runs_and_says_what_is_shown(document: Path, reader: Callable[[Command], tuple[int, str]]) -> None:
    for command in commands(document):
        where = f"{document.name}, line {command.line}: {command.typed}"
        code, output = reader(command)
        assert code == command.code, f"{where}\nended with {code}:\n{output}"
        if not command.shown or (words := _parts(command.typed)[-1])[0] not in ("mlxtune", *PLAIN) or _start(words):
            continue
        lines = said(output)
        if words[1] in VARIES:
            gone = set(command.sections) - set(sections(lines))
            assert not gone, f"{where}\nhas no section {gone} any more:\n{output}"
        else:
            assert agrees(command.shown, lines), f"{where}\nsays now:\n" + "\n".join(lines)


def test_every_reason_not_to_run_something_is_needed() -> None:
    found = [command for path in DOCUMENTS for command in commands(path) if command.language == "console"]
    typed = [words for command in found for words in _parts(command.typed)]
    assert {_start(words) for words in typed} == {"", *NOT_RUN}
    assert {words[0] for words in typed} >= set(ELSEWHERE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_blocks_of_other_languages_can_be_read(document: Path) -> None:
    for line, language, text in blocks(document):
        where = f"{document.name}, line {line}"
        assert not re.search(r"^(\$ |mlxtune )", text, re.MULTILINE) or language == "console", (
            f"{where}: commands stand in console blocks"
        )
        match language:
            case "toml":
                parse(_whole(text), where=where)
            case "json":
                json.loads(text)
            case "jsonl":
                for number, row in enumerate(text.splitlines()):
                    formats.parse(json.loads(row), Place(document, line + number))
            case _:
                assert language in ("console", "python", "text"), f"{where}: a block says what it is"


def _whole(text: str) -> str:
    """A recipe, of which ``text`` may be a part."""
    recipe: dict[str, Any] = {"name": "shop", "model": {"base": "m"}, "data": {"source": "d.jsonl"}}
    for section, values in tomllib.loads(text).items():
        recipe[section] = recipe.get(section, {}) | values if isinstance(values, dict) else values
    return tomlkit.dumps(recipe)


CODE = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_verbs_options_and_keys_that_are_mentioned_exist(document: Path) -> None:
    kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind)}
    known = {f"{name}.{field.name}" for name, kind in kinds.items() for field in fields(kind)}
    key = re.compile(rf"(?:--set )?((?:{'|'.join(kinds)})\.\w+)(?![\w.])")
    for code in CODE.findall(prose(document)):
        where = f"{document.name}: {code}"
        if code.startswith("mlxtune "):
            _mentioned(code.split()[1:], where)
        if (found := key.match(code)) and not code.endswith(".py"):
            assert found[1] in known, where


def test_the_front_page_has_every_verb_once() -> None:
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The command line")[2].partition("\n## ")[0]
    cells = [CODE.findall(line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    told = [code.split()[0] for codes in cells for code in codes]
    assert set(told) == {"mlxtune", *PARSER.commands}
    for code in (code for codes in cells for code in codes if code != "mlxtune"):
        _mentioned(re.sub(r"[\[\],]", " ", re.sub(r" or |[A-Z]+(\.\w+)?", " ", code)).split(), code)


def _mentioned(words: list[str], where: str) -> None:
    command = PARSER
    for word in words:
        inner = getattr(command, "commands", {})
        if word in inner:
            command = inner[word]
        elif word.startswith("--"):
            assert word in {option for one in command.params for option in (*one.opts, *one.secondary_opts)} | {"--help"}, where
        elif inner:
            assert not re.fullmatch(r"[a-z]+", word), where


# ---- links, and the pages that follow the code ----

LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=[*NAMES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(prose(document)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{document.name}: {link}"


def _anchors(document: Path) -> set[str]:
    """Where a heading can be gone to, as GitHub names it."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_pages_that_follow_the_code_are_what_the_code_says() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in reference.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "python tools/reference.py writes them again"


def test_every_key_of_a_recipe_is_explained() -> None:
    bare = [
        line
        for line in (ROOT / "docs/recipe.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `\w+` \|.*\|  \|$", line)
    ]
    assert bare == []


def test_the_front_page_is_one() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 220
    assert {path.name for path in DOCUMENTS} - {"README.md"} <= {Path(link).name for link in LINK.findall("\n".join(lines))}


def test_what_rows_can_show_is_what_the_guide_says() -> None:
    rows = re.findall(
        r"^\| ([\d,]+) \| (\d+) points? \| (\d+) \|$", (ROOT / "docs/evaluation.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) >= 5
    for count, clean, rough in rows:
        found = [detectable(int(count.replace(",", "")), broken) for broken in (0.0, BROKEN)]
        assert [round(100 * rise) for rise in found if rise] == [int(clean), int(rough)]
