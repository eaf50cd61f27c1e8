"""Change keys of a recipe's file and leave all else as its owner wrote it: comments, order and layout.

Comments inside a list go with the list when it is replaced.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.container import Container
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, InlineTable, Item, Table

from mlxtune.core.errors import InputError, RecipeError
from mlxtune.core.files import write_bytes
from mlxtune.core.text import one_line
from mlxtune.recipe.load import parse
from mlxtune.recipe.schema import Recipe


@dataclass(frozen=True)
class Edit:
    """A change that was written: the file, the keys, its bytes before and after, and the recipe that it holds now."""

    path: Path
    changes: tuple[str, ...]
    before: bytes
    after: bytes
    recipe: Recipe


def edit(path: Path, changes: Mapping[str, object]) -> Edit:
    """Set keys (``training.epochs``) of the recipe at ``path``, all in one atomic write; ``None`` takes one out, so that its default holds.

    Raises ``RecipeError``, and writes nothing, when the file cannot be read or what came of it would be no recipe.
    """
    try:
        before = path.read_bytes()
        text = before.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{one_line(str(path))} cannot be read: {error}.") from error
    changed = edited(text, changes)
    try:
        recipe = parse(changed, folder=path.parent, where="")
    except RecipeError as error:  # its line is one of a text that is not written
        raise RecipeError(re.sub(r"^(, line \d+)?: ", "", error.message), mend=error.mend) from error
    after = changed.encode("utf-8")
    if after != before:
        write_bytes(path.resolve(), after)
    return Edit(path, tuple(changes), before, after, recipe)


def undo(done: Edit) -> Recipe:
    """Give the file of ``done`` the bytes that it had before, and return the recipe in them.

    Raises ``InputError``, and writes nothing, when it was changed since.
    """
    try:
        now = done.path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{one_line(str(done.path))} cannot be read: {error}.") from error
    if now != done.after:
        raise InputError(f"{one_line(done.path.name)} was changed since, so it stays as it is.")
    if done.before != done.after:
        write_bytes(done.path.resolve(), done.before)
    return parse(done.before.decode("utf-8"), folder=done.path.parent, where=one_line(done.path.name))


def edited(text: str, changes: Mapping[str, object]) -> str:
    """``text``, a TOML document, with ``changes`` made in it. Raises ``RecipeError`` where its layout does not allow that."""
    try:
        document = tomlkit.parse(text)
        wanted = tomllib.loads(text)
        for key, value in changes.items():
            _expect(wanted, key.split("."), value)
            _set(document, key.split("."), value)
        made = tomlkit.dumps(document)
        if tomllib.loads(made) == wanted:
            return made
    except (TOMLKitError, tomllib.TOMLDecodeError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise RecipeError(
            f"{', '.join(changes)} cannot be changed here: {one_line(str(error), 120)}.", mend="Change it in an editor."
        ) from error
    raise RecipeError(
        f"{', '.join(changes)} cannot be changed without harm to the rest of the file.", mend="Change it in an editor."
    )


def literal(value: object) -> str:
    """``value`` as TOML writes it, numbers as people do: ``2e-4``, ``64``."""
    match value:
        case bool():
            return str(value).lower()
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
        case float() if 0 < abs(value) < 0.01:
            return format(Decimal(repr(value)).normalize(), "e")
        case int() | float():
            return str(value)
        case list() | tuple():
            return f"[{', '.join(map(literal, value))}]"
    return tomlkit.item(value).as_string()


def _expect(document: dict[str, Any], path: list[str], value: object) -> None:
    """Make the change in plain values: what the edited text must mean."""
    *sections, key = path
    for section in sections:
        if value is None and section not in document:
            return
        document = document.setdefault(section, {})
    if value is None:
        document.pop(key, None)
    else:
        document[key] = tomllib.loads(f"value = {literal(value)}")["value"]


def _set(document: tomlkit.TOMLDocument, path: list[str], value: object) -> None:
    *sections, key = path
    holder: Any = document
    for section in sections:
        if section not in holder:
            if value is None:
                return
            holder[section] = tomlkit.table()
        holder = holder[section]
    if value is None:
        if key in holder:
            holder.remove(key)
        return
    new: Any = tomlkit.parse(f"value = {literal(value)}\n").item("value")  # as written: 2e-4 stays 2e-4
    if key in holder:
        _replace(holder, key, new)
    else:
        _add(holder, key, new)


def _replace(holder: Any, key: str, new: Item) -> None:
    """Put ``new`` in the place of a value; a comment behind it keeps its column where there is room."""
    old = _item(holder, key)
    holder[key] = new
    made = _item(holder, key)
    if old and made and old.trivia.comment:
        width = len(old.trivia.comment_ws) + len(old.as_string().splitlines()[-1])
        made.trivia.comment_ws = " " * max(1, width - len(new.as_string()))


def _item(holder: Any, key: str) -> Item | None:
    """A value with what stands around it, which a plain look-up loses for some; ``None`` in a section that is in several pieces."""
    held = holder.value if isinstance(holder, Table | InlineTable) else holder
    found = held.item(key) if isinstance(held, Container) else None
    return found if isinstance(found, Item) else None


def _add(holder: Any, key: str, new: Item) -> None:
    """Add a key behind the last one of its section, before what separates it from the next."""
    if isinstance(holder, InlineTable) or not isinstance(holder, Table):
        holder[key] = new
        return
    body = holder.value.body
    plain = [at for at, (name, item) in enumerate(body) if name is not None and not isinstance(item, AoT | Table)]
    if not plain:
        new.trivia.trail = "\n\n" if any(name is not None for name, _ in body) else "\n"
        holder[key] = new
        return
    last = body[plain[-1]]
    new.trivia.indent = last[1].trivia.indent
    new.trivia.trail = "\r\n" if "\r\n" in last[1].trivia.trail else "\n"
    holder.value._insert_after(last[0], key, new)  # type: ignore[arg-type]  # the public ``append`` would put it behind a comment on the next section
