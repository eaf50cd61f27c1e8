"""Read the commands of a document: in ``console`` blocks, lines with ``$`` are commands, followed by their output.

A ``python`` block is a command, too.

    ```console
    $ mlxtune data check data.jsonl        # a comment
    Data ──────────────── data.jsonl
    …
    $ echo $?
    1
    ```

A line ``…`` stands for any number of lines. A command may continue after a backslash, and may contain a here-document
(``<<'EOF'``). Its exit code must be 0 unless a following ``echo $?`` shows another.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ELLIPSIS = "…"


@dataclass
class Command:
    """A command or program of a document: its line, its text, and the output and exit code that the document shows."""

    line: int
    text: str
    language: str = "console"
    shown: list[str] = field(default_factory=list)
    code: int = 0

    @property
    def sections(self) -> list[str]:
        """Titles of the sections in the shown output."""
        return sections(self.shown)


def blocks(document: Path) -> Iterator[tuple[int, str, str]]:
    """Yield each fenced block: its first line, language and text."""
    text = document.read_text(encoding="utf-8")
    for match in FENCE.finditer(text):
        yield text.count("\n", 0, match.start()) + 2, match[2], match[3]


def prose(document: Path) -> str:
    """Return the text outside of blocks."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def commands(document: Path) -> list[Command]:
    """Return all commands of a document, in order."""
    result: list[Command] = []
    for start, language, text in blocks(document):
        if language == "console":
            result += _block(start, text.splitlines())
        elif language == "python":
            result.append(Command(start, text, language))
    return result


def _block(start: int, lines: list[str]) -> list[Command]:
    result: list[Command] = []
    index = 0
    while index < len(lines):
        line, number = lines[index], start + index
        index += 1
        if not line.startswith("$ "):
            assert result, f"line {number}: a console block begins with a command"
            result[-1].shown.append(line)
            continue
        command = line[2:]
        while command.endswith("\\"):
            command = command[:-1] + lines[index].removeprefix("> ").strip()
            index += 1
        if heredoc := re.search(r"<<'(\w+)'", command):
            end = lines.index(heredoc[1], index)
            command = "\n".join([command, *lines[index : end + 1]])
            index = end + 1
        if command == "echo $?":
            result[-1].code = int(lines[index])
            index += 1
        else:
            result.append(Command(number, command))
    return result


def sections(lines: list[str]) -> list[str]:
    """Return the section titles in command output."""
    return [result[1] for line in lines if (result := re.match(r"(\S.*?) ─{2,}", line))]


def visible_lines(output: str) -> list[str]:
    """Return the lines of ``output`` without progress lines and trailing whitespace."""
    lines = [line.rstrip() for line in output.splitlines() if not line.startswith("· ")]
    return _strip_blank_lines(lines)


def matches(shown: list[str], lines: list[str]) -> bool:
    """Return whether ``lines`` match the output that a document shows."""
    parts = [r"(?:.*\n)*?" if line.strip() == ELLIPSIS else re.escape(line.rstrip()) + r"\n" for line in _strip_blank_lines(shown)]
    return re.fullmatch("".join(parts), "".join(line + "\n" for line in lines)) is not None


def _strip_blank_lines(lines: list[str]) -> list[str]:
    """Return ``lines`` without empty lines at either end."""
    text = [bool(line.strip()) for line in lines]
    return lines[text.index(True) : len(text) - text[::-1].index(True)] if any(text) else []
