"""The comparison of an installed program's prompts and answers with the adapter's: the cost of export and quantization. Imports no mlx."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.adapters.export.fidelity import ComparedAnswers, PromptDifference
from mlxtune.core.files import write_json
from mlxtune.core.json_fields import load_record, to_json

FILE = "verification.json"
VERSION = 2
PromptCheck = Literal["tokens", "counts", "none"]


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


def save(result: Verification, folder: Path) -> None:
    write_json(folder / FILE, to_json(result))


def load(folder: Path) -> Verification:
    """Read ``verification.json`` in ``folder``. Raise ``InputError`` if it is invalid."""
    return load_record(Verification, folder / FILE, VERSION, "Run mlxtune verify-export again.")
