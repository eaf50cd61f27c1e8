"""Documents as a reader follows them: ``console`` blocks, whose lines with a ``$`` are commands and what stands below is their output.

A ``python`` block is a command too.

    ```console
    $ mlxtune data check data.jsonl        # a comment
    Data ──────────────── data.jsonl
    …
    $ echo $?
    1
    ```

A line that is only ``…`` stands for any number of lines. A command may go on behind a backslash, and may bring a file with it
(``<<'EOF'``). It must end with 0, unless ``echo $?`` behind it says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
LEFT_OUT = "…"


@dataclass
class Command:
    """A command of a document: its line, what is typed, what the document says comes of it; or a program."""

    line: int
    typed: str
    language: str = "console"
    shown: list[str] = field(default_factory=list)
    code: int = 0

    @property
    def sections(self) -> list[str]:
        """The titles of the sections that are shown."""
        return sections(self.shown)


def blocks(document: Path) -> Iterator[tuple[int, str, str]]:
    """The fenced blocks: the line that each begins at, its language, its text."""
    text = document.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        yield text.count("\n", 0, found.start()) + 2, found[2], found[3]


def prose(document: Path) -> str:
    """What stands around the blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def commands(document: Path) -> list[Command]:
    """All commands of a document, in order."""
    found: list[Command] = []
    for start, language, text in blocks(document):
        if language == "console":
            found += _block(start, text.splitlines())
        elif language == "python":
            found.append(Command(start, text, language))
    return found


def _block(start: int, lines: list[str]) -> list[Command]:
    found: list[Command] = []
    at = 0
    while at < len(lines):
        line, number = lines[at], start + at
        at += 1
        if not line.startswith("$ "):
            assert found, f"line {number}: a console block begins with a command"
            found[-1].shown.append(line)
            continue
        typed = line[2:]
        while typed.endswith("\\"):
            typed = typed[:-1] + lines[at].removeprefix("> ").strip()
            at += 1
        if here := re.search(r"<<'(\w+)'", typed):
            end = lines.index(here[1], at)
            typed = "\n".join([typed, *lines[at : end + 1]])
            at = end + 1
        if typed == "echo $?":
            found[-1].code = int(lines[at])
            at += 1
        else:
            found.append(Command(number, typed))
    return found


def sections(lines: list[str]) -> list[str]:
    """The titles on rules, as the command line draws them."""
    return [found[1] for line in lines if (found := re.match(r"(\S.*?) ─{2,}", line))]


def said(output: str) -> list[str]:
    """The lines that stay on a terminal: progress goes, and what ends a line unseen."""
    lines = [line.rstrip() for line in output.splitlines() if not line.startswith("· ")]
    return _trimmed(lines)


def agrees(shown: list[str], lines: list[str]) -> bool:
    """Whether ``lines`` are what the document shows."""
    parts = [r"(?:.*\n)*?" if line.strip() == LEFT_OUT else re.escape(line.rstrip()) + r"\n" for line in _trimmed(shown)]
    return re.fullmatch("".join(parts), "".join(line + "\n" for line in lines)) is not None


def _trimmed(lines: list[str]) -> list[str]:
    """Without empty lines at either end."""
    text = [bool(line.strip()) for line in lines]
    return lines[text.index(True) : len(text) - text[::-1].index(True)] if any(text) else []
