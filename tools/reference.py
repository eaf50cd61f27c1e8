"""Writes the pages that follow the code: ``docs/recipe.md`` from the recipe's dataclasses, ``docs/architecture.md`` from docstrings.

python tools/reference.py            writes what is not as it should be
python tools/reference.py --check    writes nothing; exits 1 and names what is not
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import sys
import tokenize
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlxtune.recipe import keys, schema
from mlxtune.recipe.edit import literal
from mlxtune.recipe.schema import Disclaimer, Length, Phrase, Recipe

ROOT = Path(__file__).parent.parent
TABLES = {Disclaimer: "disclaimer", Phrase: "phrase", Length: "length"}  # what stands in [evaluation], and its heading
MADE = "<!-- Written by tools/reference.py. -->\n"

RECIPE = f"""{MADE}
# Recipe reference

A recipe is a TOML file: everything that is needed to train and to measure again. This page is written from
[`mlxtune/recipe/schema.py`](../mlxtune/recipe/schema.py), and a test holds it to it.

- Relative paths start at the recipe's folder.
- An unknown key is an error that names its line and the nearest valid key. So is a value that cannot mean anything.
- `--set section.key=value` overrides any key for one command: `--set training.epochs=3`.
- A run keeps the resolved recipe in `runs/…/recipe.toml`, every default spelled out.

"""

ARCHITECTURE = f"""{MADE}
# Architecture

Rooms stand in the order of the user's journey. Imports only go down: a room may use those below it, never one above. The two
faces, command line and app, know nothing of each other, but that `cli/start.py` opens the app. `pyproject.toml`
(`[tool.importlinter]`) says so to a linter, which runs with the tests.

- Only models, training, serving, and the worker sides of evaluation and adapters import `mlx`. The faces never do: they start
  workers by module name and read their journals. A crash in Metal takes no terminal with it, and memory is given back when a
  worker ends.
- Nothing below the faces imports `textual` or `typer`.
- **One way for data to flow:** key → action → core function → journal → fold → message → widget. State on disk is a file that
  never changes, one that is replaced atomically, or a journal that only grows.
- A run is a process of its own (`python -m mlxtune.training.worker RUN`). It holds a lock for as long as it lives and appends
  events to `events.jsonl`; app and command line both read that file, so either can be closed, and opened again, at any time.
  The lock free and no last event: it crashed.
- One accelerator lease a machine: whoever computes holds it.

What follows is one line a file, taken from each file's first line.

"""


def main() -> int:
    """Write the pages, or with ``--check`` only look; the exit code says whether all is well."""
    stale = [(path, text) for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path, text in stale:
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv[1:]:
            path.write_text(text, encoding="utf-8")
    return int("--check" in sys.argv[1:] and bool(stale))


def pages() -> dict[Path, str]:
    """Every page that this writes, and what should be in it."""
    return {ROOT / "docs/recipe.md": RECIPE + "".join(_recipe()), ROOT / "docs/architecture.md": ARCHITECTURE + "".join(_rooms())}


# ---- the recipe ----


def _recipe() -> Iterator[str]:
    hints = get_type_hints(Recipe)
    yield "## The file\n\n" + _table(Recipe)
    for field in _fields(Recipe):
        if dataclasses.is_dataclass(hints[field.name]):
            kind: Any = hints[field.name]
            yield f"## `[{field.name}]`\n\n{_prose(kind)}\n\n{_table(kind, field.name)}"
    for table, title in TABLES.items():
        yield f"### A {title}\n\n{_prose(table)}\n\n{_table(table)}"


def _table(kind: type, section: str = "") -> str:
    hints, about = get_type_hints(kind), comments(kind)
    form = {key.path: key for key in keys.KEYS}
    rows = ["| key | takes | default | |\n|---|---|---|---|\n"]
    for field in _fields(kind):
        key = form.get(f"{section}.{field.name}")
        inner = hints[field.name]
        if kind is Recipe and dataclasses.is_dataclass(inner):
            needed = "needed" if _default(field) is dataclasses.MISSING else "–"
            rows.append(f"| [`[{field.name}]`](#{field.name}) | section | {needed} | |\n")
            continue
        told = key.about if key else about.get(field.name, "")
        if key and key.kinds:
            told += f"; only for {' and '.join(key.kinds)}"
        if key and key.inherited:
            told += "; a parent decides"
        if key and key.yields:
            told += f"; `{key.yields.partition('.')[2]}` goes before it"
        rows.append(f"| `{field.name}` | {_takes(inner)} | {_shown(_default(field))} | {_cell(told)} |\n")
    return "".join(rows) + "\n"


def _fields(kind: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(kind) if field.name != "folder"]


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _shown(value: Any) -> str:
    if value is dataclasses.MISSING:
        return "needed"
    if dataclasses.is_dataclass(value) or value == {}:
        return "–"
    return f"`{literal(value)}`"


def _takes(kind: Any) -> str:
    """A type in words, as the loader's errors call it."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{literal(value)}`" for value in inner if value != "")
    if origin is list:
        return f"list of {_takes(inner[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(filter(None, map(_takes, inner)))
    if kind in TABLES:
        return f"{'text or ' if kind is not Length else ''}[table](#a-{TABLES[kind]})"
    return {str: "text", int: "whole number", float: "number", bool: "`true`, `false`"}.get(kind, "table")


def _cell(text: str) -> str:
    return text[:1].upper() + text[1:].replace("|", "\\|")


def _prose(kind: type) -> str:
    """A docstring as Markdown."""
    return _marked(inspect.cleandoc(kind.__doc__ or ""))


def _marked(text: str) -> str:
    """Double backticks as single ones, and a role such as :func:`x` as its name."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def comments(kind: type) -> dict[str, str]:
    """The comment behind each field of a dataclass of the schema, by the field's name."""
    source = Path(schema.__file__).read_text(encoding="utf-8")
    behind = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == kind.__name__).body
    fields = [node for node in body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {node.target.id: behind[node.end_lineno] for node in fields if node.end_lineno in behind}  # type: ignore[union-attr,index]


# ---- the rooms ----


def _rooms() -> Iterator[str]:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers: list[str] = config["tool"]["importlinter"]["contracts"][0]["layers"]
    names = [re.findall(r"mlxtune\.(\w+)", layer) for layer in layers]
    yield "```text\n" + "\n".join("  ".join(some) for some in names) + "\n```\n\n"
    yield _files(ROOT / "mlxtune", "mlxtune", deep=False)
    for name in (name for some in names for name in some):
        yield _files(ROOT / "mlxtune" / name, f"mlxtune/{name}", deep=True)


def _files(folder: Path, title: str, *, deep: bool) -> str:
    """A section: what the room is for, and a line for each of its files."""
    found = sorted(folder.rglob("*.py") if deep else folder.glob("*.py"))
    about = first_line(folder / "__init__.py")
    files = [path for path in found if path.name != "__init__.py"]
    rows = [f"| `{path.relative_to(folder).as_posix()}` | {_cell(first_line(path))} |\n" for path in files]
    return f"## {title}\n\n{about}\n\n| file | |\n|---|---|\n{''.join(rows)}\n"


def first_line(path: Path) -> str:
    """The first line of a file's docstring, as Markdown."""
    told = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return _marked(told.split("\n", 1)[0])


if __name__ == "__main__":
    sys.exit(main())
