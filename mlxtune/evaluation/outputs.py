"""What each arm answers to the held-out rows: from the model, or from the cache when nothing that matters changed.

No answer is ever made up: what fails to answer fails the evaluation.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError, InputError, MlxtuneError, TemplateError, TooLongError
from mlxtune.core.files import write_text
from mlxtune.core.hashing import sha256_file, sha256_json
from mlxtune.data.rows import Message, Preference, Question, Row
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.preference import Preferred
from mlxtune.models import lora
from mlxtune.models.generate import Progress, generate
from mlxtune.models.grammar import Grammar
from mlxtune.models.likelihood import nats
from mlxtune.models.load import LoadedModel
from mlxtune.models.prefix import Shared
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import Recipe
from mlxtune.runs.state import HELD_OUT


@dataclass(frozen=True)
class Output:
    """One answer: the row's id, the text, and why it ended (``stop`` or ``length``).

    ``nats`` is how unlikely the arm finds the row's reference answer: its negative log-likelihood over its ``tokens`` tokens.
    ``rejected`` is the same of a pair's other answer: nats and tokens, where it was asked for.
    """

    id: str
    output: str
    ended: str
    nats: float
    tokens: int
    rejected: tuple[float, int] | None = None

    @property
    def preferred(self) -> Preferred | None:
        """What the arm prefers of the row's pair, where that was asked for and can be told."""
        if not self.rejected or not self.tokens:
            return None
        return Preferred(-self.nats / self.tokens, -self.rejected[0] / self.rejected[1])


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


def comparable(loaded: LoadedModel, recipe: Recipe, rows: Sequence[Question]) -> frozenset[str]:
    """Ids of the pairs among ``rows`` whose answers are held against each other, which is done whole.

    Pairs of which training's window would leave nothing are left out. Raises ``DataError`` for a pair with nothing to prefer.
    """
    template, found = ChatTemplate(loaded.tokenizer), []
    for row in rows:
        if isinstance(row, Preference):
            with suppress(TooLongError):
                found.append(template.pair(row, recipe.data.max_tokens).id)
    return frozenset(found)


def answer(
    arm: Arm, loaded: LoadedModel, rows: Sequence[Question], *, max_tokens: int, batch_size: int, cache: Path,
    tell: Callable[[str], Progress], of: str = HELD_OUT, shared: Shared | None = None, compared: frozenset[str] = frozenset(),
) -> Answers:  # fmt: skip
    """Greedy answers of ``loaded``, as it is now, to ``rows`` asked as ``arm`` asks, and the likelihood of their references.

    ``compared`` are ids of pairs of which the likelihood of the rejected answer is found, too.

    They are kept in ``cache`` under a hash of weights, tokenizer, adapter, grammar, prompt and reference tokens, decoding, compute path
    and versions: a base that was measured once is not measured again, and whatever changes an answer changes the key. ``tell`` gives the
    place where progress is told, of what ``rows`` are called and of references; ``shared`` are the prefixes that ``loaded`` has read
    as it is now. Raises ``InputError`` when a prompt and its answer do not fit the model, ``MlxtuneError`` when it gives no numbers.
    """
    start = time.perf_counter()
    template = ChatTemplate(loaded.tokenizer)
    prompts = [template.prompt(arm.ask(row), row.tools) for row in rows]
    wanted: list[tuple[int, str | None]] = [(at, row.reference) for at, row in enumerate(rows)]
    references, unproved = _answers(template, arm, rows, wanted)
    others: list[tuple[int, str | None]] = [
        (at, row.rejected) for at, row in enumerate(rows) if isinstance(row, Preference) and row.id in compared
    ]
    rejected = _answers(template, arm, rows, others)[0] if references else []
    _require_room(arm, loaded, rows, prompts, max_tokens)
    identity = {
        "v": 4,
        "made with": {
            name: version(name) for name in ("mlxtune", "mlx", "mlx-lm", *(["llguidance"] if arm.schema is not None else []))
        },
        "base": [loaded.source.fingerprint, _contents(loaded.source.folder)],
        "adapter": [sha256_file(arm.adapter / name) for name in (lora.WEIGHTS, lora.CONFIG)] if arm.adapter else [],
        "grammar": arm.schema,
        "compute": loaded.path,
        "max_tokens": max_tokens,
        "stops": sorted(template.stops),
        "prompts": prompts,
        "references": references,
        "rejected": [others, rejected],
        "rows": [row.id for row in rows],
    }
    file = cache / f"{sha256_json(identity)[:32]}.jsonl"
    if kept := _kept(file, rows):
        tell(of)(len(rows), len(rows))
        return Answers(arm.name, kept, True, time.perf_counter() - start, unproved)
    grammar = Grammar(loaded.tokenizer, arm.schema) if arm.schema is not None else None
    prefix = (shared or Shared(loaded.model))(prompts)
    told = generate(
        loaded.model, loaded.tokenizer, prompts, max_tokens=max_tokens, stops=template.stops, batch_size=batch_size,
        progress=tell(of), prefix=prefix, grammar=grammar,
    )  # fmt: skip
    places = [at for at, _ in (wanted if references else []) + (others if rejected else [])]
    asked = [(prompts[at], tokens) for at, tokens in zip(places, references + rejected, strict=True)]
    found = _unlikely(arm, loaded, asked, batch_size=batch_size, prefix=prefix, progress=tell("reference"))
    against = dict(zip(places[len(rows) :], found[len(rows) :], strict=True))
    outputs = tuple(
        Output(row.id, text, ended, *(found[at] if found else (0.0, 0)), against.get(at))
        for at, (row, (text, ended)) in enumerate(zip(rows, told, strict=True))
    )
    _keep(file, outputs)
    return Answers(arm.name, outputs, False, time.perf_counter() - start, unproved)


def _answers(
    template: ChatTemplate, arm: Arm, rows: Sequence[Question], wanted: Sequence[tuple[int, str | None]]
) -> tuple[list[list[int]], str]:
    """The trained tokens of ``wanted`` answers, each with its row's place, behind what ``arm`` is asked; none, and why, if one is not proved."""
    found = []
    for at, text in wanted:
        row = rows[at]
        if text is None:
            return [], "the data has no wanted answer to some of the rows"
        try:
            _, answer = template.completion((*arm.ask(row), Message("assistant", text)), row.tools, row.place)
        except TemplateError as error:
            return [], error.message
        found.append(answer)
    return found, ""


def _unlikely(arm: Arm, loaded: LoadedModel, asked: Sequence[tuple[list[int], list[int]]], **how: Any) -> list[tuple[float, int]]:
    """The negative log-likelihood in nats, and the tokens, of each answer that ``arm`` is ``asked`` about with its prompt."""
    found = nats(loaded.model, asked, **how) if asked else []
    if not all(map(math.isfinite, found)):
        raise MlxtuneError(f"{arm.name} finds a given answer infinitely unlikely.", mend="Is the adapter whole?")
    return [(value, len(answer)) for value, (_, answer) in zip(found, asked, strict=True)]


def _require_room(
    arm: Arm, loaded: LoadedModel, rows: Sequence[Question], prompts: Sequence[Sequence[int]], max_tokens: int
) -> None:
    """An arm whose prompts leave the positions that a model was made for would be measured at what no user would do with it."""
    config = loaded.source.config
    most = config.get("max_position_embeddings") or config.get("text_config", {}).get("max_position_embeddings")
    at = max(range(len(prompts)), key=lambda at: len(prompts[at]))
    if isinstance(most, int) and len(prompts[at]) + max_tokens > most:
        raise InputError(
            f"{rows[at].place}: {arm.name} asks with {len(prompts[at]):,} tokens, and {max_tokens:,} may be answered: "
            f"the model reads at most {most:,}.",
            mend="Lower evaluation.max_tokens or evaluation.shots, or leave the arm out.",
        )


def _contents(folder: Path) -> list[str]:
    """The hashes of a model's weights and tokenizer, read in full once a process."""
    files = sorted(file for pattern in ("model*.safetensors", "tokenizer*") for file in folder.glob(pattern) if file.is_file())
    return [_digest(file, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


@lru_cache
def _digest(file: Path, size: int, changed: int) -> str:
    return sha256_file(file)


def _keep(file: Path, outputs: Sequence[Output]) -> None:
    """Write ``outputs`` behind a line with their hash."""
    lines = "".join(json.dumps(asdict(output), ensure_ascii=True) + "\n" for output in outputs)
    write_text(file, json.dumps({"sha256": hashlib.sha256(lines.encode()).hexdigest()}) + "\n" + lines)


def _kept(file: Path, rows: Sequence[Question]) -> tuple[Output, ...]:
    """What was written to ``file``; nothing where it is not there, not whole, or not of ``rows``."""
    try:
        head, _, lines = file.read_bytes().partition(b"\n")
        if json.loads(head)["sha256"] != hashlib.sha256(lines).hexdigest():
            return ()
        kept = tuple(_read(json.loads(line)) for line in lines.splitlines())
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return kept if [output.id for output in kept] == [row.id for row in rows] else ()


def _read(told: dict[str, Any]) -> Output:
    rejected = told.pop("rejected")
    return Output(**told, rejected=tuple(rejected) if rejected else None)
