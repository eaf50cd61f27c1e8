"""How far answers get that cost nothing: a contract that they meet often does not measure the task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FreeRates:
    """The held-out ``rows`` that one answer, chosen on the other rows, and the answers of the nearest training prompts pass.

    ``fields`` of the answers have few values, so they would tell answers apart, but the recipe does not compare them.
    """

    constant: int
    copier: int
    rows: int
    fields: tuple[str, ...] = ()
