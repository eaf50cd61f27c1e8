"""Replay: train on the base's own answers to general prompts as well, so that the adapter forgets less.

Self-generated replay nearly removes forgetting (arXiv:2605.26097). Every other answer is greedy, which keeps the base's most likely
answers; the others are sampled at temperature 1, for which the expected gradient at the base is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import DataError, RecipeError
from mlxtune.data import samples
from mlxtune.data.rows import Conversation, Location, Message, Row, assistant_message, shared_system_prompt
from mlxtune.data.source_files import read_json_lines
from mlxtune.recipe import Recipe

SHIPPED = Path("data/samples/replay.jsonl")
MAX_TOKENS = 48  # maximum length of a replayed answer


@dataclass(frozen=True)
class ReplayPrompt:
    """A prompt that the base answers. ``seed`` is that of a sampled answer, or 0 for the greedy one."""

    location: Location
    messages: tuple[Message, ...]
    seed: int

    def row(self, answer: str) -> Conversation:
        return Conversation(self.location, {}, (*self.messages, assistant_message(answer)))


def replay_prompts(recipe: Recipe, train: Sequence[Row]) -> list[ReplayPrompt]:
    """Return the prompts of the rows to mix into ``train``, so that ``data.replay`` is their share of the training rows.

    With ``data.replay_system``, the system prompt that all of ``train`` begin with, if any, precedes prompts that have none. If
    there are fewer prompts than rows, prompts are answered again, first with the other kind of answer, then with more samples.
    Raises ``RecipeError`` for a method other than SFT, and ``DataError`` for a file that cannot be used.
    """
    share = recipe.data.replay
    if not share:
        return []
    if recipe.method.kind != "sft":
        raise RecipeError(f'data.replay cannot be used with method.kind = "{recipe.method.kind}".', hint="Set data.replay = 0.")
    setting, system = recipe.data.replay_prompts, shared_system_prompt(train) if recipe.data.replay_system else ""
    prompts = read_prompts(samples.samples_root() / SHIPPED if setting == "shipped" else recipe.path(setting))
    chosen = []
    for number in range(round(share / (1 - share) * len(train))):
        turn, index = divmod(number, len(prompts))
        location, messages = prompts[index]
        if system and not messages[0].is_system:
            messages = (Message("system", system), *messages)
        seed = turn if turn > 1 else (turn + index) % 2
        chosen.append(ReplayPrompt(location, messages, seed))
    return chosen


def read_prompts(file: Path, setting: str = "data.replay_prompts") -> list[tuple[Location, tuple[Message, ...]]]:
    """Read lines of ``{"prompt": text}`` or ``{"messages": […]}``, whose last assistant turn is ignored.

    Raises ``DataError``, whose hint names the ``setting`` that the file comes from.
    """
    prompts = [(location, _parse(value, location)) for location, value in read_json_lines(file, f"Correct {setting}.")]
    if not prompts:
        raise DataError(f"{file} has no prompts.", hint=f"Correct {setting}.")
    return prompts


def _parse(value: Any, location: Location) -> tuple[Message, ...]:
    match value:
        case {"prompt": str(prompt)} if prompt.strip():
            return (Message("user", prompt),)
        case {"messages": [*turns]}:
            messages = [
                Message(turn["role"], turn["content"], trained=False)
                for turn in turns
                if isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
            ]
            if messages and messages[-1].role == "assistant":
                messages.pop()
            if messages and messages[-1].role == "user":
                return tuple(messages)
    raise DataError(f'{location}: expected {{"prompt": …}} or {{"messages": […]}} with a user turn.')
