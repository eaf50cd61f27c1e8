"""One condition of a rule: ``groups below 50``, ``change has format``. Rules are data, so that they can be read, counted and tested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlxtune.core.errors import InputError
from mlxtune.core.text import nearest

Fact = str | float | frozenset[str] | None  # an answer, a number, several answers, or nothing known
Facts = Mapping[str, Fact]

SETS, ONES, NUMBERS, BARE = ("has", "lacks", "only"), ("is",), ("below", "from"), ("known", "unknown")


@dataclass(frozen=True)
class Condition:
    """``fact`` compared with ``value`` as ``word`` says; ``value`` may be the name of another fact where numbers are compared."""

    fact: str
    word: str
    value: str = ""

    def holds(self, facts: Facts) -> bool:
        """Whether it does. What is not known makes every comparison false."""
        found = facts.get(self.fact)
        if self.word in BARE:
            return (found is not None) == (self.word == "known")
        if found is None:
            return False
        if self.word in SETS:
            values = found if isinstance(found, frozenset) else frozenset({str(found)})
            asked = frozenset(self.value.split("|"))
            return {"has": bool(values & asked), "lacks": not values & asked, "only": bool(values) and values <= asked}[self.word]
        if self.word == "is":
            return found in self.value.split("|")
        other = facts.get(self.value) if self.value in facts else float(self.value)
        if not isinstance(found, int | float) or not isinstance(other, int | float):
            return False
        return found < other if self.word == "below" else found >= other

    @property
    def facts(self) -> tuple[str, ...]:
        """The facts that it looks at."""
        numeric = self.word in NUMBERS and not _number(self.value)
        return (self.fact, self.value) if numeric else (self.fact,)


def parse(text: str, known: Mapping[str, object], where: str) -> Condition:
    """The condition that ``text`` says, about ``known`` facts. Raises ``InputError`` that names the rule ``where`` it stands."""
    fact, _, rest = text.partition(" ")
    word, _, value = rest.partition(" ")
    if fact not in known:
        hint = nearest(fact, known)
        raise InputError(f"{where}: there is no fact called {fact}.", mend=f"Did you mean {hint}?" if hint else "")
    if word not in (*SETS, *ONES, *NUMBERS, *BARE) or bool(value) == (word in BARE):
        raise InputError(
            f"{where}: “{text}” is no condition.", mend="FACT has, lacks, only, is, below or from VALUE; FACT known, unknown."
        )
    if word in NUMBERS and not _number(value) and value not in known:
        raise InputError(f"{where}: “{value}” is neither a number nor a fact.")
    return Condition(fact, word, value)


def _number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
