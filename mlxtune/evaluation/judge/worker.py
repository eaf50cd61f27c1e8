"""The local judge's process: ``python -m mlxtune.evaluation.judge.worker MODEL_FOLDER``.

It says a line of JSON when the model is loaded, then answers each line, a batch of conversations, with a line ``{"replies"}``, until its
input ends. An error that the user can read is a line ``{"error", "mend", "code"}``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.errors import MlxtuneError, TemplateError
from mlxtune.data.rows import Message
from mlxtune.models import blas
from mlxtune.models.resolve import resolve
from mlxtune.runs.locks import lease

if TYPE_CHECKING:
    from mlxtune.models.template import ChatTemplate

REPLY_TOKENS = 384  # a quote and a verdict; what rambles on is unreadable anyway

Tell = Callable[..., None]


def answer(base: str, questions: Any, tell: Tell) -> None:
    """Load ``base`` and answer ``questions``, lines of conversations, with :func:`tell`. Raises ``ModelError`` when it cannot be loaded."""
    from mlxtune.models.generate import generate  # these import mlx, which must come after the BLAS
    from mlxtune.models.load import load
    from mlxtune.models.template import ChatTemplate

    loaded = load(resolve(base))
    template = ChatTemplate(loaded.tokenizer)
    tell(path=loaded.path)
    for line in questions:
        prompts = [
            _prompt(template, [Message(turn["role"], _whole(turn["content"])) for turn in asked]) for asked in json.loads(line)
        ]
        replies = generate(
            loaded.model, loaded.tokenizer, prompts, max_tokens=REPLY_TOKENS, stops=template.stops, batch_size=len(prompts)
        )
        tell(replies=[text for text, _ in replies])


def _prompt(template: ChatTemplate, messages: list[Message]) -> list[int]:
    try:
        return template.prompt(messages)
    except TemplateError:  # some templates know no system turn
        return template.prompt([Message("user", "\n\n".join(message.content for message in messages))])


def _whole(text: str) -> str:
    """``text`` as UTF-8 can hold it, which no tokenizer goes without: a half surrogate is a question mark."""
    return text.encode("utf-8", "replace").decode()


def main() -> int:
    """Entry point. Standard output is kept for replies: whatever else is printed goes to the log."""
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(**fields: Any) -> None:
        said.write(json.dumps(fields) + "\n")
        said.flush()

    blas.preload()
    try:
        with lease(f"a judge in {Path.cwd()}"):
            answer(sys.argv[1], sys.stdin.buffer, tell)
    except MlxtuneError as error:
        tell(error=error.message, mend=error.mend, code=error.exit_code)
        return error.exit_code
    except BrokenPipeError:  # nobody asks any more
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
