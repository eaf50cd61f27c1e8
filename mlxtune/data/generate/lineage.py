"""The lineage of a generated row: the teacher, its prompt, its seed, and the scores of the row. It is stored in the row's metadata."""

from dataclasses import dataclass
from typing import Literal

from mlxtune.core.json_fields import from_json, optional
from mlxtune.data.rows import Row

KEY = "generated"  # in a row's metadata
VERSION = 1

Task = Literal["answers", "variations", "documents", "pairs", "scores", "retries"]


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
    examples: tuple[str, ...] = optional(())
    scores: dict[str, float] = optional(dict)
    source: DocumentSpan | None = optional(None)
    flaw: str = optional("")
    v: int = VERSION


def lineage_of(row: Row) -> Lineage | None:
    """Return the lineage of ``row``, or ``None`` if no model wrote it."""
    try:
        lineage = from_json(Lineage, row.meta[KEY])
    except (KeyError, TypeError, ValueError):
        return None
    return lineage if lineage.v == VERSION else None
