"""Blind A/B: a person reads two arms' answers without knowing whose they are, and the seal is opened after the last vote.

A session is a folder in the evaluation: ``session.json`` (what was fixed before the first vote, and the hash of the key),
``key.json`` (which side is whose) and ``votes.jsonl`` (every vote and every undo, append-only). Whoever reads the folder can
find the key; the hash proves that it was not changed after the first vote.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.hashing import sha256_json, unit_interval
from mlxtune.core.journal import Journal, read
from mlxtune.core.text import plural
from mlxtune.data.rows import Message
from mlxtune.evaluation import ledger
from mlxtune.evaluation.answered import Pair
from mlxtune.evaluation.ballot import QUESTIONS, Choice, Result, count
from mlxtune.runs.locks import hold

Vote = Literal["a", "b", "tie"]

DEFAULT = 40  # pairs, or as many as there are
REPEATED = 1 / 8  # of the pairs come again, sides swapped, to measure the reader


@dataclass(frozen=True)
class Showing:
    """What the reader sees: the prompt and two answers, unnamed; ``question`` is the one to be answered now."""

    at: int  # showings before this one
    of: int
    prompt: tuple[Message, ...]
    a: str
    b: str
    question: str


class Session:
    """One reader's session, resumable at any vote; a context manager that holds the session's lock."""

    _order: list[str]  # row ids as shown, planted repeats among them
    _first_left: list[bool]  # for each showing, whether the first arm is a
    _votes: list[Vote]
    _opened: bool

    def __init__(
        self, evaluation: Path, first: str, second: str, pairs: Sequence[Pair], n: int = 0, seed: int | None = None
    ) -> None:
        """Open the session of two arms, or fix a new one of ``n`` pairs (0: 40, or as many as there are).

        ``pairs`` are all rows both arms answered; rows with the same answer twice are no choice and are not shown.
        Raises ``InputError`` when the session was fixed otherwise, its key or the answers were changed, or nothing differs.
        """
        self.evaluation, self.first, self.second = evaluation, first, second
        self.folder = folder_of(evaluation, first, second)
        self._pairs = {pair.id: pair for pair in pairs}
        self._lock = hold(self.folder / "session.lock", busy="Another process is in this blind session.", patience=0.3)
        self._lock.__enter__()
        try:
            if not (self.folder / "session.json").is_file():
                self._fix(n, secrets.randbits(53) if seed is None else seed)
            self._open(n)
            self._journal = Journal(self.folder / "votes.jsonl")
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._journal.close()
        self._lock.__exit__(kind, error, trace)

    @property
    def n(self) -> int:
        """Pairs in the result; the planted repeats come on top."""
        return len(set(self._order))

    @property
    def votes(self) -> int:
        """Votes that stand."""
        return len(self._votes)

    @property
    def due(self) -> int:
        """Votes a finished session has."""
        return len(self._order) * len(QUESTIONS)

    @property
    def opened(self) -> bool:
        """Whether the seal is broken: nothing can be voted or undone any more."""
        return self._opened

    @property
    def given(self) -> tuple[Vote, ...]:
        """The votes on what :meth:`now` shows, in the order of the questions."""
        return tuple(self._votes[self.votes - self.votes % len(QUESTIONS) :])

    def now(self) -> Showing | None:
        """What is to be judged next, ``None`` after the last vote."""
        if self.votes >= self.due:
            return None
        at, asked = divmod(self.votes, len(QUESTIONS))
        pair = self._pairs[self._order[at]]
        a, b = (pair.first, pair.second) if self._first_left[at] else (pair.second, pair.first)
        return Showing(at, len(self._order), pair.prompt, a, b, list(QUESTIONS)[asked])

    def vote(self, vote: Vote) -> None:
        """Answer the question of :meth:`now`."""
        if self._opened or self.votes >= self.due:
            raise ValueError("there is nothing to vote on")
        at, asked = divmod(self.votes, len(QUESTIONS))
        self._write({"showing": at, "question": list(QUESTIONS)[asked], "vote": vote})
        self._votes.append(vote)

    def undo(self) -> bool:
        """Take the last vote back; whether there was one. The journal keeps both."""
        if self._opened or not self._votes:
            return False
        self._write({"undo": True})
        self._votes.pop()
        return True

    def reveal(self) -> Result:
        """Open the seal of a finished session, for good, and say what it found. Raises ``InputError`` before the last vote."""
        if self.votes < self.due:
            raise InputError(
                f"{self.votes} of {self.due} votes are in: the sides stay sealed.",
                mend=f"Go on: mlxtune blind {self.evaluation.name}",
            )
        if not self._opened:
            self._write({"opened": True})
            self._opened = True
            ledger.record(ledger.ledger(self.evaluation), "blind", self.evaluation.name, self._order)
        return self._result()

    def choices(self) -> list[tuple[Pair, str, Choice]]:
        """Every vote of an opened session, planted repeats left out: the row, the question and the arm chosen."""
        if not self._opened:
            raise InputError("The sides are sealed until the last vote.", mend=f"Go on: mlxtune blind {self.evaluation.name}")
        firsts = {id: at for at, id in reversed(list(enumerate(self._order)))}
        return [
            (self._pairs[id], question, self._choice(at, number))
            for id, at in sorted(firsts.items(), key=lambda item: item[1])
            for number, question in enumerate(QUESTIONS)
        ]

    def _fix(self, n: int, seed: int) -> None:
        uneven = [id for id, pair in self._pairs.items() if pair.first != pair.second]
        if not uneven:
            raise InputError(f"{self.first} and {self.second} give the same answers: there is nothing to choose.")
        if n > len(uneven):
            raise InputError(
                f"{plural(n, 'pair')} cannot be shown: the arms differ on {plural(len(uneven), 'row')}.", mend=f"--n {len(uneven)}"
            )
        drawn = sorted(uneven, key=lambda id: unit_interval(seed, "row", id))
        times = Counter[str]()
        turns = {id: times.update([self._pairs[id].group]) or times[self._pairs[id].group] for id in drawn}
        shown = sorted(drawn, key=turns.__getitem__)[: n or DEFAULT]  # a second row of a group only when every group had its turn
        swapped = sorted(shown, key=lambda id: unit_interval(seed, "side", id))[: len(shown) // 2]
        early, half = shown[: len(shown) // 3], len(shown) // 2  # repeats come from the first third and stand in the second half
        again = early[: max(2, round(len(shown) * REPEATED))]
        late = [(id, False) for id in shown[half:]] + [(id, True) for id in again]
        order = [(id, False) for id in shown[:half]] + sorted(late, key=lambda item: unit_interval(seed, "late", *map(str, item)))
        key = {"seed": seed, "first_is_a": [(id not in swapped) != repeat for id, repeat in order]}
        write_json(self.folder / "key.json", key)
        write_json(
            self.folder / "session.json",
            {
                "v": 1,
                "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "arms": [self.first, self.second],
                "n": len(shown),
                "questions": list(QUESTIONS),
                "order": [id for id, _ in order],
                "answers": _fingerprint([self._pairs[id] for id in shown]),
                "seal": sha256_json(key),
            },
        )

    def _open(self, n: int) -> None:
        header, key = read_json(self.folder / "session.json"), read_json(self.folder / "key.json")
        match header, key:
            case {"n": int(fixed), "order": list(order), "answers": str(answers), "seal": seal}, {"first_is_a": list(sides)}:
                if seal != sha256_json(key) or len(order) != len(sides):
                    raise InputError(
                        f"The seal of {self.folder} is broken: its key was changed.", mend="Remove the folder and vote anew."
                    )
            case _:
                raise InputError(f"{self.folder} is not a blind session of this version.")
        if n and n != fixed:
            raise InputError(f"This session was fixed at {plural(fixed, 'pair')} before its first vote.", mend="Leave --n out.")
        shown = [self._pairs[id] for id in dict.fromkeys(order) if id in self._pairs]
        if len(shown) != fixed or _fingerprint(shown) != answers:
            raise InputError(f"The answers of {self.evaluation.name} changed since this session was fixed.")
        self._order = order
        self._first_left = sides
        self._votes = []
        self._opened = False
        for entry in read(self.folder / "votes.jsonl"):
            match entry:
                case {"vote": "a" | "b" | "tie" as vote}:
                    self._votes.append(vote)
                case {"undo": True} if self._votes:
                    self._votes.pop()
                case {"opened": True}:
                    self._opened = True

    def _write(self, entry: dict[str, Any]) -> None:
        self._journal.append({"t": time.time(), **entry})
        self._journal.sync()

    def _choice(self, at: int, question: int) -> Choice:
        vote = self._votes[at * len(QUESTIONS) + question]
        return "tie" if vote == "tie" else "first" if (vote == "a") == self._first_left[at] else "second"

    def _result(self) -> Result:
        firsts = {id: at for at, id in reversed(list(enumerate(self._order)))}
        again = [(firsts[id], at) for at, id in enumerate(self._order) if firsts[id] != at]
        numbers = range(len(QUESTIONS))
        return count(
            self.first,
            self.second,
            self.choices(),
            repeats=[(self._choice(one, number), self._choice(two, number)) for one, two in again for number in numbers],
            left=sum(vote == "a" for vote in self._votes),
            decided=sum(vote != "tie" for vote in self._votes),
        )


def _fingerprint(pairs: Sequence[Pair]) -> str:
    return sha256_json(sorted([pair.id, pair.first, pair.second] for pair in pairs))


def begun(evaluation: Path, first: str, second: str) -> bool:
    """Whether the two arms have a session."""
    return (folder_of(evaluation, first, second) / "session.json").is_file()


def folder_of(evaluation: Path, first: str, second: str) -> Path:
    """A folder that no arm's name can leave the evaluation with; arms come from a file."""
    return evaluation / "blind" / re.sub(r"[^A-Za-z0-9+-]", "_", f"{first}--{second}")[:100]
