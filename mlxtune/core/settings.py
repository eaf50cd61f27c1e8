"""What a user may set for the app: ``settings.toml`` in mlxtune's home folder. What is wrong in it is a sentence, never an error.

theme = "paper"          # ink (dark), paper (light) or ansi (the terminal's own colours)

[keys]                   # a key, or several with commas, for the id of a binding; F1 in the app shows the ids
"train.zoom" = "x"
"app.jump" = "ctrl+g,f2"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import home, write_text
from mlxtune.core.text import nearest, one_line

FILE = "settings.toml"
_KNOWN = ("theme", "keys")


@dataclass(frozen=True)
class Settings:
    """What was set. ``keys`` maps ids of bindings to keys; ``complaints`` says, a sentence each, what was passed over."""

    theme: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    complaints: tuple[str, ...] = ()


def path() -> Path:
    """Where the settings are, or would be."""
    return home() / FILE


def load() -> Settings:
    """The user's settings; none where there is no file, or where it cannot be read at all."""
    try:
        found = tomllib.loads(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings()
    except (OSError, ValueError, RecursionError) as error:
        return Settings(complaints=(f"{FILE} cannot be read: {one_line(str(error))}.",))
    complaints = [_unknown(name) for name in found if name not in _KNOWN]
    theme, keys = found.get("theme", ""), found.get("keys", {})
    if not isinstance(theme, str):
        complaints.append(f"{FILE}: theme must be a name in quotes.")
        theme = ""
    if not isinstance(keys, dict):
        complaints.append(f"{FILE}: keys must be a table, [keys].")
        keys = {}
    good: dict[str, str] = {}
    for id, value in _flat(keys):
        if isinstance(value, str) and value.strip(" ,"):
            good[id] = value
        else:
            complaints.append(f"{FILE}: keys.{one_line(id)} must be a key in quotes.")
    return Settings(theme, good, tuple(complaints))


def keep_theme(name: str) -> None:
    """Write ``theme`` into the settings; the rest of the file stays, comments included.

    Raises ``InputError`` when the file cannot be read as TOML, ``MachineError`` when it cannot be written.
    """
    import tomlkit  # only here: it costs more to load than the first screen may

    try:
        document = tomlkit.parse(path().read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = tomlkit.document()
    except (OSError, ValueError) as error:
        raise InputError(f"{FILE} cannot be read: {one_line(str(error))}.", mend=f"Mend {path()}.") from error
    document["theme"] = name
    write_text(path(), tomlkit.dumps(document))


def _unknown(name: str) -> str:
    hint = nearest(name, _KNOWN)
    return f"{FILE}: unknown key {one_line(name)}." + (f" Did you mean {hint}?" if hint else "")


def _flat(keys: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Each id with its value: ``train.zoom = "x"`` without quotes is a table in a table to TOML."""
    for name, value in keys.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
