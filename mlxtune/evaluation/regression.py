"""General behaviour: off-task prompts with answers that can be checked, which an adapter must not unlearn. No mlx here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line
from mlxtune.data import samples
from mlxtune.data.rows import Message, Place, Unpaired
from mlxtune.evaluation.scorers.words import normalised
from mlxtune.recipe import Recipe

SHIPPED = Path("data/samples/regression.jsonl")
MARGIN = 0.1  # of all prompts: an adapter that answers so many fewer of them may not be promoted
MAX_TOKENS = 32  # of an answer


@dataclass(frozen=True)
class Probe:
    """A prompt, and the words of which one must stand in its answer."""

    id: str
    prompt: str
    accept: tuple[str, ...]
    place: Place

    @property
    def row(self) -> Unpaired:
        """The prompt as a row. It has no wanted answer, only words that any answer may have in it."""
        return Unpaired(self.place, {}, (Message("user", self.prompt),), "", False)

    def holds(self, output: str) -> bool:
        """Whether ``output`` says one of the accepted words, as a word, whatever its case."""
        said = normalised(output)
        return any(re.search(rf"(?<!\w){re.escape(normalised(word))}(?!\w)", said) for word in self.accept)


@dataclass(frozen=True)
class Regression:
    """How many of ``total`` prompts the base and the adapter answer right; ``broken`` and ``fixed`` name those that changed."""

    total: int
    base: int
    tuned: int
    broken: tuple[str, ...]
    fixed: tuple[str, ...]

    @property
    def blocks(self) -> bool:
        """Whether general behaviour dropped by more than the margin, so that the adapter may not be promoted."""
        return self.base - self.tuned > MARGIN * self.total

    @property
    def brief(self) -> str:
        """What was lost, in a few words, where it blocks."""
        return f"off-task answers dropped from {self.base} to {self.tuned} of {self.total}"

    @property
    def sentence(self) -> str:
        """What it means, in words."""
        counts = f"{self.tuned} of {self.total} off-task prompts answered right, {self.base} by the base"
        if self.blocks:
            return f"General behaviour dropped: {counts}. The adapter is not to be promoted."
        return f"General behaviour held: {counts}."


def of(facts: Mapping[str, Any]) -> Regression | None:
    """What a report's facts say of it; ``None`` when no off-task prompts were asked."""
    told = facts.get("regression")
    return Regression(**{**told, "broken": tuple(told["broken"]), "fixed": tuple(told["fixed"])}) if told else None


def read(recipe: Recipe) -> tuple[Probe, ...]:
    """The off-task prompts of ``recipe``: those that come with mlxtune, the user's, or none. Raises ``DataError``."""
    asked = recipe.evaluation.regression
    if not asked:
        return ()
    return probes(samples.root() / SHIPPED if asked == "shipped" else recipe.path(asked))


def probes(file: Path) -> tuple[Probe, ...]:
    """The prompts in ``file``, lines of ``{"id", "prompt", "accept": [words]}``. Raises ``DataError`` for any other line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {one_line(str(error), 120)}.") from error
    found = [_probe(line, Place(file, number)) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise DataError(f"{file} holds no prompts.", mend='Leave it out with evaluation.regression = "".')
    if len({probe.id for probe in found}) < len(found):
        raise DataError(f"{file}: two prompts have one id.")
    return tuple(found)


def _probe(line: str, place: Place) -> Probe:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place}: not valid JSON.") from error
    match value:
        case {"id": str(id), "prompt": str(prompt), "accept": [_, *_] as accept} if prompt.strip():
            if all(isinstance(word, str) and word.strip() for word in accept):
                return Probe(id, prompt, tuple(accept), place)
    raise DataError(f'{place}: not of the form {{"id": …, "prompt": …, "accept": [words]}}.')


def compare(found: Sequence[Probe], base: Sequence[str], tuned: Sequence[str]) -> Regression:
    """The answers of the base and of the adapter to ``found``, in its order."""
    held = [
        (probe.id, probe.holds(one), probe.holds(two)) for probe, one, two in zip(found, base, tuned, strict=True)
    ]  # fmt: skip
    return Regression(
        total=len(held),
        base=sum(one for _, one, _ in held),
        tuned=sum(two for *_, two in held),
        broken=tuple(id for id, one, two in held if one and not two),
        fixed=tuple(id for id, one, two in held if two and not one),
    )
