"""The user's app settings: ``settings.toml`` in mlxtune's home folder. Invalid settings cause warnings, never errors.

theme = "paper"             # ink (dark), paper (light), or ansi (the terminal's own colors)
relax_gpu_watchdog = false  # let macOS stop long GPU work while the display is on
notify_command = "say"      # run when a queue ends, with a summary as its last argument

[keys]                      # a binding's ID = one key, or several separated by commas; F1 in the app shows the IDs
"train.zoom" = "x"
"app.help" = "f2,?"

[commands]                  # a key = a command for the terminal; {workspace}, {recipe}, {run}, {adapter}, and {row} are filled in
f5 = "code {recipe}"
"""

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import home, read_text, write_text
from mlxtune.core.text import one_line, suggest

FILE = "settings.toml"
FIELDS = ("workspace", "recipe", "run", "adapter", "row")  # that a command may contain
_KINDS: dict[str, tuple[type, str]] = {
    "theme": (str, "a quoted name"), "relax_gpu_watchdog": (bool, "true or false"), "notify_command": (str, "a quoted command"),
    "keys": (dict, "a table: [keys]"), "commands": (dict, "a table: [commands]"),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    theme: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)  # by the ID of a binding
    errors: tuple[str, ...] = ()  # one sentence per invalid setting
    relax_gpu_watchdog: bool = True  # for workers on a Mac; see ``gpu_errors``
    notify_command: str = ""  # run when a queue ends
    commands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # words that may have fields, by key


def path() -> Path:
    """Return the path of the settings file, which may not exist."""
    return home() / FILE


def load() -> Settings:
    """Load the settings. Return the defaults if there is no file or it cannot be read."""
    try:
        document = tomllib.loads(read_text(path()))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, RecursionError) as error:
        return Settings(errors=(f"{FILE} cannot be read: {one_line(str(error))}.",))
    warnings = [f"{FILE}: unknown key {one_line(name)}. {suggest(name, _KINDS)}" for name in document if name not in _KINDS]
    for name, (kind, what) in _KINDS.items():
        if not isinstance(document.get(name, kind()), kind):
            warnings.append(f"{FILE}: {name} must be {what}.")
            del document[name]
    bindings: dict[str, str] = {}
    for id, value in _flat(document.pop("keys", {})):
        if isinstance(value, str) and value.strip(" ,"):
            bindings[id] = value
        else:
            warnings.append(f"{FILE}: keys.{one_line(id)} must be a quoted key.")
    commands = _commands(document.pop("commands", {}), warnings)
    values = {name: value for name, value in document.items() if name in _KINDS}
    return Settings(keys=bindings, commands=commands, errors=tuple(warnings), **values)


def _commands(given: Mapping[str, Any], warnings: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the words of each command by its key, and add a sentence to ``warnings`` for each invalid one."""
    commands: dict[str, tuple[str, ...]] = {}
    for key, text in given.items():
        where = f"{FILE}: commands.{one_line(key)}"
        try:
            words = tuple(shlex.split(text))
            fields = {name for word in words for _, name, _, _ in Formatter().parse(word) if name is not None}
        except (ValueError, AttributeError):
            words, fields = (), set()
        if not words:
            warnings.append(f"{where} must be a quoted command.")
        elif unknown := min(fields - set(FIELDS), default=""):
            warnings.append(f"{where}: unknown field {{{one_line(unknown)}}}. {suggest(unknown, FIELDS)}")
        else:
            commands[key] = words
    return commands


def save_theme(name: str) -> None:
    """Set ``theme`` and keep the rest of the file, including comments.

    Raise ``InputError`` if the file is not valid TOML, or ``MachineError`` if it cannot be written.
    """
    import tomlkit  # slow to import, and not needed for the first screen

    try:
        document = tomlkit.parse(read_text(path()))
    except FileNotFoundError:
        document = tomlkit.document()
    except (OSError, ValueError) as error:
        raise InputError(f"{FILE} cannot be read: {one_line(str(error))}.", hint=f"Fix {path()}.") from error
    document["theme"] = name
    write_text(path(), tomlkit.dumps(document))


def _flat(keys: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each ID with its value. In TOML, an unquoted ``train.zoom = "x"`` is a nested table."""
    for name, value in keys.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
