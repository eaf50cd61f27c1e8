"""What each arm answers to the held-out rows: from the model, or from the cache when nothing that matters changed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlxtune
from mlxtune.core.errors import DataError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.core.journal import read
from mlxtune.data.rows import Conversation, Preference, Row, Unpaired
from mlxtune.models import lora
from mlxtune.models.generate import generate
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate

Question = Conversation | Preference | Unpaired


@dataclass(frozen=True)
class Output:
    """One answer: the row's id, the text, and why it ended (``stop`` or ``length``)."""

    id: str
    output: str
    ended: str


@dataclass(frozen=True)
class Answers:
    """All answers of one arm, in the rows' order."""

    arm: str
    outputs: tuple[Output, ...]
    cached: bool
    seconds: float


def questions(rows: Sequence[Row]) -> list[Question]:
    """The held-out rows that ask something. Raises ``DataError`` when there is none."""
    asked = [row for row in rows if isinstance(row, Question)]
    if not asked:
        raise DataError(
            "There are no held-out conversations to evaluate on.",
            mend="Evaluation needs chat, completion or preference rows; check data.holdout.",
        )
    return asked


def answer(
    arm: str, loaded: LoadedModel, rows: Sequence[Question], *, adapter: Path | None, max_tokens: int, batch_size: int, cache: Path,
    progress: Callable[[int, int], None],
) -> Answers:  # fmt: skip
    """Greedy answers of ``loaded``, as it is now, to ``rows``.

    They are kept in ``cache`` under a hash of weights, adapter, prompt tokens, decoding and compute path: a base that was
    measured once is not measured again, and whatever changes an answer changes the key.
    """
    start = time.perf_counter()
    template = ChatTemplate(loaded.tokenizer)
    prompts = [template.prompt(row.prompt, row.tools) for row in rows]
    identity = {
        "v": 1,
        "mlxtune": mlxtune.__version__,
        "base": loaded.source.fingerprint,
        "adapter": sha256_file(adapter / lora.WEIGHTS) if adapter else "",
        "compute": loaded.compute,
        "max_tokens": max_tokens,
        "prompts": prompts,
        "rows": [row.id for row in rows],
    }
    file = cache / f"{sha256_json(identity)[:32]}.jsonl"
    if kept := _read(file, rows):
        progress(len(rows), len(rows))
        return Answers(arm, kept, True, time.perf_counter() - start)
    told = generate(
        loaded.model, loaded.tokenizer, prompts, max_tokens=max_tokens, stops=template.stops, batch_size=batch_size, progress=progress
    )  # fmt: skip
    outputs = tuple(Output(row.id, text, ended) for row, (text, ended) in zip(rows, told, strict=True))
    write_text(file, "".join(_line(output) for output in outputs))
    return Answers(arm, outputs, False, time.perf_counter() - start)


def _line(output: Output) -> str:
    return json.dumps(asdict(output), ensure_ascii=True) + "\n"


def _read(file: Path, rows: Sequence[Question]) -> tuple[Output, ...]:
    kept = tuple(Output(**record) for record in read(file))
    return kept if [output.id for output in kept] == [row.id for row in rows] else ()
