"""The comparison of an installed program's prompts and answers with the adapter's: the cost of export and quantization. Imports no mlx."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.adapters.export.fidelity import ComparedAnswers
from mlxtune.core.files import write_json
from mlxtune.core.json_fields import load_record, to_json

FILE = "verification.json"
VERSION = 2
PromptCheck = Literal["tokens", "counts", "none"]


@dataclass(frozen=True)
class PromptDifference:
    """The first difference between a row's prompt as the trainer rendered it and as another program does."""

    row: str
    position: int  # of the first token that differs, from 0; -1 if only the numbers of tokens were compared
    expected: str  # the text of the token there, empty after the end; or the number of tokens
    actual: str


@dataclass(frozen=True)
class Verification:
    """The prompts and answers of ``model`` at ``url``, compared with those of the adapter as trained."""

    export: str  # the export's run ID, if known
    url: str
    model: str
    prompts: PromptCheck  # whether the tokens of prompts were compared, or only how many there are
    difference: PromptDifference | None
    answers: ComparedAnswers
    v: int = VERSION

    @property
    def failure(self) -> Literal["", "prompts", "contract"]:
        """What shows that the program does not run the model that was evaluated, or ``""``."""
        return "prompts" if self.difference else "contract" if self.answers.is_worse else ""


def compare_tokens(
    row: str, expected: Sequence[int], actual: Sequence[int], decode: Callable[[list[int]], str]
) -> PromptDifference | None:
    """Return the first difference between two token sequences for the prompt of ``row``, or ``None`` if they are equal."""
    if list(expected) == list(actual):
        return None
    pairs = zip(expected, actual, strict=False)
    position = next((at for at, (one, two) in enumerate(pairs) if one != two), min(len(expected), len(actual)))
    texts = (decode(list(tokens[position : position + 1])) for tokens in (expected, actual))
    return PromptDifference(row, position, *texts)


def save(result: Verification, folder: Path) -> None:
    write_json(folder / FILE, to_json(result))


def load(folder: Path) -> Verification:
    """Read ``verification.json`` in ``folder``. Raise ``InputError`` if it is invalid."""
    return load_record(Verification, folder / FILE, VERSION, "Run mlxtune verify-export again.")
