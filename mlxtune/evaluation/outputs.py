"""What each arm answers to the held-out rows: from the model, or from the cache when nothing that matters changed.

No answer is ever made up: what fails to answer fails the evaluation.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlxtune
from mlxtune.core.errors import DataError, MlxtuneError, TemplateError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.core.journal import read
from mlxtune.data.rows import Message, Question, Row
from mlxtune.evaluation.arms import Arm
from mlxtune.models import lora
from mlxtune.models.generate import Progress, generate
from mlxtune.models.grammar import Grammar
from mlxtune.models.likelihood import nats
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix import Shared
from mlxtune.models.template import ChatTemplate
from mlxtune.runs.state import HELD_OUT


@dataclass(frozen=True)
class Output:
    """One answer: the row's id, the text, and why it ended (``stop`` or ``length``).

    ``nats`` is how unlikely the arm finds the row's reference answer: its negative log-likelihood over its ``tokens`` tokens.
    """

    id: str
    output: str
    ended: str
    nats: float
    tokens: int


@dataclass(frozen=True)
class Answers:
    """All answers of one arm, in the rows' order. ``unproved`` says why references have no likelihood, if they have none."""

    arm: str
    outputs: tuple[Output, ...]
    cached: bool
    seconds: float
    unproved: str = ""


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
    arm: Arm, loaded: LoadedModel, rows: Sequence[Question], *, max_tokens: int, batch_size: int, cache: Path,
    tell: Callable[[str], Progress], of: str = HELD_OUT, shared: Shared | None = None,
) -> Answers:  # fmt: skip
    """Greedy answers of ``loaded``, as it is now, to ``rows`` asked as ``arm`` asks, and the likelihood of their references.

    They are kept in ``cache`` under a hash of weights, adapter, grammar, prompt and reference tokens, decoding and compute path: a
    base that was measured once is not measured again, and whatever changes an answer changes the key. ``tell`` gives the
    place where progress is told, of what ``rows`` are called and of references; ``shared`` are the prefixes that ``loaded`` has read
    as it is now. Raises ``MlxtuneError`` when the model gives no numbers.
    """
    start = time.perf_counter()
    template = ChatTemplate(loaded.tokenizer)
    prompts = [template.prompt(arm.ask(row), row.tools) for row in rows]
    references, unproved = _references(template, arm, rows)
    identity = {
        "v": 2,
        "mlxtune": mlxtune.__version__,
        "base": loaded.source.fingerprint,
        "adapter": [sha256_file(arm.adapter / name) for name in (lora.WEIGHTS, lora.CONFIG)] if arm.adapter else [],
        "grammar": arm.schema,
        "compute": loaded.path,
        "max_tokens": max_tokens,
        "stops": sorted(template.stops),
        "prompts": prompts,
        "references": references,
        "rows": [row.id for row in rows],
    }
    file = cache / f"{sha256_json(identity)[:32]}.jsonl"
    if kept := _read(file, rows):
        tell(of)(len(rows), len(rows))
        return Answers(arm.name, kept, True, time.perf_counter() - start, unproved)
    grammar = Grammar(loaded.tokenizer, arm.schema) if arm.schema is not None else None
    prefix = (shared or Shared(loaded.model))(prompts)
    told = generate(
        loaded.model, loaded.tokenizer, prompts, max_tokens=max_tokens, stops=template.stops, batch_size=batch_size,
        progress=tell(of), prefix=prefix, grammar=grammar,
    )  # fmt: skip
    asked = list(zip(prompts, references, strict=True)) if references else []
    how: Any = {"batch_size": batch_size, "prefix": prefix, "progress": tell("reference")}
    unlikely = nats(loaded.model, asked, **how) if asked else [0.0] * len(rows)
    if not all(map(math.isfinite, unlikely)):
        raise MlxtuneError(f"{arm.name} finds a reference answer infinitely unlikely.", mend="Is the adapter whole?")
    lengths = [len(reference) for reference in references] or [0] * len(rows)
    outputs = tuple(
        Output(row.id, text, ended, value, length)
        for row, (text, ended), value, length in zip(rows, told, unlikely, lengths, strict=True)
    )
    write_text(file, "".join(_line(output) for output in outputs))
    return Answers(arm.name, outputs, False, time.perf_counter() - start, unproved)


def _references(template: ChatTemplate, arm: Arm, rows: Sequence[Question]) -> tuple[list[list[int]], str]:
    """The trained tokens of each row's reference answer behind what ``arm`` is asked; none of them, and why, if one is not proved."""
    found = []
    for row in rows:
        if row.reference is None:
            return [], "the data has no wanted answer to some of the rows"
        try:
            _, answer = template.completion((*arm.ask(row), Message("assistant", row.reference)), row.tools, row.place)
        except TemplateError as error:
            return [], error.message
        found.append(answer)
    return found, ""


def _line(output: Output) -> str:
    return json.dumps(asdict(output), ensure_ascii=True) + "\n"


def _read(file: Path, rows: Sequence[Question]) -> tuple[Output, ...]:
    kept = tuple(Output(**record) for record in read(file))
    return kept if [output.id for output in kept] == [row.id for row in rows] else ()
