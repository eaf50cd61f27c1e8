"""Versions of the files that mlxtune writes. A file of another version is refused; there are no readers of older files."""

from pathlib import Path

from mlxtune.core.errors import InputError


def require_version(found: object, expected: int, path: Path, *, replaceable: bool = True) -> None:
    """Raise ``InputError`` unless ``found``, the value of ``v`` in the file at ``path``, is the version that this mlxtune writes.

    A file that is not ``replaceable`` holds the user's decisions.
    """
    if found != expected or isinstance(found, bool):
        again = "Create it again with this version, or use" if replaceable else "Use"
        raise InputError(f"{path} was written by another version of mlxtune.", hint=f"{again} the version that wrote it.")
