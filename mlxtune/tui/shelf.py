"""The library of adapters as the room shows it: every string of it safe to show, and the calls by which it is changed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import one_line, size
from mlxtune.tui.names import seen_from

if TYPE_CHECKING:
    from mlxtune.adapters.compare import Compared
    from mlxtune.adapters.entry import AdapterEntry, Score

FORMS = {
    "fused": ("Fuse", "a folder for MLX, nothing quantised any more"),
    "quantized": ("Fuse and quantise", "as small as the base, and lossy"),
    "hf": ("Export", "safetensors for transformers and its like"),
    "gguf": ("Export GGUF", "one file for llama.cpp and its like"),
}


@dataclass(frozen=True)
class Figure:
    """A rate of one metric, before and after, from 0 to 1, with the interval of the latter."""

    name: str
    before: float
    after: float
    low: float
    high: float


@dataclass(frozen=True)
class Shown:
    """An adapter. ``word`` is its verdict, empty while it was not measured; ``told`` says that only its maker claims it."""

    key: str
    name: str
    base: str
    kind: str
    created: float
    facts: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]
    size: str
    parent: str
    children: tuple[str, ...]
    word: str = ""
    verdict: str = ""
    rival: str = ""
    rows: int = 0
    told: bool = False
    reservation: str = ""
    figures: tuple[Figure, ...] = ()
    problem: str = ""

    @property
    def headline(self) -> Figure | None:
        """The rate that the verdict is about: the last, which is the whole contract."""
        return self.figures[-1] if self.figures else None


@dataclass(frozen=True)
class Shelf:
    """All adapters, newest first, and the names of those that can be brought back, the last removed first."""

    adapters: tuple[Shown, ...] = ()
    removed: tuple[str, ...] = ()


def read(workspace: Path) -> Shelf:
    """The library of ``workspace``."""
    from mlxtune.adapters import library

    found = library.all_adapters(workspace)
    below: dict[str, list[str]] = {}
    for one in found:
        if one.parent:
            below.setdefault(os.path.realpath(one.parent.folder), []).append(one_line(one.name))
    shown = tuple(_shown(workspace, one, tuple(below.get(os.path.realpath(one.folder), ()))) for one in found)
    return Shelf(shown, tuple(one_line(item.name) for item in library.removed(workspace)))


def compare(workspace: Path, first: str, second: str) -> Compared:
    """Two adapters beside each other. Raises ``InputError`` when one cannot be used."""
    from mlxtune.adapters import compare as comparing
    from mlxtune.adapters import library

    return comparing.compare(workspace, library.usable(workspace, first), library.usable(workspace, second))


def rename(workspace: Path, key: str, name: str) -> None:
    """Call it ``name``. Raises ``InputError``."""
    from mlxtune.adapters import library

    library.rename(workspace, key, name)


def retag(workspace: Path, key: str, words: str) -> None:
    """Give it the tags in ``words``; one behind a dash is taken away, as are those that are left out. Raises ``InputError``."""
    from mlxtune.adapters import library

    wanted = tags(words)
    before = library.find(workspace, key).tags
    library.tag(workspace, key, wanted, [tag for tag in before if tag not in wanted])


def tags(words: str) -> list[str]:
    """The tags that ``words`` leave."""
    return list(dict.fromkeys(word for word in words.split() if not word.startswith("-")))


def remove(workspace: Path, key: str) -> None:
    """Take it away. Raises ``InputError`` while its run is at work."""
    from mlxtune.adapters import library

    library.remove(workspace, key)


def restore(workspace: Path) -> None:
    """Bring back what was taken away last. Raises ``InputError``."""
    from mlxtune.adapters import library

    library.restore(workspace)


def let_in(workspace: Path, folder: Path) -> None:
    """Copy the adapter in ``folder`` into the library, once it was checked. Raises ``ModelError`` with the reason when it may not come in."""
    from mlxtune.adapters.importing import import_adapter

    import_adapter(workspace, folder)


def export(workspace: Path, key: str, form: str) -> str:
    """Start the worker that writes it as ``form``; the folder of its run, seen from the workspace. Raises ``InputError``."""
    from typing import get_args

    from mlxtune.adapters import export as exports
    from mlxtune.adapters import library

    known = next(one for one in get_args(exports.Form) if one == form)
    run = exports.start(workspace, library.usable(workspace, key), known)
    return run.folder.relative_to(workspace).as_posix()


def _shown(workspace: Path, one: AdapterEntry, children: tuple[str, ...]) -> Shown:
    from mlxtune.adapters import compare as comparing

    facts = {} if one.problem else comparing.facts(one)
    return Shown(
        one.key, one_line(one.name), one_line(one.base), one_line(f"{facts.get('kind', '')} {one.rank or ''}".strip()), one.created,
        tuple((name, one_line(value)) for name, value in facts.items() if value and name not in ("parent", "tags")),
        tuple(one_line(tag) for tag in one.tags), size(one.size) if one.size else "",
        one_line(one.parent.run or one.parent.folder) if one.parent else "", children, problem=seen_from(workspace, one_line(one.problem)),
        **_scored(one.score),
    )  # fmt: skip


def _scored(score: Score | None) -> dict[str, Any]:
    from mlxtune.evaluation.contract import FORMS as DETAIL
    from mlxtune.evaluation.contract import LABELS

    if score is None:
        return {}
    before = {rate.metric: rate for rate in score.before}
    figures = tuple(
        Figure(LABELS.get(rate.metric, one_line(rate.metric, 30)), before[rate.metric].share, rate.share, rate.low, rate.high)
        for rate in score.after
        if rate.metric in before and rate.metric not in DETAIL
    )
    return {
        "word": one_line(score.word), "verdict": one_line(score.verdict), "rival": one_line(score.rival), "rows": score.rows,
        "told": score.folder is None, "figures": figures, "reservation": one_line(score.reservation),
    }  # fmt: skip
