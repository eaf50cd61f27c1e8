"""The name of the sample of rows that advice measures: by it, the sample is told from what is measured in earnest."""

from __future__ import annotations

_END = "-advice"


def sample_name(name: str) -> str:
    """What the recipe ``name`` is called while a sample of its rows is measured."""
    return f"{name[: 64 - len(_END)]}{_END}"


def is_sample(name: str) -> bool:
    """Whether an evaluation of that name is of such a sample. It is no baseline for anything else."""
    return name.endswith(_END)
