"""Blind A/B comparison: a rater compares two arms' answers without knowing which is which; the sides are revealed at the end.

A session is a folder in the evaluation: ``session.json`` (fixed before the first vote, with the hash of the key), ``key.json``
(which arm is on which side) and ``votes.jsonl`` (every vote and undo, append-only). The key file is readable, but its hash proves
that it was not changed after the first vote.
"""

import json
import os
import re
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxtune.core.errors import InputError, MachineError
from mlxtune.core.files import Closeable, read_json, write_json, write_text
from mlxtune.core.hashing import sha256_json, unit_interval
from mlxtune.core.journal import Journal, read
from mlxtune.core.json_fields import load_record, to_json
from mlxtune.core.text import plural
from mlxtune.data.rows import Message
from mlxtune.evaluation.blind import votes as tally
from mlxtune.evaluation.blind.votes import HEADLINE_QUESTION, QUESTIONS, ArmChoice, BlindResult, RowVote
from mlxtune.evaluation.evidence import AnswerPair
from mlxtune.evaluation.holdout import ledger
from mlxtune.runs.locks import file_lock

Vote = Literal["a", "b", "tie"]

FILE = "session.json"
VERSION = 1
DEFAULT = 40  # number of pairs, or all pairs if there are fewer
REPEATED = 1 / 8  # share of pairs shown again with swapped sides, to measure the rater's consistency


@dataclass(frozen=True)
class PresentedPair:
    """The rater's view: the prompt, two anonymous answers, and the current question."""

    index: int
    total: int
    prompt: tuple[Message, ...]
    a: str
    b: str
    question: str


@dataclass(frozen=True)
class _Header:
    """The content of ``session.json``."""

    v: int
    made: str
    arms: tuple[str, str]
    n: int  # the number of pairs, repeats not counted
    questions: tuple[str, ...]
    order: tuple[str, ...]  # row IDs in the order shown, including repeats
    answers: str  # a hash of the answers
    seal: str  # the hash of the key


class BlindSession(Closeable):
    """One rater's session, which can be resumed after any vote; a context manager that holds the session's lock."""

    _order: tuple[str, ...]  # row IDs in the order shown, including repeats
    _first_is_a: list[bool]  # for each position in the order
    _votes: list[Vote]
    opened: bool  # whether the sides are revealed, which ends voting

    def __init__(
        self, evaluation: Path, first: str, second: str, pairs: Sequence[AnswerPair], n: int = 0, seed: int | None = None
    ) -> None:
        """Open the session of two arms, or create one with ``n`` pairs (0 means 40, or all if there are fewer).

        ``pairs`` are all rows that both arms answered; rows with identical answers are not shown. Raises ``InputError`` if the
        session was created with a different ``n``, its key or the answers changed, or no answers differ.
        """
        self.evaluation, self.first, self.second = evaluation, first, second
        self.folder = session_folder(evaluation, first, second)
        self._pairs = {pair.id: pair for pair in pairs}
        lock = file_lock(
            self.folder / "session.lock",
            busy=lambda holder: MachineError(
                f"This blind session is open in {holder or 'another process'}.", hint="Quit that one first."
            ),
            note=f"another process ({os.getpid()})",
            timeout=0.3,
        )
        with ExitStack() as stack:
            stack.enter_context(lock)
            if not (self.folder / FILE).is_file():
                self._create(n, secrets.randbits(53) if seed is None else seed)
            self._load(n)
            self._journal = stack.enter_context(Journal(self.folder / "votes.jsonl"))
            self._open = stack.pop_all()

    def close(self) -> None:
        self._open.close()

    @property
    def n(self) -> int:
        """The number of pairs in the result, excluding repeats."""
        return len(set(self._order))

    @property
    def votes(self) -> int:
        return len(self._votes)

    @property
    def votes_needed(self) -> int:
        return len(self._order) * len(QUESTIONS)

    @property
    def pending_votes(self) -> tuple[Vote, ...]:
        """The votes on the current pair, in the order of the questions."""
        return tuple(self._votes[self.votes - self.votes % len(QUESTIONS) :])

    @property
    def current(self) -> PresentedPair | None:
        """The pair and question to vote on, or ``None`` after the last vote."""
        if self.votes >= self.votes_needed:
            return None
        index, question = divmod(self.votes, len(QUESTIONS))
        pair = self._pairs[self._order[index]]
        a, b = (pair.first, pair.second) if self._first_is_a[index] else (pair.second, pair.first)
        return PresentedPair(index, len(self._order), pair.prompt, a, b, list(QUESTIONS)[question])

    def vote(self, vote: Vote) -> None:
        if self.opened or not (shown := self.current):
            raise ValueError("there is nothing to vote on")
        self._write({"showing": shown.index, "question": shown.question, "vote": vote})
        self._votes.append(vote)

    def undo(self) -> bool:
        """Undo the last vote and return whether there was one. The journal keeps both entries."""
        if self.opened or not self._votes:
            return False
        self._write({"undo": True})
        self._votes.pop()
        return True

    def reveal(self) -> BlindResult:
        """Permanently reveal the sides of a finished session and return the result. Raises ``InputError`` before the last vote."""
        if self.votes < self.votes_needed:
            votes = f"{self.votes} of {self.votes_needed} votes have been cast"
            raise InputError(f"Only {votes}, so the sides stay hidden.", hint=f"Continue: mlxtune blind {self.evaluation.name}")
        if not self.opened:
            self._write({"opened": True})
            self.opened = True
            ledger.record(ledger.ledger_path(self.evaluation), "blind", self.evaluation.name, self._order)
        numbers, firsts = range(len(QUESTIONS)), self._first_showings()
        repeats = [(firsts[id], index) for index, id in enumerate(self._order) if firsts[id] != index]
        return tally.count_votes(
            self.first, self.second, self.choices(),
            repeats=[(self._choice(one, number), self._choice(two, number)) for one, two in repeats for number in numbers],
            left=self._votes.count("a"), decided=len(self._votes) - self._votes.count("tie"),
        )  # fmt: skip

    def choices(self) -> list[RowVote]:
        """Return every vote in a revealed session, excluding repeats. Raises ``InputError`` before it is revealed."""
        if not self.opened:
            raise InputError("The sides are hidden until the last vote.", hint=f"Continue: mlxtune blind {self.evaluation.name}")
        return [
            RowVote(self._pairs[id], question, self._choice(index, number))
            for id, index in self._first_showings().items()
            for number, question in enumerate(QUESTIONS)
        ]

    def _first_showings(self) -> dict[str, int]:
        return {id: self._order.index(id) for id in self._order}

    def _create(self, n: int, seed: int) -> None:
        differing = [id for id, pair in self._pairs.items() if pair.first != pair.second]
        if not differing:
            raise InputError(f"{self.first} and {self.second} gave identical answers to every row, so there is nothing to compare.")
        if n > len(differing):
            raise InputError(f"The arms differ on only {plural(len(differing), 'row')}.", hint=f"Use --n {len(differing)} or less.")
        drawn = sorted(differing, key=lambda id: unit_interval(seed, "row", id))
        # A group's second row is shown only after every group has had its turn.
        times = Counter[str]()
        turns = {id: times.update([self._pairs[id].group]) or times[self._pairs[id].group] for id in drawn}
        shown = sorted(drawn, key=turns.__getitem__)[: n or DEFAULT]
        swapped = sorted(shown, key=lambda id: unit_interval(seed, "side", id))[: len(shown) // 2]
        # Repeats are taken from the first third and shown in the second half.
        half = len(shown) // 2
        again = shown[: repeated_pairs(len(shown))]
        late = [(id, False) for id in shown[half:]] + [(id, True) for id in again]
        order = [(id, False) for id in shown[:half]] + sorted(late, key=lambda item: unit_interval(seed, "late", *map(str, item)))
        key = {"seed": seed, "first_is_a": [(id not in swapped) != repeat for id, repeat in order]}
        write_json(self.folder / "key.json", key)
        made, answers = time.strftime("%Y-%m-%dT%H:%M:%S%z"), _fingerprint([self._pairs[id] for id in shown])
        rows = tuple(id for id, _ in order)
        header = _Header(VERSION, made, (self.first, self.second), len(shown), tuple(QUESTIONS), rows, answers, sha256_json(key))
        write_json(self.folder / FILE, to_json(header))

    def _load(self, n: int) -> None:
        header, key = _read_header(self.folder), read_json(self.folder / "key.json")
        if header.seal != sha256_json(key):
            raise InputError(f"The key in {self.folder} was changed.", hint="Delete the folder and vote again.")
        if n and n != header.n:
            raise InputError(f"This session was created with {plural(header.n, 'pair')}.", hint="Omit --n.")
        shown = [self._pairs[id] for id in dict.fromkeys(header.order) if id in self._pairs]
        if len(shown) != header.n or _fingerprint(shown) != header.answers:
            raise InputError(f"The answers in {self.evaluation.name} changed after this session was created.")
        self._order, self._first_is_a = header.order, key["first_is_a"]
        self._votes, self.opened = _read_votes(self.folder)

    def _write(self, entry: dict[str, Any]) -> None:
        self._journal.append({"t": time.time(), **entry}, sync=True)

    def _choice(self, index: int, question: int) -> ArmChoice:
        vote = self._votes[index * len(QUESTIONS) + question]
        return "tie" if vote == "tie" else "first" if (vote == "a") == self._first_is_a[index] else "second"


def repeated_pairs(n: int) -> int:
    """Return how many of ``n`` pairs are shown again: from the first third, in the second half."""
    return min(n // 3, max(2, round(n * REPEATED)))


def _fingerprint(pairs: Sequence[AnswerPair]) -> str:
    return sha256_json(sorted([pair.id, pair.first, pair.second] for pair in pairs))


def revealed_choices(evaluation: Path, first: str, second: str, pairs: Sequence[AnswerPair]) -> dict[str, ArmChoice]:
    """Return the rater's choices on the headline question by row; empty unless the arms have a session that was revealed."""
    if not (session_folder(evaluation, first, second) / FILE).is_file():
        return {}
    with BlindSession(evaluation, first, second, pairs) as session:
        if not session.opened:
            return {}
        return {vote.pair.id: vote.choice for vote in session.choices() if vote.question == HEADLINE_QUESTION}


def session_folder(evaluation: Path, first: str, second: str) -> Path:
    """Return a session's folder. Arm names come from a file, so unsafe characters are replaced."""
    return evaluation / "blind" / re.sub(r"[^A-Za-z0-9+-]", "_", f"{first}--{second}")[:100]


@dataclass(frozen=True)
class BlindStatus:
    """A session's progress: its pairs, its votes, the votes it needs, and whether the sides are revealed."""

    pairs: int
    votes: int
    votes_needed: int
    opened: bool


def blind_status(evaluation: Path, first: str, second: str) -> BlindStatus | None:
    """Return the progress of two arms' session, or ``None``, without locking it. Raises ``InputError`` for a damaged file."""
    folder = session_folder(evaluation, first, second)
    return read_status(folder) if (folder / FILE).is_file() else None


def read_status(folder: Path) -> BlindStatus:
    """Return the progress of the session in ``folder``. Raises ``InputError`` for a damaged file."""
    header, (votes, opened) = _read_header(folder), _read_votes(folder)
    return BlindStatus(header.n, len(votes), len(header.order) * len(QUESTIONS), opened)


def _read_header(folder: Path) -> _Header:
    return load_record(_Header, folder / FILE, VERSION, "Use the version that wrote it, or delete the folder and vote again.")


def _read_votes(folder: Path) -> tuple[list[Vote], bool]:
    """Return the votes that were not undone, and whether the sides are revealed."""
    votes: list[Vote] = []
    opened = False
    for entry in read(folder / "votes.jsonl"):
        match entry:
            case {"vote": "a" | "b" | "tie" as vote}:
                votes.append(vote)
            case {"undo": True} if votes:
                votes.pop()
            case {"opened": True}:
                opened = True
    return votes, opened


def count_differing(pairs: Sequence[AnswerPair]) -> int:
    return sum(pair.first != pair.second for pair in pairs)


def export_votes(session: BlindSession, path: Path, question: str = HEADLINE_QUESTION) -> int:
    """Write the votes on ``question`` as preference pairs (JSON Lines), and return their number.

    The ledger records that held-out rows were exported. Raises ``InputError`` before the sides are revealed or if no vote yields a
    pair, and ``MachineError`` if the disk is full.
    """
    votes = session.choices()
    rows = tally.preference_rows(votes, question)
    if not rows:
        raise InputError(f"No vote on “{QUESTIONS[question]}” yields a preference pair: each is a tie or involves an empty answer.")
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    ids = [vote.pair.id for vote in votes if vote.question == question and vote.choice != "tie"]
    ledger.record(ledger.ledger_path(session.evaluation), "export", session.evaluation.name, ids)
    return len(rows)
