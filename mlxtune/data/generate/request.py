"""A request for a generation: the task, the number of rows, the teacher, and the rows that it may see."""

from dataclasses import dataclass

from mlxtune.data.generate.lineage import Task

DEFAULT_ROWS = 20
ALL_PROMPTS = 1_000_000  # more prompts than a file has


@dataclass(frozen=True)
class TeacherSpec:
    """A teacher on this machine (``base``, with ``adapter`` if set), or a ``model`` at an OpenAI-compatible endpoint (``url``).

    Prices are in dollars per million tokens, ``cap`` is the highest cost in dollars, and ``consent`` is how the user agreed to send rows.
    """

    base: str = ""
    adapter: str = ""
    url: str = ""
    model: str = ""
    key_env: str = ""
    price_in: float = 0.0
    price_out: float = 0.0
    cap: float | None = None
    consent: str = ""


@dataclass(frozen=True)
class GenerationRequest:
    """A request for ``count`` rows, each with the best of ``candidates`` answers.

    Examples are the training rows that match ``filter``, or those with the IDs ``rows``. ``about`` tells the teacher what to write about. ``prompts`` is a file with prompts to answer; without
    one, the source's rows that have no answer are answered. ``documents`` is a folder. ``retries`` are new answers to the prompts of the examples, which must be correct by their references. With ``rubric``
    (a file, or ``default``), the teacher also grades the candidates.
    """

    task: Task
    teacher: TeacherSpec
    count: int = DEFAULT_ROWS
    candidates: int = 4
    filter: str = ""
    rows: tuple[str, ...] = ()
    about: str = ""
    prompts: str = ""
    documents: str = ""
    rubric: str = ""
    seed: int = 7
