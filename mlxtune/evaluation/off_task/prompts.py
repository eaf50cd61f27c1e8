"""Off-task prompts: short questions with checkable answers, used to detect forgetting."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import DataError
from mlxtune.core.text import one_line
from mlxtune.data import samples
from mlxtune.data.rows import Location, Message, Unpaired
from mlxtune.evaluation.scorers.output_text import normalize
from mlxtune.recipe import Recipe

SHIPPED = Path("data/samples/regression.jsonl")
MAX_TOKENS = 32  # maximum length of an answer


@dataclass(frozen=True)
class OffTaskPrompt:
    """A prompt, and the accepted words; a correct answer contains at least one of them."""

    id: str
    prompt: str
    accept: tuple[str, ...]
    location: Location

    @property
    def row(self) -> Unpaired:
        """The prompt as a row without a reference answer."""
        return Unpaired(self.location, {}, (Message("user", self.prompt),), "", False)

    def passes(self, output: str) -> bool:
        """Return whether ``output`` contains an accepted word, ignoring case."""
        text = normalize(output)
        return any(re.search(rf"(?<!\w){re.escape(normalize(word))}(?!\w)", text) for word in self.accept)


def load_prompts(recipe: Recipe) -> tuple[OffTaskPrompt, ...]:
    """Load the recipe's off-task prompts: the built-in ones, the user's, or none. Raises ``DataError``."""
    setting = recipe.evaluation.regression
    if not setting:
        return ()
    return read_prompts(samples.samples_root() / SHIPPED if setting == "shipped" else recipe.path(setting))


def read_prompts(file: Path) -> tuple[OffTaskPrompt, ...]:
    """Read lines of ``{"id", "prompt", "accept": [words]}``. Raises ``DataError`` for a malformed line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read {file}: {one_line(str(error), 120)}.") from error
    prompts = [_parse(line, Location(file, number)) for number, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise DataError(f"{file} has no prompts.", hint='To skip off-task prompts, set evaluation.regression = "".')
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise DataError(f"{file}: two prompts have the same ID.")
    return tuple(prompts)


def _parse(line: str, location: Location) -> OffTaskPrompt:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{location}: invalid JSON.") from error
    match value:
        case {"id": str(id), "prompt": str(prompt), "accept": [_, *_] as accept} if prompt.strip():
            if all(isinstance(word, str) and word.strip() for word in accept):
                return OffTaskPrompt(id, prompt, tuple(accept), location)
    raise DataError(f'{location}: expected {{"id": …, "prompt": …, "accept": [words]}}.')
