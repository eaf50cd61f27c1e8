"""Every error mlxtune raises on purpose.

MlxtuneError
├── InputError            what the user gave cannot be used            exit 2
│   ├── RecipeError       a recipe: key, type, value
│   ├── DataError         a source file or a row of it
│   │   └── TooLongError  a row of which the window leaves nothing to train
│   ├── ModelError        a model, tokenizer or adapter
│   └── TemplateError     a chat template that cannot be trained on honestly
├── GateError             a check or a gate says no                    exit 1
├── Interrupted           stopped, and resumable                       exit 3
└── MachineError          disk, memory, a worker that died             exit 4

A message says what was wrong and where; ``mend`` says what to do about it.
"""

from __future__ import annotations


class MlxtuneError(Exception):
    """Base of the tree.

    ``exit_code`` is what the command line ends with; ``mend`` is one sentence that says what to do.
    """

    exit_code = 4

    def __init__(self, message: str, *, mend: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend


class InputError(MlxtuneError):
    """What the user gave cannot be used."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe cannot be read: syntax, unknown key, wrong type, impossible value."""


class DataError(InputError):
    """A source file, or a row of it, cannot be used."""


class TooLongError(DataError):
    """A row of which ``data.max_tokens`` leaves nothing to train."""


class ModelError(InputError):
    """A model, tokenizer or adapter cannot be found or opened."""


class TemplateError(InputError):
    """A chat template for which the trained tokens cannot be proved."""


class GateError(MlxtuneError):
    """A check or a gate says no."""

    exit_code = 1


class Interrupted(MlxtuneError):
    """Work was stopped after ``step`` optimizer steps, saved, and can be resumed; ``reason`` when nobody asked for it."""

    exit_code = 3

    def __init__(self, step: int, reason: str = "") -> None:
        super().__init__(f"Stopped at step {step:,}. {reason}".strip())
        self.step = step
        self.reason = reason


class MachineError(MlxtuneError):
    """The machine let us down: disk, memory, a worker that died."""

    exit_code = 4
