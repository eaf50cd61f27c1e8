"""The lineage of a generated row: the teacher, its prompt, its seed, and the scores of the row. It is stored in the row's metadata."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mlxtune.data.rows import Row

KEY = "generated"  # in a row's metadata
VERSION = 1

Task = Literal["answers", "variations", "documents", "pairs", "scores"]


@dataclass(frozen=True)
class DocumentSpan:
    """A passage that a row quotes: the document's name, character offsets in its text, and the passage."""

    file: str
    start: int
    end: int
    quote: str


@dataclass(frozen=True)
class Lineage:
    """How a row was generated.

    ``host`` is the machine that the teacher runs on, empty for this one. ``run`` is the generation, and ``prompt`` the last message
    to the teacher. ``seed`` is that of the sampled reply, 0 for a greedy one. ``examples`` has the IDs of the rows that the teacher
    saw:
    only training rows. ``scores`` has the grades by question and the row's ``novelty``, from 0 to 1. ``flaw`` names what is wrong with
    the rejected answer of a pair.
    """

    task: Task
    teacher: str
    host: str
    run: str
    prompt: str
    seed: int
    examples: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    source: DocumentSpan | None = None
    flaw: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the value that is stored in the metadata."""
        return {"v": VERSION, **{name: value for name, value in asdict(self).items() if value not in ("", (), {}, None)}}


def lineage_of(row: Row) -> Lineage | None:
    """Return the lineage of ``row``, or ``None`` if no model wrote it."""
    match row.meta.get(KEY):
        case {"v": 1, "task": task, "teacher": str(teacher), "run": str(run), **rest}:
            span: DocumentSpan | None = None
            match rest.get("source"):
                case {"file": str(file), "start": int(start), "end": int(end), "quote": str(quote)}:
                    span = DocumentSpan(file, start, end, quote)
            seed, examples, scores = rest.get("seed"), rest.get("examples"), rest.get("scores")
            return Lineage(
                task, teacher, str(rest.get("host", "")), run, str(rest.get("prompt", "")), seed if isinstance(seed, int) else 0,
                tuple(map(str, examples)) if isinstance(examples, list | tuple) else (),
                {name: float(value) for name, value in scores.items() if isinstance(value, int | float)} if isinstance(scores, dict) else {},
                span, str(rest.get("flaw", "")),
            )  # fmt: skip
    return None
