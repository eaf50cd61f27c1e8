"""Preference pairs: which of two answers an arm finds more likely."""

from dataclasses import dataclass

from mlxtune.evaluation.scorers import Score

PREFERENCE = "preference"


@dataclass(frozen=True)
class PairLogprobs:
    """The mean log-probability per token, in nats, of the chosen and the rejected answer under an arm."""

    chosen: float
    rejected: float

    @property
    def margin(self) -> float:
        """How much more likely the chosen answer is, in nats per token."""
        return self.chosen - self.rejected

    @property
    def score(self) -> Score:
        """A score that passes if the chosen answer is more likely. Means are used because sums would favor the shorter answer."""
        if self.margin > 0:
            return Score(True)
        return Score(False, "prefers_the_rejected", f"the rejected answer is more likely by {-self.margin:.3f} nats per token")
