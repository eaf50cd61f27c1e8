"""The process of a local judge: ``python -m mlxtune.evaluation.judge.judge_worker BATCH_SIZE``.

It answers one ``load`` request, then ``reply`` requests in batches (see ``core.child_process``).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.child_process import Channel, Request, run_session
from mlxtune.core.errors import MlxtuneError, TemplateError
from mlxtune.data.rows import Message
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.runs.locks import accelerator_lease

if TYPE_CHECKING:
    from mlxtune.models.template import ChatTemplate

REPLY_TOKENS = 384  # a quote and a verdict
THINKING_TOKENS = 2048  # limit for a judge whose reasoning cannot be turned off
_GATHER = 0.05  # seconds that a batch waits for one more request


def answer_requests(channel: Channel, load_request: Request, batch_size: int) -> None:
    """Load the model that ``load_request`` names and answer requests in batches. Raises ``ModelError`` if it cannot be loaded."""
    from mlxtune.models.generate import GenerationSettings, generate  # these import mlx, which must be loaded after the BLAS
    from mlxtune.models.load import load
    from mlxtune.models.template import ChatTemplate

    loaded = load(resolve(load_request.params["model"]))
    template = ChatTemplate(loaded.tokenizer)
    load_request.result(loaded.description)
    while batch := channel.receive_batch(batch_size, _GATHER):
        try:
            prompts = [_prompt(template, request) for request in batch]
            settings = GenerationSettings(
                max_tokens=REPLY_TOKENS, stops=template.stop_tokens, batch_size=len(prompts),
                thinking_tokens=template.thinking_limit(THINKING_TOKENS),
            )  # fmt: skip
            outputs = generate(loaded.model, loaded.tokenizer, prompts, settings)
        except MlxtuneError as error:
            for request in batch:
                request.error(error)
            continue
        for request, output in zip(batch, outputs, strict=True):
            request.result(output.text)


def _prompt(template: ChatTemplate, request: Request) -> list[int]:
    messages = [Message(turn["role"], _without_surrogates(turn["content"])) for turn in request.params["messages"]]
    try:
        return template.prompt(messages)
    except TemplateError:  # some templates have no system role
        return template.prompt([Message("user", "\n\n".join(message.content for message in messages))])


def _without_surrogates(text: str) -> str:
    """Replace lone surrogates with question marks, because tokenizers need valid UTF-8."""
    return text.encode("utf-8", "replace").decode()


def main() -> int:
    """Run the judge process; return the exit code."""
    channel = Channel()

    def session(load_request: Request) -> None:
        blas.preload()
        with accelerator_lease("judge", Path.cwd()):
            answer_requests(channel, load_request, int(sys.argv[1]))

    return run_session(channel, session)


if __name__ == "__main__":
    sys.exit(main())
