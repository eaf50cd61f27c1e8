"""How far a constant answer gets: a contract that it meets often does not measure the task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ConstantRate:
    """The held-out ``rows`` that one answer, chosen on the other rows, ``passed``.

    ``fields`` of the answers have few values, so they would tell answers apart, but the recipe does not compare them.
    """

    passed: int
    rows: int
    fields: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        return self.passed / self.rows
