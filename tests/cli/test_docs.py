"""Run every command of each document, in order, in one workspace per document, and compare its output with the document."""

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import tomlkit
from command_parser import PARSER, parse_command
from console import Command, blocks, commands, matches, prose, sections, visible_lines
from exhaustive import cases
from package_trees import package_trees
from tiny_model import make_tiny

from mlxtune.cli.main import main
from mlxtune.data import samples
from mlxtune.data.readers import formats
from mlxtune.data.rows import Location
from mlxtune.evaluation.statistics.significance import BROKEN, detectable_gain
from mlxtune.models import bundled
from mlxtune.models.bundled import install
from mlxtune.recipe import parse
from mlxtune.recipe.edit import edit_recipe
from mlxtune.recipe.schema import Recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]
LONG = {"docs/tutorial.md", "docs/python.md", "docs/evaluation.md", "docs/preferences.md"}  # their commands take seconds
sys.path.insert(0, str(ROOT / "tools"))
import reference  # noqa: E402

pytestmark = pytest.mark.slow

# Commands that are parsed but not run, with the reason.
NOT_RUN = {
    "mlxtune": "opens the app: it needs a terminal",
    "mlxtune bench": "takes a minute; tests/cli/test_bench_verb.py runs a quick one",
    "mlxtune serve": "serves until it is stopped; tests/cli/test_chat_verb.py starts it",
    "mlxtune chat": "a conversation: it needs a terminal",
    "mlxtune blind": "reads votes: it needs a terminal",
    "mlxtune judge": "needs a model that can judge",
    "mlxtune eval recipes/support-json.toml --generated": "needs accepted generated rows, and trains twice",
    "mlxtune data generate": "needs a teacher; tests/worker/test_generation_worker.py runs one",
    "mlxtune search": "trains for minutes; tests/cli/test_search_verb.py starts one",
    "mlxtune models pull": "needs the Hub",
    "mlxtune adapters push": "needs the Hub",
}
EXTERNAL = {
    "make": "sets up the environment",
    ".": "activates the environment",
    "pip": "installs the package",
    "python": "another program",
    "sudo": "changes a Mac",
}
SHELL = ("cat", "cp", "head", "ls", "mkdir", "wc")
# The output depends on the machine or the model: only the sections must match the document.
VARIES = {"adapters", "advise", "compare", "doctor", "eval", "export", "models", "plan", "runs", "train", "verify"}

SMALL = {  # settings that make the sample recipes fast
    "training.steps": 2, "training.samples": 0, "evaluation.rows": 4, "evaluation.max_tokens": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def small_home(tmp_path_factory: pytest.TempPathFactory, home: Path) -> Path:
    """A home folder in which the bundled model is a tiny one with a tokenizer for the samples."""
    folder = tmp_path_factory.mktemp("docs-home")
    (folder / "blas").symlink_to(home / "blas")
    texts = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "data/samples").glob("support*.jsonl"))]
    make_tiny(folder / "models" / install.folder(bundled.DEFAULT).name, texts=texts)
    return folder


@pytest.fixture
def reader(
    small_home: Path, tmp_path: Path, few_off_task_prompts: None, workers_in_process: None, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Command], tuple[int, str]]:
    """Run commands in an empty folder with 80 columns; returns exit code and output."""
    monkeypatch.setenv("MLXTUNE_HOME", str(small_home))
    monkeypatch.setenv("COLUMNS", "80")
    create = samples.create

    def create_small(folder: Path) -> Path:
        recipe = create(folder)
        for path in (folder / "recipes").glob("*.toml"):
            edit_recipe(path, SMALL)
        return recipe

    monkeypatch.setattr(samples, "create", create_small)
    monkeypatch.chdir(tmp_path)
    return lambda command: _type(command.text, monkeypatch) if command.language == "console" else _run(command.text)


def _type(line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Run a command line; return its exit code and output."""
    if "<<" in line:
        return _shell(line)
    code, output = 0, ""
    for words in _parts(line):
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
        elif words[0] in SHELL:
            code, output = _shell(shlex.join(words))
        elif _start(words):
            parse_command(words[1:])
        elif words[0] == "mlxtune":
            code, output = _mlxtune(words, monkeypatch)
        else:
            assert words[0] in EXTERNAL, f"{words[0]} is unknown"
            if "mlxtune" in words:
                parse_command(words[words.index("mlxtune") + 1 :])
    return code, output


def _run(program: str) -> tuple[int, str]:
    """Run a Python program; return exit code 0 and its output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(program, "document", "exec"), {})
    return 0, out.getvalue()


def _parts(line: str) -> list[list[str]]:
    """Split a line into its commands, each as words."""
    return [shlex.split(part, comments=True) for part in re.split(r"\s&&\s", line.split("\n", 1)[0])]


def _shell(line: str) -> tuple[int, str]:
    result = subprocess.run(line, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return result.returncode, result.stdout


def _mlxtune(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.raises(SystemExit) as exit_info:
        main()
    return int(exit_info.value.code or 0), out.getvalue()


def _start(words: list[str]) -> str:
    """Return the key of :data:`NOT_RUN` that a command starts with, or an empty string."""
    if words == ["mlxtune"]:
        return "mlxtune"
    return next((start for start in NOT_RUN if " " in start and words[: len(start.split())] == start.split()), "")


@pytest.mark.parametrize("document", cases(DOCUMENTS, *(set(NAMES) - LONG), name=lambda path: str(path.relative_to(ROOT))))
def test_every_command_runs_and_prints_the_shown_output(document, reader):
    for command in commands(document):
        where = f"{document.name}, line {command.line}: {command.text}"
        code, output = reader(command)
        assert code == command.code, f"{where}\nexit code {code}:\n{output}"
        if not command.shown or (words := _parts(command.text)[-1])[0] not in ("mlxtune", *SHELL) or _start(words):
            continue
        lines = visible_lines(output)
        if words[1] in VARIES:
            missing = set(command.sections) - set(sections(lines))
            assert not missing, f"{where}\nno longer has the sections {missing}:\n{output}"
        else:
            assert matches(command.shown, lines), f"{where}\nnow prints:\n" + "\n".join(lines)


def test_every_exception_is_used():
    all_commands = [command for path in DOCUMENTS for command in commands(path) if command.language == "console"]
    all_words = [words for command in all_commands for words in _parts(command.text)]
    assert {_start(words) for words in all_words} == {"", *NOT_RUN}
    assert {words[0] for words in all_words} >= set(EXTERNAL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_blocks_of_other_languages_are_valid(document):
    for line, language, text in blocks(document):
        where = f"{document.name}, line {line}"
        assert not re.search(r"^(\$ |mlxtune )", text, re.MULTILINE) or language == "console", (
            f"{where}: commands belong in console blocks"
        )
        match language:
            case "toml":
                parse(_complete_recipe(text), where=where)
            case "json":
                json.loads(text)
            case "jsonl":
                for number, row in enumerate(text.splitlines()):
                    formats.parse(json.loads(row), Location(document, line + number))
            case _:
                assert language in ("console", "python", "text"), f"{where}: the block has no known language"


def _complete_recipe(text: str) -> str:
    """Complete a partial recipe."""
    recipe: dict[str, Any] = {"name": "shop", "model": {"base": "m"}, "data": {"source": "d.jsonl"}}
    for section, values in tomllib.loads(text).items():
        recipe[section] = recipe.get(section, {}) | values if isinstance(values, dict) else values
    return tomlkit.dumps(recipe)


CODE = re.compile(r"`([^`\n]+)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_mentioned_verbs_options_and_keys_exist(document):
    kinds = {name: kind for name, kind in get_type_hints(Recipe).items() if is_dataclass(kind)}
    known = {f"{name}.{field.name}" for name, kind in kinds.items() for field in fields(kind)}
    key = re.compile(rf"(?:--set )?((?:{'|'.join(kinds)})\.\w+)(?![\w.])")
    for code in CODE.findall(prose(document)):
        where = f"{document.name}: {code}"
        if code.startswith("mlxtune "):
            _check_command(code.split()[1:], where)
        if (match := key.match(code)) and not code.endswith(".py"):
            assert match[1] in known, where


def test_the_readme_lists_every_verb():
    table = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Commands")[2].partition("\n## ")[0]
    cells = [CODE.findall(line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    verbs = [code.split()[0] for codes in cells for code in codes]
    assert set(verbs) == {"mlxtune", *PARSER.commands}
    for code in (code for codes in cells for code in codes if code != "mlxtune"):
        _check_command(re.sub(r"[\[\],]", " ", re.sub(r" or |[A-Z]+(\.\w+)?", " ", code)).split(), code)


def test_every_command_in_a_hint_exists():
    for path, tree in package_trees().items():
        for _, hint in reference.raised_errors(tree):
            for text in re.findall(r"(?:^|: |[Rr]un |with |[Uu]se )mlxtune ((?:[\w./…=-]+ ?)+)", hint):
                words = [word.rstrip("….") for word in text.split(". ")[0].split()]
                _check_command(words[: words.index("--help")] if "--help" in words else words, f"{path.name}: {hint}")


def _check_command(words: list[str], where: str) -> None:
    command = PARSER
    for word in words:
        subcommands = getattr(command, "commands", {})
        if word in subcommands:
            command = command.get_command(None, word)
        elif word.startswith("--"):
            assert word in {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {
                "--help"
            }, where
        elif subcommands:
            assert not re.fullmatch(r"[a-z][a-z-]*", word), where


LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "CONTRIBUTING.md"], ids=[*NAMES, "CONTRIBUTING.md"])
def test_links_are_valid(document):
    for link in LINK.findall(prose(document)):
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), f"{document.name}: {link}"
        assert not anchor or anchor in _anchors(target), f"{document.name}: {link}"


def _anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_generated_pages_are_up_to_date():
    stale = [str(path.relative_to(ROOT)) for path, text in reference.pages().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run: python tools/reference.py"


def test_every_recipe_key_is_documented():
    undocumented = [
        line
        for line in (ROOT / "docs/recipe.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `\w+` \|.*\|  \|$", line)
    ]
    assert undocumented == []


def test_the_readme_is_short_and_links_every_document():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200
    assert {path.name for path in DOCUMENTS} - {"README.md"} <= {Path(link).name for link in LINK.findall("\n".join(lines))}


def test_the_power_table_in_the_guide_is_up_to_date():
    rows = re.findall(
        r"^\| ([\d,]+) \| (\d+) points? \| (\d+) \|$", (ROOT / "docs/evaluation.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) >= 5
    for count, clean, rough in rows:
        gains = [detectable_gain(int(count.replace(",", "")), broken) for broken in (0.0, BROKEN)]
        assert [round(100 * rise) for rise in gains if rise] == [int(clean), int(rough)]
