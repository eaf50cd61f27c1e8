"""Measure the size of the code: lines, long functions, and the lines that carry prose.

    python tools/mass.py           # one table per package
    python tools/mass.py --list    # also every long function and every line that carries prose

A *prose-carrying line* is a source line on which a string starts that has at least four words in a row. Words are letters,
possibly with a hyphen, an apostrophe, or punctuation at their ends. An f-string is one string, and each value in it counts as
a word: ``f"{rows} rows have {problem}"`` carries prose. Docstrings and comments do not count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
LONGEST_FUNCTION = 60
MOST_PARAMETERS = 10
WORDS_IN_A_ROW = 4
WORD = re.compile(r"[A-Za-z]+(?:[-'’][A-Za-z]+)*")
PUNCTUATION = ".,;:!?()\"'`…"

Function = ast.FunctionDef | ast.AsyncFunctionDef


def prose_lines(tree: ast.Module) -> dict[int, str]:
    """Return the line number and the text of each string that carries prose; values in f-strings read ``x``."""
    texts: dict[int, str] = {}
    for node, text in strings(tree):
        if is_prose(text):
            texts.setdefault(node.lineno, text)
    return texts


def is_prose(text: str) -> bool:
    """Return whether a text has four words in a row."""
    in_a_row = 0
    for word in text.split():
        in_a_row = in_a_row + 1 if WORD.fullmatch(word.strip(PUNCTUATION)) else 0
        if in_a_row == WORDS_IN_A_ROW:
            return True
    return False


def strings(tree: ast.AST) -> Iterator[tuple[ast.expr, str]]:
    """Yield the strings of a module except docstrings."""
    skipped = set()  # docstrings, and the parts of f-strings
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in node.values)
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            yield node, "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node, node.value


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yield each function with its dotted name within the module."""
    for node in ast.iter_child_nodes(tree):
        name = prefix
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            name += "."
        yield from functions(node, name)


def length(function: Function) -> int:
    """Return the lines of a function, from ``def`` to its end."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def parameters(function: Function) -> int:
    """Return the number of parameters, without ``self`` and ``cls``."""
    arguments = function.args
    names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")]) + bool(arguments.vararg) + bool(arguments.kwarg)


def sources(folder: str) -> dict[Path, str]:
    """Return the Python files of a folder with their text."""
    return {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / folder).rglob("*.py"))}


def package(path: Path) -> str:
    """Return the package that a file belongs to; files directly in ``mlxtune`` or ``tests`` are listed under ``.``."""
    parts = path.relative_to(ROOT).parts
    return parts[1] if len(parts) > 2 else "."


def main(arguments: list[str]) -> None:
    lines, prose, long, wide, details = Counter(), Counter(), Counter(), Counter(), []
    tests: Counter[str] = Counter()
    for path, text in sources("mlxtune").items():
        name, where, tree = package(path), path.relative_to(ROOT), ast.parse(text)
        lines[name] += text.count("\n")
        texts = prose_lines(tree)
        prose[name] += len(texts)
        details += [f"{where}:{number}: {text!r}" for number, text in sorted(texts.items())]
        for function_name, function in functions(tree):
            long[name] += length(function) > LONGEST_FUNCTION
            wide[name] += parameters(function) > MOST_PARAMETERS
            if length(function) > LONGEST_FUNCTION or parameters(function) > MOST_PARAMETERS:
                details.append(f"{where}: {function_name}: {length(function)} lines, {parameters(function)} parameters")
    for path, text in sources("tests").items():
        tests[package(path)] += text.count("\n")
    print(f"{'package':<12} {'lines':>7} {'prose':>6} {'long':>5} {'wide':>5} {'tests':>7}")
    for name in sorted(lines | tests, key=lambda name: -lines[name]):
        print(f"{name:<12} {lines[name]:>7,} {prose[name]:>6,} {long[name]:>5} {wide[name]:>5} {tests[name]:>7,}")
    totals = [sum(counts.values()) for counts in (lines, prose, long, wide, tests)]
    print("{:<12} {:>7,} {:>6,} {:>5} {:>5} {:>7,}".format("total", *totals))
    if "--list" in arguments:
        print("\n".join(sorted(details)))


if __name__ == "__main__":
    main(sys.argv[1:])
