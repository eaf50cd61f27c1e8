"""The Chat room's service: choose an adapter, run the model's process, and keep the conversation."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from mlxtune.adapters import library
from mlxtune.adapters.entry import AdapterEntry
from mlxtune.core.errors import InputError, MlxtuneError, ModelError
from mlxtune.core.text import one_line, safe_text
from mlxtune.data.rows import Message
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.drilldown import Drilldown
from mlxtune.evaluation.report import load
from mlxtune.evaluation.scorers import CONTRACT, ModelAnswer, Score
from mlxtune.models.resolve import is_local
from mlxtune.present.labels import saved
from mlxtune.recipe import Recipe
from mlxtune.serving.chat_session import ChatSession
from mlxtune.serving.client import Client, PendingAnswer
from mlxtune.serving.protocol import Done, Event, Failed, Piece, Ready
from mlxtune.tui.paths import base_name

State = Literal["idle", "loading", "ready", "failed"]
_SHOWN = 3  # answers of its evaluation
ROWS, PAIRS = Path("data/chat.jsonl"), Path("data/chat-pairs.jsonl")  # files that saved conversations are appended to


@dataclass(frozen=True)
class AdapterOption:
    """An adapter to chat with. An empty ``name`` means the base alone. ``system`` is the system prompt of its training rows, and
    ``answered`` has questions of its evaluation with its answers.
    """

    key: str = ""
    name: str = ""
    about: str = ""
    system: str = ""
    answered: tuple[tuple[str, str], ...] = ()


BASE_ALONE = AdapterOption()


@dataclass
class ChatReply:
    """One answer by ``adapter``, streamed into ``text`` after its ``reasoning``. ``done`` or ``error`` is set when it ends,
    or ``unloaded`` if the model was unloaded before that. ``score`` says whether a finished answer meets the contract."""

    adapter: str
    text: str = ""
    reasoning: str = ""
    done: Done | None = None
    score: Score | None = None
    error: str = ""
    unloaded: bool = False

    @property
    def streaming(self) -> bool:
        return self.done is None and not self.error and not self.unloaded


@dataclass
class Exchange:
    """A question and its replies: one, or base and adapter side by side. The last reply becomes part of the conversation."""

    question: str
    replies: list[ChatReply] = field(default_factory=list)

    @property
    def streaming(self) -> bool:
        return any(reply.streaming for reply in self.replies)

    @property
    def in_conversation(self) -> bool:
        """Whether the question and the last reply are part of the conversation."""
        return bool(self.replies[-1].done and self.replies[-1].text)


def default_adapter(workspace: Path, selected: str, best_run: str, base: str) -> AdapterOption:
    """Return the adapter with the key ``selected``, the one from ``best_run``, or the newest usable one for ``base``."""
    best = best_run if "@" in best_run else best_run and f"runs/{best_run}/adapter"
    for which, about in ((selected, "the adapter you selected"), (best, "the best adapter so far")):
        with suppress(InputError):
            if which:
                entry = library.find_usable(workspace, which)
                return replace(_option(entry, about), answered=_answered(entry))
    newest = (entry for entry in library.all_adapters(workspace) if not entry.problem and entry.base == base)
    return next((_option(entry, f"the newest adapter for {base_name(base)}") for entry in newest), BASE_ALONE)


def _answered(entry: AdapterEntry) -> tuple[tuple[str, str], ...]:
    """Return the first questions that the adapter answered right in its evaluation, with its answers."""
    with suppress(MlxtuneError, OSError):
        if entry.score and entry.score.folder:
            report, drilldown = load(entry.score.folder), Drilldown(entry.score.folder)
            arm = report.subject.name
            rows = drilldown.rows_for(report.headline_metric, arm, passed=True)[:_SHOWN]
            return tuple((row.row.prompt[-1].content, row.answers[arm].output) for row in rows)
    return ()


def compatible_adapters(workspace: Path, fingerprint: str) -> list[AdapterOption]:
    return [_option(entry, f"{entry.kind} {entry.rank}") for entry in library.compatible_adapters(workspace, fingerprint)]


def _option(entry: AdapterEntry, about: str) -> AdapterOption:
    return AdapterOption(entry.key, entry.name, one_line(about), entry.system)


def resolve(workspace: Path, key: str, base: str, folder: Path) -> tuple[str, AdapterOption]:
    """Return the base to load and the adapter with ``key``, or ``base`` alone. Relative paths start at ``folder``.

    Raise ``InputError`` or ``ModelError`` if the adapter is unusable or the base is not on this machine.
    """
    entry = library.find_usable(workspace, key) if key else None
    name = library.base_of(entry) if entry else base
    if not is_local(name, relative_to=folder):
        raise ModelError(f"{one_line(name, 80)} is not on this machine.", hint=f"Run: mlxtune models pull {one_line(name, 80)}")
    path = folder / Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name, _option(entry, "") if entry else BASE_ALONE


def contract_of(recipe: Recipe | None) -> Contract | None:
    """Return the recipe's contract, or ``None`` if it has none or its schema or a pattern is unusable."""
    with suppress(MlxtuneError):
        return Contract.from_recipe(recipe) if recipe and recipe.has_contract else None
    return None


class ChatService:
    """One model process and one conversation. ``on_change`` is called from any thread after every change."""

    def __init__(self, workspace: Path, on_change: Callable[[], object]) -> None:
        self.workspace = workspace
        self.state: State = "idle"
        self.error: MlxtuneError | None = None
        self.ready: Ready | None = None
        self.exchanges: list[Exchange] = []
        # the last conversation, with its session's turns
        self.discarded: tuple[list[Exchange], list[Message], set[int]] | None = None
        self.session = ChatSession()
        self.contract: Contract | None = None
        self._on_change = on_change
        self._client: Client | None = None
        self._answers: list[PendingAnswer] = []  # to the last question

    @property
    def adapter(self) -> str:
        """The active adapter's name, or an empty string for the base."""
        return self.session.adapter

    @property
    def streaming(self) -> bool:
        return bool(self.exchanges) and self.exchanges[-1].streaming

    @property
    def last_answer(self) -> str:
        return self.session.turns[-1].content if self.session.turns else ""

    def start(self, base: str, adapter: AdapterOption = BASE_ALONE, *, share_accelerator: bool = False) -> None:
        """Load ``base`` in a child process. ``share_accelerator`` allows it while a training run uses the accelerator."""
        self.close()
        self.state, self.error, self.ready = "loading", None, None
        self.use(adapter)
        self._client = Client(base, self.workspace, share_accelerator=share_accelerator, slots=2, on_event=self._on_process_event)

    def close(self) -> None:
        """End the process and free its memory. The conversation is kept, and a reply that is being generated remains incomplete."""
        client, self._client, self._answers, self.state = self._client, None, [], "idle"
        if client:
            client.close()

    def is_idle(self) -> bool:
        """Return whether there is a process, and it is not answering."""
        return self.state in ("loading", "ready") and not self.streaming

    def unload_if_idle(self) -> None:
        """End the process if there is one, like :meth:`close`, unless it is answering."""
        if self.is_idle():
            self.close()
            self._on_change()

    def ask(self, question: str, *, with_base: bool = False) -> None:
        if self._client is None or self.streaming:
            return
        adapters = ["", self.adapter] if with_base and self.adapter else [self.adapter]
        exchange = Exchange(question, [ChatReply(name) for name in adapters])
        self.exchanges.append(exchange)
        self.discarded, self._answers = None, []
        for reply in exchange.replies:
            self._request(self._client, exchange, reply)

    def ask_base(self) -> bool:
        """Send the last question to the base as well, if only an adapter has answered it. Return whether it was sent."""
        exchange = self.exchanges[-1] if self.exchanges and not self.streaming else None
        if self._client is None or exchange is None or len(exchange.replies) > 1 or not exchange.replies[0].adapter:
            return False
        again, self._answers = exchange.in_conversation, []
        exchange.replies.insert(0, ChatReply(""))
        self._request(self._client, exchange, exchange.replies[0], again=again)
        return True

    def _request(self, client: Client, exchange: Exchange, reply: ChatReply, *, again: bool = False) -> None:
        listener = partial(self._on_reply_event, exchange, reply)
        self._answers.append(self.session.ask(client, exchange.question, adapter=reply.adapter, again=again, on_event=listener))
        self._on_change()

    def cancel(self) -> None:
        for answer in self._answers if self.streaming else ():
            answer.cancel()

    def use(self, adapter: AdapterOption) -> None:
        self.session.use_adapter(adapter.name, adapter.system)

    def undo(self) -> str:
        if self.streaming or not self.exchanges:
            return ""
        exchange = self.exchanges.pop()
        if exchange.in_conversation:
            self.session.undo()
        return exchange.question

    def reset(self) -> None:
        """Start a new conversation. :meth:`restore` brings this one back until a question is asked."""
        if not self.streaming:
            self.discarded = self.exchanges, list(self.session.turns), set(self.session.cut_off)
            self.exchanges = []
            self.session.reset()

    def restore(self) -> None:
        if self.discarded is not None:
            self.exchanges, self.session.turns, self.session.cut_off = self.discarded
            self.discarded = None

    def save(self, text: str) -> str:
        """Append the conversation, with ``text`` as its last answer, to the training rows; return a message with the file.

        If ``text`` differs from the model's answer, the two are also appended as a preference pair. Raise ``InputError`` if
        there is nothing to save and ``MachineError`` if the disk is full.
        """
        if text.strip() == self.last_answer.strip():
            return saved(ROWS, self.session.save_row(self.workspace / ROWS))
        return saved(ROWS, self.session.save_correction(text, self.workspace / ROWS, self.workspace / PAIRS), PAIRS)

    def _on_process_event(self, event: Event) -> None:
        match event:
            case Ready():
                self.ready, self.state = event, "ready"
            case Failed():
                self.error, self.state = event.error, "failed"
        self._on_change()

    def _on_reply_event(self, exchange: Exchange, reply: ChatReply, event: Event) -> None:
        match event:
            case Piece(reasoning=True):
                reply.reasoning += safe_text(event.text)
            case Piece():
                reply.text += safe_text(event.text)
            case Failed():
                if self._client is None:
                    reply.unloaded = True
                else:
                    reply.error = one_line(f"{event.error.message} {event.error.hint}")
            case Done():
                if reply is exchange.replies[-1] and reply.text:
                    self.session.add(exchange.question, reply.text, reply.reasoning.rstrip(), event.ended)
                reply.score = self._score(exchange.question, reply.text, event)
                reply.done = event
        self._on_change()

    def _score(self, question: str, answer: str, done: Done) -> Score | None:
        """Score a finished answer by the contract, as far as that is possible without a reference."""
        if self.contract is None or done.ended == "cancelled":
            return None
        scores = self.contract.score(ModelAnswer(answer, done.ended, prompt=question))
        return scores[CONTRACT] if scores.keys() & set(self.contract.required_metrics) else None
