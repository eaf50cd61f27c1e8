"""Names of the evaluations of a sample of rows, which the advice starts. The app needs them before it loads anything else."""

from __future__ import annotations

_SUFFIX = "-advice"


def sample_name(name: str) -> str:
    """Return the name of the evaluation of a sample for the recipe ``name``."""
    return f"{name[: 64 - len(_SUFFIX)]}{_SUFFIX}"


def is_sample(name: str) -> bool:
    """Whether an evaluation with this name is a sample, and therefore not a baseline."""
    return name.endswith(_SUFFIX)
