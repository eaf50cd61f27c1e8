"""A conversation: turns, a system prompt, and an adapter that may change. Does not import mlx, because the CLI and app use it.

The engine caches the model's state of the conversation per adapter (``prompt_cache.py``), so only new turns are computed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.core.files import disk_errors
from mlxtune.data.rows import Message
from mlxtune.serving.client import Client, EventListener, PendingAnswer
from mlxtune.serving.protocol import GREEDY, FinishReason, Sampling


@dataclass
class ChatSession:
    """A conversation. ``system`` and ``adapter`` may be empty."""

    system: str = ""
    adapter: str = ""
    sampling: Sampling = GREEDY
    turns: list[Message] = field(default_factory=list)  # of user and assistant, in turn
    custom_system: bool = False  # the user chose the system prompt (or none), so it is kept when the adapter changes
    effort: str = ""  # OpenAI's; if empty, an adapter reasons as in its training, and the base does not
    cut_off: set[int] = field(default_factory=set)  # indices of the turns that the token limit or the user ended

    @property
    def messages(self) -> list[Message]:
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    def ask(
        self, client: Client, text: str, *, adapter: str | None = None, again: bool = False, on_event: EventListener | None = None
    ) -> PendingAnswer:
        """Send ``text`` after the conversation so far, optionally to another ``adapter``. Does not change the conversation.

        If ``text`` is its last question, asked ``again``, the conversation is sent as it was before that question.
        """
        name = self.adapter if adapter is None else adapter
        messages = [*(self.messages[:-2] if again else self.messages), Message("user", text)]
        return client.ask(messages, adapter=name, sampling=self.sampling, effort=self.effort, on_event=on_event)

    def add(self, text: str, answer: str, reasoning: str = "", ended: FinishReason = "stop") -> None:
        """Append a question and its answer, with the ``reasoning`` before it. The template decides whether later turns see it."""
        extra = {"reasoning_content": reasoning} if reasoning else {}
        self.turns += [Message("user", text), Message("assistant", answer, extra)]
        if ended in ("length", "cancelled"):
            self.cut_off.add(len(self.turns) - 1)

    def use_adapter(self, adapter: str, system: str) -> None:
        """Switch to ``adapter``, and to the ``system`` prompt of its training rows unless the user set one."""
        self.adapter = adapter
        if system and not self.custom_system:
            self.system = system

    def set_system(self, system: str) -> None:
        self.system, self.custom_system = system, True

    def undo(self) -> str:
        """Remove the last question and its answer, and return the question, or an empty string if there is none."""
        if not self.turns:
            return ""
        question, _ = self.turns[-2:]
        self.cut_off.discard(len(self.turns) - 1)
        del self.turns[-2:]
        return question.content

    def reset(self) -> None:
        """Remove all turns. The system prompt and the adapter are kept."""
        self.turns.clear()
        self.cut_off.clear()

    def training_row(self, correction: str | None = None) -> dict[str, Any]:
        """Return the conversation as a training row, with its last answer corrected. Raises ``InputError`` if a text is empty."""
        if not self.turns:
            raise InputError("The conversation is empty, so there is no row to save.")
        if not all(turn.content.strip() for turn in self.turns):
            raise InputError("An answer is empty, so the row would teach nothing.", hint="Remove its question first, with /undo.")
        messages = [message.as_dict() for message in self.messages]
        if correction is not None:
            messages[-1] = {"role": "assistant", "content": correction}
        return {"messages": messages}

    def save_row(self, file: Path) -> bool:
        """Append the conversation to ``file``, and return whether an answer in it was cut off.

        Raises the same errors as :meth:`training_row`, and ``MachineError`` when the disk is full.
        """
        _append(file, self.training_row())
        return bool(self.cut_off)

    def save_correction(self, text: str, rows: Path, pairs: Path) -> bool:
        """Append the conversation with ``text`` as its last answer to ``rows``, and the preference pair to ``pairs``.

        Returns whether an earlier answer was cut off. Raises ``InputError`` when the conversation is empty or ``text`` is identical to the answer.
        """
        row, answer = self.training_row(text), self.turns[-1].content
        if text.strip() == answer.strip():
            raise InputError("The answer is unchanged, so there is no pair.", hint="Save it as a row.")
        _append(rows, row)
        _append(pairs, {"prompt": row["messages"][:-1], "chosen": text, "rejected": answer})
        return bool(self.cut_off - {len(self.turns) - 1})


def _append(file: Path, row: Mapping[str, Any]) -> None:
    line = json.dumps(row, ensure_ascii=False) + "\n"
    try:
        with disk_errors(str(file)):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as rows:
                rows.write(line)
    except (OSError, UnicodeEncodeError) as error:
        raise InputError(f"Cannot write to {file}: {error}.") from error
