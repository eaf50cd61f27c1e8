"""A conversation under the Chat room: the process that computes, the session, and the answers that are being written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlxtune.core.errors import InputError, MlxtuneError, ModelError
from mlxtune.core.text import one_line, safe_text
from mlxtune.tui.names import base_name

if TYPE_CHECKING:
    from mlxtune.serving.client import Answer, Client
    from mlxtune.serving.protocol import Done, Event, Ready
    from mlxtune.serving.session import Session

State = Literal["away", "loading", "ready", "failed"]
ROWS, PAIRS = Path("data/chat.jsonl"), Path("data/chat-pairs.jsonl")  # where what was said is kept


@dataclass(frozen=True)
class Subject:
    """What is talked to: a base as the process is told it, and an adapter of it, empty for none."""

    base: str
    adapter: str = ""


@dataclass
class Side:
    """One answer: of ``adapter``, as far as it has come; ``done`` or ``error`` once it has ended."""

    adapter: str
    text: str = ""
    done: Done | None = None
    error: str = ""
    answer: Answer | None = None

    @property
    def writing(self) -> bool:
        return self.done is None and not self.error


@dataclass
class Exchange:
    """A question and its answers: one, or those of the base and of the adapter side by side, of which the last goes on."""

    question: str
    sides: list[Side] = field(default_factory=list)

    @property
    def writing(self) -> bool:
        return any(side.writing for side in self.sides)


def subject(workspace: Path, key: str | None, base: str, near: Path) -> Subject:
    """The adapter at ``key`` on its own base, or the ``base`` that a recipe in ``near`` names; only what is on this machine.

    Raises ``InputError`` or ``ModelError`` when it is not, or cannot be used.
    """
    from mlxtune.adapters import library
    from mlxtune.models.resolve import here
    from mlxtune.serving import shelf

    found = library.usable(workspace, key) if key else None
    named = shelf.base_of(found) if found else base
    if not here(named, near=near):
        raise ModelError(f"{one_line(named, 80)} is not on this machine.", mend=f"mlxtune models pull {one_line(named, 80)}")
    place = near / Path(named).expanduser()
    return Subject(str(place.resolve()) if place.is_dir() else named, found.name if found else "")


@dataclass(frozen=True)
class Offer:
    """What is talked to unless something else is asked for: an adapter, by its key and its name, and what it is; all empty for a base."""

    key: str = ""
    name: str = ""
    about: str = ""


def offer(workspace: Path, asked: str, best: str, base: str) -> Offer:
    """The adapter at the key ``asked``, else that of the run ``best``, else the newest of ``base`` that can be used; or none."""
    from mlxtune.adapters import library

    usable = [entry for entry in library.all_adapters(workspace) if not entry.problem]
    asked_for = [entry for entry in usable if entry.key == asked]
    proved = [entry for entry in usable if best and entry.key == f"runs/{best}/adapter"]
    fitting = [entry for entry in usable if entry.base == base]
    about = (
        (asked_for, "the adapter that you chose"),
        (proved, "the best adapter so far"),
        (fitting, f"the newest of {base_name(base)}"),
    )
    found = (Offer(entry.key, one_line(entry.name), what) for entries, what in about for entry in entries)
    return next(found, Offer())


def _system(workspace: Path, adapter: str) -> str:
    """The system prompt that the rows of ``adapter`` share; empty where they do not, for the base, and for one that is gone."""
    from mlxtune.adapters import library

    try:
        return library.find(workspace, adapter).system if adapter else ""
    except InputError:
        return ""


@dataclass(frozen=True)
class Answerer:
    """An adapter that can answer: what is said of it, and the system prompt that its rows share."""

    name: str
    about: str = ""
    system: str = ""


def answerers(workspace: Path, fingerprint: str) -> list[Answerer]:
    """The adapters that fit the loaded base."""
    from mlxtune.serving import shelf

    fitting = shelf.fitting(workspace, fingerprint)
    return [Answerer(entry.name, one_line(f"{entry.kind} {entry.rank}"), entry.system) for entry in fitting]


class Talk:
    """``news`` is called, in whatever thread, after everything that happens."""

    def __init__(self, workspace: Path, news: Callable[[], object]) -> None:
        self.workspace = workspace
        self.state: State = "away"
        self.error: MlxtuneError | None = None
        self.ready: Ready | None = None
        self.exchanges: list[Exchange] = []
        self._news = news
        self._client: Client | None = None
        self._session: Session | None = None

    @property
    def adapter(self) -> str:
        """The adapter that answers; empty for the base."""
        return self._session.adapter if self._session else ""

    @property
    def system(self) -> str:
        """The system prompt; empty where there is none."""
        return self._session.system if self._session else ""

    @property
    def writing(self) -> bool:
        return bool(self.exchanges) and self.exchanges[-1].writing

    def start(self, about: Subject, *, beside: bool = False) -> None:
        """Load a base in a process of its own. ``beside`` lets it run though a training run has the accelerator."""
        from mlxtune.serving.client import Client
        from mlxtune.serving.session import Session

        self.close()
        kept = self._session
        self.state, self.error, self.ready = "loading", None, None
        self._session = kept or Session()
        self._session.use(about.adapter, _system(self.workspace, about.adapter))
        self._client = Client(about.base, self.workspace, beside=beside, exact=True, slots=2, tell=self._process)

    def close(self) -> None:
        """End the process, so that its memory is free; what was said stays."""
        if self._client:
            self._client.close()
        self._client, self.state = None, "away"

    def ask(self, question: str, *, both: bool = False) -> None:
        """Ask, and with ``both`` the base as well."""
        if self._client is None or self._session is None or self.writing:
            return
        named = ["", self.adapter] if both and self.adapter else [self.adapter]
        exchange = Exchange(question, [Side(name) for name in named])
        self.exchanges.append(exchange)
        for side in exchange.sides:
            hear = partial(self._hear, exchange, side)
            side.answer = self._session.ask(self._client, question, adapter=side.adapter, tell=hear)
        self._news()

    def stop(self) -> None:
        """Ask for no more of what is being written."""
        for side in self.exchanges[-1].sides if self.exchanges else ():
            if side.writing and side.answer:
                side.answer.cancel()

    def use(self, other: Answerer) -> None:
        """Let another adapter answer from here on; one without a name is the base."""
        if self._session:
            self._session.use(other.name, other.system)

    def instruct(self, system: str) -> None:
        """Another system prompt from here on."""
        if self._session:
            self._session.instruct(system)

    def undo(self) -> str:
        """Take the last question and what was answered back; the question."""
        if self.writing or not self.exchanges or self._session is None:
            return ""
        gone = self.exchanges.pop()
        if gone.sides[-1].done and gone.sides[-1].text:
            self._session.undo()
        return gone.question

    def reset(self) -> None:
        """Begin again; system prompt and adapter stay."""
        if not self.writing and self._session:
            self.exchanges.clear()
            self._session.reset()

    @property
    def last(self) -> str:
        """The last answer that is part of the conversation; empty where there is none."""
        return self._session.turns[-1].content if self._session and self._session.turns else ""

    def keep(self, text: str) -> str:
        """Keep the conversation as a training row; with another last answer than was given, as a row and a pair. Says where.

        Raises ``InputError`` when there is nothing to keep, ``MachineError`` when the disk is full.
        """
        from mlxtune.serving.keep import keep_mended, keep_row

        if self._session is None:
            raise InputError("Nothing was said yet, so there is no row to save.")
        if text.strip() == self.last.strip():
            keep_row(self._session, self.workspace / ROWS)
            return f"A row was added to {ROWS}."
        keep_mended(self._session, text, self.workspace / ROWS, self.workspace / PAIRS)
        return f"The mended answer was added to {ROWS}, and as a pair to {PAIRS}."

    # What the process says, in a thread of its own

    def _process(self, event: Event) -> None:
        from mlxtune.serving.protocol import Failed, Ready

        match event:
            case Ready():
                self.ready, self.state = event, "ready"
            case Failed():
                self.error, self.state = event.as_error(), "failed"
        self._news()

    def _hear(self, exchange: Exchange, side: Side, event: Event) -> None:
        from mlxtune.serving.protocol import Done, Failed, Piece

        match event:
            case Piece():
                side.text += safe_text(event.text)
            case Failed():
                side.error = one_line(f"{event.error} {event.mend}")
            case Done():
                if side is exchange.sides[-1] and side.text and self._session:
                    self._session.add(exchange.question, side.text)
                side.done = event
        self._news()
