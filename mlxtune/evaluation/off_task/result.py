"""Compare the off-task answers of the base and the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlxtune.evaluation.off_task.prompts import OffTaskPrompt

MARGIN = 0.1  # fraction of all prompts: the largest drop that still allows promotion


@dataclass(frozen=True)
class OffTaskResult:
    """How many of ``total`` prompts the base and the adapter answer correctly, and the IDs of the prompts that changed."""

    total: int
    base: int
    tuned: int
    broken: tuple[str, ...]
    fixed: tuple[str, ...]

    @property
    def blocks_promotion(self) -> bool:
        """Whether correct answers dropped by more than the margin."""
        return self.base - self.tuned > MARGIN * self.total

    @property
    def drop(self) -> str:
        """A short description of the drop, for a result that blocks promotion."""
        return f"off-task answers dropped from {self.base} to {self.tuned} of {self.total}"

    @property
    def summary(self) -> str:
        """The result as a sentence."""
        counts = f"the adapter answers {self.tuned} of {self.total} prompts correctly, the base {self.base}"
        if self.blocks_promotion:
            return f"Failed the off-task check: {counts}. Not recommended."
        return f"Passed the off-task check: {counts}."


def compare_off_task(prompts: Sequence[OffTaskPrompt], base: Sequence[str], tuned: Sequence[str]) -> OffTaskResult:
    """Compare the answers of the base and the adapter to ``prompts``, in their order."""
    passes = [(prompt.id, prompt.passes(one), prompt.passes(two)) for prompt, one, two in zip(prompts, base, tuned, strict=True)]
    return OffTaskResult(
        total=len(passes),
        base=sum(one for _, one, _ in passes),
        tuned=sum(two for *_, two in passes),
        broken=tuple(id for id, one, two in passes if one and not two),
        fixed=tuple(id for id, one, two in passes if two and not one),
    )
