"""A local model as the judge, in a process of its own, whose end frees the model's memory.

The process, ``python -m mlxtune.evaluation.judge.local BATCH_SIZE``, answers one ``load`` request, then ``reply`` requests in batches (see
``core.child_process``). Questions that several threads ask at the same time are answered in one batch.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from mlxtune.core.child_process import Channel, ChildProcess, Request, run_session
from mlxtune.core.errors import InputError, MlxtuneError, ModelError
from mlxtune.evaluation.judge import rubric
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.runs.locks import accelerator_lease

LOG = "worker.log"
BATCH_SIZE = 16  # questions answered in one batch
REPLY_TOKENS = 384  # a quote and a verdict, for a model whose replies no grammar constrains
THINKING_TOKENS = 2048  # limit for a judge whose reasoning cannot be turned off
_GATHER = 0.05  # seconds that a batch waits for one more request


class LocalJudge(ChildProcess):
    """An :data:`AskJudge` that decodes greedily with one loaded model. Leaving its ``with`` block ends the process."""

    def __init__(self, model: Path, folder: Path) -> None:
        """Load the model in the folder ``model``; the process logs to ``worker.log`` in ``folder``.

        Raises any error from loading, and ``MachineError`` if the process dies or the accelerator is in use.
        """
        log, module = folder / LOG, "mlxtune.evaluation.judge.local"
        super().__init__(module, str(BATCH_SIZE), name="The judge process", hint=f"Its log: {log}", log=log)
        try:
            self.path = str(self.call("load", {"model": str(model)}))
        except BaseException:
            self.close()
            raise

    def __call__(self, messages: list[dict[str, str]]) -> str:
        """Return the reply to ``messages``. Raises ``MachineError`` if the process died, and chat template errors."""
        return str(self.call("reply", {"messages": messages}))


def answer_requests(channel: Channel, load_request: Request, batch_size: int) -> None:
    """Load the model that ``load_request`` names and answer requests in batches. Raises ``ModelError`` if it cannot be loaded.

    A grammar constrains the replies where that is possible, because small models write few readable ones without it.
    """
    from mlxtune.models.generate import GenerationSettings, PromptGroup, generate  # these import mlx, which must follow the BLAS
    from mlxtune.models.grammar import Grammar
    from mlxtune.models.load import load
    from mlxtune.models.template import ChatTemplate

    loaded = load(resolve(load_request.params["model"]))
    template, grammar = ChatTemplate(loaded.tokenizer), None
    with suppress(InputError, ModelError):  # llguidance is not installed, or does not support the tokenizer
        grammar = Grammar(loaded.tokenizer, rubric.REPLY_SCHEMA, template.stop_tokens)
    load_request.result(loaded.description)
    while batch := channel.receive_batch(batch_size, _GATHER):
        try:
            prompts = [template.question(request.params["messages"]) for request in batch]
            settings = GenerationSettings(
                max_tokens=REPLY_TOKENS, stops=template.stop_tokens, batch_size=len(prompts), grammar=grammar,
                thinking_tokens=template.thinking_limit(THINKING_TOKENS), thought_starts=template.thought_starts,
            )  # fmt: skip
            try:
                outputs = generate(loaded.model, loaded.tokenizer, [PromptGroup(prompts, settings)])
            except ModelError:  # the architecture does not support grammars
                grammar = None
                outputs = generate(loaded.model, loaded.tokenizer, [PromptGroup(prompts, replace(settings, grammar=None))])
        except MlxtuneError as error:
            for request in batch:
                request.error(error)
            continue
        for request, output in zip(batch, outputs, strict=True):
            request.result(output.text)


def main() -> int:
    channel = Channel()

    def session(load_request: Request) -> None:
        blas.preload()
        with accelerator_lease("judge", Path.cwd()):
            answer_requests(channel, load_request, int(sys.argv[1]))

    return run_session(channel, session)


if __name__ == "__main__":
    sys.exit(main())
