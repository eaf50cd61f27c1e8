"""Format paths and model names in a short form that is safe to display, and complete paths that are being typed."""

import os
from contextlib import suppress
from itertools import chain, count
from pathlib import Path

from mlxtune.core.errors import InputError
from mlxtune.core.files import user_path
from mlxtune.core.text import one_line, safe_text

_MOST_NAMES = 200  # maximum number of names to offer


def relative_paths(folder: Path, text: str) -> str:
    """Make the paths in ``text`` that are inside ``folder`` relative to it."""
    return text.replace(f"{one_line(str(folder.resolve()))}/", "")


def base_name(base: str) -> str:
    """Return the name of a base model: a folder's own name, or the name in the recipe."""
    return one_line(Path(base).name or base if base.startswith(("/", ".", "~")) else base)


def unused(path: Path) -> Path:
    """Return ``path``, or the first numbered variant of it that does not exist."""
    numbered = (path.with_name(f"{path.stem}-{n}{path.suffix}") for n in count(2))
    return next(candidate for candidate in chain([path], numbered) if not candidate.exists())


def completions(folder: Path, text: str) -> list[str]:
    """Return the paths that begin with ``text``, as they would be typed: folders with a slash first, then files.

    A relative path is relative to ``folder``. Hidden files are included only if ``text`` asks for them. Names that are not safe
    to show are left out.
    """
    start = text.rpartition("/")[2]
    lead = text[: len(text) - len(start)]
    if not lead and start.startswith("~"):
        return ["~/"] if start == "~" else []
    names: list[tuple[bool, str]] = []
    with suppress(OSError, ValueError, InputError), os.scandir(folder / user_path(lead or ".")) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith(start) and (start or not name.startswith(".")) and safe_text(name) == name:
                names.append((not entry.is_dir(), name))
    return [f"{lead}{name}{'' if is_file else '/'}" for is_file, name in sorted(names)[:_MOST_NAMES]]
