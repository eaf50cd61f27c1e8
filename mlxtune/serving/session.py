"""A conversation as a person has it: turns, a system prompt, an adapter that may change in the middle. No mlx here: faces read it.

What the model has read of it is kept by the engine, per adapter (``kept.py``): as long as the adapter stays only the new turn is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.serving.client import Answer, Client, Tell
from mlxtune.serving.protocol import GREEDY, Sampling


@dataclass
class Session:
    """``turns`` alternate between user and assistant; ``system`` and ``adapter`` are empty where there is none.

    ``own`` says that the user chose the system prompt, or none: then it stays, whatever the adapter.
    """

    system: str = ""
    adapter: str = ""
    sampling: Sampling = GREEDY
    turns: list[Message] = field(default_factory=list)
    own: bool = False

    @property
    def messages(self) -> list[Message]:
        """All that is said so far, the system prompt first."""
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    def ask(self, client: Client, text: str, *, adapter: str | None = None, tell: Tell | None = None) -> Answer:
        """Ask ``text`` behind what was said so far, with another ``adapter`` if one is given, say to compare.

        The conversation does not change: see :meth:`add`.
        """
        named = self.adapter if adapter is None else adapter
        return client.ask([*self.messages, Message("user", text)], adapter=named, sampling=self.sampling, tell=tell)

    def add(self, text: str, answer: str) -> None:
        """Let the question and what was answered be part of the conversation."""
        self.turns += [Message("user", text), Message("assistant", answer)]

    def use(self, adapter: str, system: str) -> None:
        """Let ``adapter`` answer from here on, asked as its rows are: with their ``system`` prompt, unless the user gave another."""
        self.adapter = adapter
        if system and not self.own:
            self.system = system

    def instruct(self, system: str) -> None:
        """Take the user's ``system`` prompt from here on; empty for none."""
        self.system, self.own = system, True

    def undo(self) -> str:
        """Take the last question and its answer back, and return the question; empty where there is none."""
        if not self.turns:
            return ""
        question, _ = self.turns[-2:]
        del self.turns[-2:]
        return question.content

    def reset(self) -> None:
        """Forget what was said; system prompt and adapter stay."""
        self.turns.clear()

    def row(self) -> dict[str, Any]:
        """The conversation as a training row in chat format. Raises ``InputError`` while nothing was said, or with an empty answer."""
        if not self.turns:
            raise InputError("Nothing was said yet, so there is no row to save.")
        if not all(turn.content.strip() for turn in self.turns):
            raise InputError("An answer is empty, and such a row teaches nothing.", mend="Take its question back first.")
        return {"messages": [message.as_dict() for message in self.messages]}
