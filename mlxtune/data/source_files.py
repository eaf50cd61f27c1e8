"""A source's files, the sidecar files in which mlxtune stores what it knows about the source, and the lines of other data files."""

import json
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.files import read_errors, read_text
from mlxtune.data.rows import Location
from mlxtune.recipe.schema import HUB_FOLDER

PARTS = ("train", "valid", "test")
GENERATED = "generated"  # the part with the rows that a model wrote, which are kept in a file of their own


def source_files(path: Path) -> dict[str, Path]:
    """Return a source's files by part: ``all`` for a file, or the ``train``, ``valid`` and ``test`` files in a folder.

    A dataset on the Hub is fetched if it is missing. Raises ``DataError`` if a folder has no ``train.jsonl``.
    """
    if not path.is_dir():
        if exists(path) and not path.exists():
            from mlxtune.data import hub_source  # it reads other files through this module

            hub_source.fetch(path)
        return {"all": path}
    files = {part: path / f"{part}.jsonl" for part in PARTS if (path / f"{part}.jsonl").is_file()}
    if "train" not in files:
        hint = f"Add one, specify a file, or convert documents with: mlxtune data import {path} --out {path.name}.jsonl"
        raise DataError(f"{path} has no train.jsonl.", hint=hint)
    return files


def exists(path: Path) -> bool:
    """Return whether there is a source at ``path``, or it is a dataset on the Hub that can be fetched."""
    return path.exists() or (path.parent.name == HUB_FOLDER and "--" in path.stem)


def all_files(path: Path) -> dict[str, Path]:
    """Return a source's files and, as the part ``generated``, the file with the rows that a model wrote for it, if there is one.

    Raises ``DataError`` as :func:`source_files` does.
    """
    generated = generated_path(path)
    return source_files(path) | ({GENERATED: generated} if generated.is_file() and generated.stat().st_size else {})


def no_rows(source: Path | str) -> DataError:
    return DataError(f"{source} has no rows.", hint="Write one JSON object per line.")


def read_lines(file: Path, hint: str = "") -> list[tuple[Location, str]]:
    """Return the lines of ``file`` that are not blank. Raises ``DataError`` if it cannot be read."""
    with read_errors(str(file), DataError, hint):
        lines = read_text(file).split("\n")
    return [(Location(file, number), line) for number, line in enumerate(lines, 1) if line.strip()]


def read_json_lines(file: Path, hint: str = "") -> list[tuple[Location, Any]]:
    """Return the JSON values in the lines of ``file`` that are not blank. Raises ``DataError`` if it cannot be read or one is not JSON."""
    values = []
    for location, line in read_lines(file, hint):
        try:
            values.append((location, json.loads(line)))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{location}: invalid JSON.", hint=hint) from error
    return values


def generated_path(source: Path) -> Path:
    """Return the path of the generated rows: ``support.generated.jsonl`` next to ``support.jsonl``. They are proposals until accepted."""
    return sidecar_path(source, "generated.jsonl")


def sidecar_path(source: Path, suffix: str) -> Path:
    """Return the path next to ``source`` with ``suffix``: ``support.jsonl`` and ``review.jsonl`` give ``support.review.jsonl``.

    Files with the same stem share their sidecars. Sidecars identify rows by content, so they stay valid after ``data import``.
    """
    source = source.resolve()
    return source.parent / f"{source.name if source.is_dir() else source.stem}.{suffix}"
