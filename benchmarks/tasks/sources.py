"""The tasks: one folder each, with ``task.toml`` (the source and the published figure), ``convert.py``, and ``recipe.toml``.

Files come from a commit of a public repository and are checked against their SHA-256. They are kept in a cache, never in this repository.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
import re
import shutil
import subprocess
import tomllib
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

FOLDER = Path(__file__).resolve().parent
SPLITS = ("train", "valid", "test")
SEED = 7

Row = dict[str, Any]  # a line of JSON in one of the formats of docs/data.md
T = TypeVar("T")


@dataclass(frozen=True)
class Published:
    """A published figure, the document that states it, and where it was read."""

    figure: str
    source: str
    verified: str


@dataclass(frozen=True)
class Task:
    """A public set of rows. ``files`` maps paths in the repository to their SHA-256, and ``rows`` lists the usual training sizes."""

    name: str
    title: str
    repository: str
    commit: str
    license: str
    rows: tuple[int, ...]
    files: Mapping[str, str]
    published: Published
    convert: Callable[[Mapping[str, bytes], int, int], dict[str, list[Row]]]

    @property
    def folder(self) -> Path:
        return FOLDER / self.name


def names() -> list[str]:
    """Return the names of all tasks that can be trained on."""
    return sorted(path.parent.name for path in FOLDER.glob("*/recipe.toml"))


def load(name: str) -> Task:
    """Read a task's folder."""
    facts = tomllib.loads((FOLDER / name / "task.toml").read_text(encoding="utf-8"))
    spec = importlib.util.spec_from_file_location(f"tasks.{name}", FOLDER / name / "convert.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    facts |= {"rows": tuple(facts["rows"]), "published": Published(**facts["published"])}
    return Task(name=name, convert=module.convert, **facts)


def read(task: Task, cache: Path, mirrors: Path | None) -> dict[str, bytes]:
    """Return the task's files by path, from the cache, a clone of the repository, or GitHub. Raise ``ValueError`` for a wrong hash."""
    contents = {}
    for path, digest in task.files.items():
        kept = cache / digest
        content = kept.read_bytes() if kept.is_file() else _original(task, path, mirrors)
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError(f"{task.repository}/{path}: its SHA-256 is not {digest}.")
        cache.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        contents[path] = content
    return contents


def _original(task: Task, path: str, mirrors: Path | None) -> bytes:
    if mirrors:
        clone = mirrors / task.repository.replace("/", "+") / "repo"
        command = ["git", "-C", str(clone), "show", f"{task.commit}:{path}"]
        return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    content = _download(f"https://raw.githubusercontent.com/{task.repository}/{task.commit}/{path}")
    if content.startswith(b"version https://git-lfs"):
        content = _download(f"https://media.githubusercontent.com/media/{task.repository}/{task.commit}/{path}")
    return content


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as response:
        content: bytes = response.read()
    return content


def prepare(task: Task, files: Mapping[str, bytes], rows: int, held_out: int, workspace: Path) -> Path:
    """Write the rows and the recipe for a run to ``workspace``, and return the recipe's path.

    Held-out rows whose prompt is also one of a training row are left out.
    """
    parts = task.convert(files, rows, held_out)
    trained = {_prompt(answer) for row in (*parts["train"], *parts["valid"]) for answer in each_answer(row)}
    parts["test"] = [row for row in parts["test"] if _prompt(row) not in trained]
    for name in SPLITS:
        path = workspace / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json_lines(parts[name]), encoding="utf-8")
    for path in (*task.folder.glob("*.json"), task.folder / "recipe.toml"):
        shutil.copy(path, workspace)
    return workspace / "recipe.toml"


def chat(prompt: str, answer: str, system: str = "") -> Row:
    """Return a row with one question and its answer."""
    turns = [("system", system)] if system else []
    turns += [("user", prompt), ("assistant", answer)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def each_answer(row: Row) -> list[Row]:
    """Return a conversation up to each of its answers, or another row itself."""
    turns = row.get("messages", [])
    ends = [number for number, turn in enumerate(turns, 1) if turn["role"] == "assistant"]
    return [row | {"messages": turns[:end]} for end in ends] or [row]


def _prompt(row: Row) -> str:
    return json.dumps(row["messages"][:-1] if "messages" in row else row, sort_keys=True).lower()


def shuffled(items: Sequence[T]) -> list[T]:
    """Return ``items`` in an order that is the same in every run."""
    return random.Random(SEED).sample(items, len(items))


def with_validation(train: Sequence[T], test: Sequence[T], rows: int, held_out: int) -> dict[str, list[T]]:
    """Split ``rows`` of ``train`` into nine tenths to train on and one tenth to validate on, and take ``held_out`` of ``test``."""
    taken, validation = shuffled(train)[:rows], max(1, rows // 10)
    return {"train": taken[validation:], "valid": taken[:validation], "test": shuffled(test)[:held_out]}


def json_lines(rows: Sequence[Row]) -> str:
    """Return rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def lines(content: bytes) -> list[Any]:
    """Return the JSON documents in JSON Lines."""
    return [json.loads(line) for line in content.decode().splitlines() if line.strip()]


def meaning(text: str) -> dict[str, str]:
    """Return the attributes of a meaning representation such as ``name[The Mill], area[riverside]``."""
    return {name.strip(): value for name, value in re.findall(r"([^,\[\]]+)\[([^\]]*)\]", text)}
