"""Edit keys in a recipe file and keep its comments, order, and layout. Comments inside a replaced list are lost."""

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
from mlxtune.core.files import read_errors, write_bytes
from mlxtune.core.text import one_line
from mlxtune.recipe.load import parse
from mlxtune.recipe.schema import Recipe

_EDITOR = "Edit the file in a text editor."
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Edit:
    """A saved edit: the file, the bytes before and after, and the new recipe."""

    path: Path
    before: bytes
    after: bytes
    recipe: Recipe


def edit_recipe(path: Path, changes: Mapping[str, object]) -> Edit:
    """Set keys (such as ``training.epochs``) in the recipe at ``path`` in one atomic write. ``None`` removes a key.

    Raise ``RecipeError`` and write nothing if the file cannot be read or the result is not a valid recipe.
    """
    with read_errors(one_line(str(path)), RecipeError):
        before = path.read_bytes()
        text = before.decode("utf-8")
    changed = edit_text(text, changes)
    recipe = parse(changed, folder=path.parent, where="")  # a line number would refer to text that is not written
    after = changed.encode("utf-8")
    if after != before:
        write_bytes(path.resolve(), after)
    return Edit(path, before, after, recipe)


def undo_edit(edit: Edit) -> Recipe:
    """Undo an edit and return the restored recipe. Raise ``InputError`` and write nothing if the file has changed since."""
    with read_errors(one_line(str(edit.path)), RecipeError):
        now = edit.path.read_bytes()
    if now != edit.after:
        raise InputError(f"{one_line(edit.path.name)} has changed since the edit, so the edit was not undone.")
    if edit.before != edit.after:
        write_bytes(edit.path.resolve(), edit.before)
    return parse(edit.before.decode("utf-8"), folder=edit.path.parent, where=one_line(edit.path.name))


def edit_text(text: str, changes: Mapping[str, object]) -> str:
    """Return the TOML document ``text`` with ``changes`` applied. Raise ``RecipeError`` if its layout does not allow them."""
    try:
        document = tomlkit.parse(text)
        expected = tomllib.loads(text)
        for key, value in changes.items():
            _expect(expected, key.split("."), value)
            _set(document, key.split("."), value)
        result = tomlkit.dumps(document)
        if tomllib.loads(result) == expected:
            return result
    except (TOMLKitError, tomllib.TOMLDecodeError, TypeError, AttributeError, KeyError, ValueError) as error:
        raise RecipeError(f"{', '.join(changes)} cannot be edited: {one_line(str(error), 120)}.", hint=_EDITOR) from error
    raise RecipeError(f"{', '.join(changes)} cannot be edited without changing the rest of the file.", hint=_EDITOR)


def toml_literal(value: object) -> str:
    """Format ``value`` as TOML, with numbers in the form people write them: ``2e-4``, ``64``."""
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
            return f"[{', '.join(map(toml_literal, value))}]"
        case Mapping():
            names = (key if _BARE_KEY.fullmatch(key) else toml_literal(key) for key in value)
            fields = (f"{name} = {toml_literal(one)}" for name, one in zip(names, value.values(), strict=True))
            return f"{{ {', '.join(fields)} }}" if value else "{}"
    return tomlkit.item(value).as_string()


def _expect(document: dict[str, Any], path: list[str], value: object) -> None:
    """Apply a change to plain values; the edited text must parse to the result."""
    *sections, key = path
    for section in sections:
        if value is None and section not in document:
            return
        document = document.setdefault(section, {})
    if value is None:
        document.pop(key, None)
    else:
        document[key] = tomllib.loads(f"value = {toml_literal(value)}")["value"]


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
    new: Any = tomlkit.parse(f"value = {toml_literal(value)}\n").item("value")  # keeps the notation 2e-4
    if key in holder:
        _replace(holder, key, new)
    else:
        _add(holder, key, new)


def _replace(holder: Any, key: str, new: Item) -> None:
    """Replace a value. A comment after it keeps its column if there is room."""
    old = _item(holder, key)
    holder[key] = new
    item = _item(holder, key)
    if old and item and old.trivia.comment:
        width = len(old.trivia.comment_ws) + len(old.as_string().splitlines()[-1])
        item.trivia.comment_ws = " " * max(1, width - len(new.as_string()))


def _item(holder: Any, key: str) -> Item | None:
    """Return a value with its whitespace and comment, which a plain lookup may lose. ``None`` if the section is split up."""
    container = holder.value if isinstance(holder, Table | InlineTable) else holder
    item = container.item(key) if isinstance(container, Container) else None
    return item if isinstance(item, Item) else None


def _add(holder: Any, key: str, new: Item) -> None:
    """Add a key after the last one in its section, before the blank lines that follow."""
    if isinstance(holder, InlineTable) or not isinstance(holder, Table):
        holder[key] = new
        return
    body = holder.value.body
    plain = [index for index, (name, item) in enumerate(body) if name is not None and not isinstance(item, AoT | Table)]
    if not plain:
        new.trivia.trail = "\n\n" if any(name is not None for name, _ in body) else "\n"
        holder[key] = new
        return
    last = body[plain[-1]]
    new.trivia.indent = last[1].trivia.indent
    new.trivia.trail = "\r\n" if "\r\n" in last[1].trivia.trail else "\n"
    holder.value._insert_after(last[0], key, new)  # type: ignore[arg-type]  # append() would put it after the next section's comment
