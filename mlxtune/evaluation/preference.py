"""What an arm prefers of a pair, in figures. No mlx here: faces read it."""

from __future__ import annotations

from dataclasses import dataclass

from mlxtune.evaluation.scorers import Score

METRIC = "preference"


@dataclass(frozen=True)
class Preferred:
    """Log-probabilities of both answers to a prompt under an arm: the mean over an answer's tokens, in nats."""

    chosen: float
    rejected: float

    @property
    def margin(self) -> float:
        """How much likelier the chosen answer is, in nats a token."""
        return self.chosen - self.rejected

    @property
    def score(self) -> Score:
        """Whether the chosen answer is the likelier one. Means, because a sum would prefer whatever is shorter."""
        if self.margin > 0:
            return Score(True)
        return Score(False, "prefers the rejected", f"the rejected answer is likelier by {-self.margin:.3f} nats a token")
