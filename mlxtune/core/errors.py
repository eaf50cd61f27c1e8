"""Errors that mlxtune raises on purpose.

MlxtuneError
├── InputError            invalid user input                           exit 2
│   ├── RecipeError       recipe: syntax, key, type, or value
│   ├── DataError         source file or row
│   │   └── TooLongError  row with no trained tokens inside the window
│   ├── EmptyWorkspaceError  no runs or adapters yet
│   ├── ModelError        model, tokenizer, or adapter
│   └── TemplateError     chat template without a reliable training mask
├── GateError             a check failed                               exit 1
├── Interrupted           stopped; can be resumed                      exit 3
└── MachineError          disk, memory, or a dead process              exit 4
    └── GpuError          the GPU or its driver stopped the work

``message`` says what happened and where. ``hint`` says what to do about it.
"""

from typing import TypedDict


class MlxtuneError(Exception):
    """Base class. ``exit_code`` is the command line's exit code. ``hint`` is one sentence that says what to do."""

    exit_code = 4

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(MlxtuneError):
    exit_code = 2


class EmptyWorkspaceError(InputError):
    """A folder without runs or adapters. It may not be a workspace."""


class RecipeError(InputError):
    """Invalid recipe: bad syntax, an unknown key, a wrong type, or an invalid value."""


class DataError(InputError):
    """Invalid source file or row."""


class TooLongError(DataError):
    """A row that has no trained tokens within ``data.max_tokens``."""


class ModelError(InputError):
    """A model, tokenizer, or adapter that cannot be found or opened."""


class TemplateError(InputError):
    """A chat template for which the trained tokens cannot be determined reliably. ``problem`` is the message without ``location``."""

    def __init__(self, problem: str, *, location: object = "", hint: str = "") -> None:
        super().__init__(f"{location}: {problem}" if location else problem, hint=hint)
        self.problem = problem


class GateError(MlxtuneError):
    exit_code = 1


class Interrupted(MlxtuneError):
    """Training stopped after ``step`` steps. It was saved and can be resumed. ``reason`` is empty if the user stopped it."""

    exit_code = 3

    def __init__(self, step: int, reason: str = "") -> None:
        super().__init__(f"Stopped at step {step:,}. {reason}".strip())
        self.step = step
        self.reason = reason


class MachineError(MlxtuneError):
    """A disk error, a memory error, or a dead process."""


class GpuError(MachineError):
    """The GPU or its driver stopped the work."""


class ErrorPayload(TypedDict):
    """An error as JSON. ``kinds`` lists its class names, most specific first."""

    kinds: list[str]
    message: str
    hint: str


def error_to_json(error: MlxtuneError) -> ErrorPayload:
    kinds = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, MlxtuneError)]
    return {"kinds": kinds, "message": error.message, "hint": error.hint}


def error_from_json(payload: ErrorPayload) -> MlxtuneError:
    """Rebuild an error as its most specific class that this process has imported."""
    known = {kind.__name__: kind for kind in _subclasses(MlxtuneError)}
    kind = next((known[name] for name in payload["kinds"] if name in known), MlxtuneError)
    error = kind.__new__(kind)
    MlxtuneError.__init__(error, payload["message"], hint=payload["hint"])  # a subclass may take other arguments
    return error


def _subclasses(kind: type[MlxtuneError]) -> list[type[MlxtuneError]]:
    return [kind, *(child for direct in kind.__subclasses__() for child in _subclasses(direct))]
