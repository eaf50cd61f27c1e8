"""Compare the prompts of training with those that programs render from an export, each with its own code and nothing but messages.

Runs as the child process of ``adapters.publish``, which freezes the chat template that an adapter was trained with.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from mlxtune.adapters.export.endpoint_prompts import rendered_prompt
from mlxtune.adapters.export.fidelity import PromptDifference, compare_tokens
from mlxtune.adapters.export.llama_server import LlamaSettings, llama_server
from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import GateError
from mlxtune.core.text import one_line
from mlxtune.data.rows import PromptRow
from mlxtune.models.portable import plain_messages, plain_prompt
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template


def folder_difference(
    chat: ChatTemplate, folder: Path, rows: Sequence[PromptRow] = (), template: str = ""
) -> PromptDifference | None:
    """Return where transformers and mlx-lm render a prompt from ``folder`` differently than in training, or ``None`` if they do not.

    Prompts of ``rows`` are compared, and of conversations of several kinds. ``template`` is what the user names in addition.
    """
    rendered = chat.rendered_prompts(rows)
    tokenizers = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    found = (prompt_difference(chat, rendered, partial(plain_prompt, one, template=template)) for one in tokenizers)
    return next(filter(None, found), None)


def gguf_difference(chat: ChatTemplate, file: Path, rows: Sequence[PromptRow] = ()) -> PromptDifference | None:
    """Do the same with llama.cpp and a GGUF file."""
    rendered = chat.rendered_prompts(rows)
    with llama_server(LlamaSettings(str(file))) as url:
        return prompt_difference(chat, rendered, lambda row: rendered_prompt(f"{url}/v1", "", row, lambda text: []) or [])


def prompt_difference(
    chat: ChatTemplate, rendered: Iterable[tuple[PromptRow, list[int]]], program: Callable[[PromptRow], list[int]]
) -> PromptDifference | None:
    """Return where ``program`` first renders a row differently than as the ``rendered`` tokens, or ``None``.

    Control tokens that a user typed are text only for the trainer, so rows with them are left out.
    """
    for row, expected in rendered:
        if chat.control.typed_in([plain_messages(row), list(row.tools)]):
            continue
        try:
            actual = program(row)
        except Exception as error:  # a template is a program and may raise anything
            return PromptDifference(row.id, 0, chat.tokenizer.decode(expected[:1]), one_line(str(error), 80))
        if difference := compare_tokens(row.id, expected, actual, chat.tokenizer.decode):
            return difference
    return None


def _freeze(request: Request) -> str:
    """Return the frozen template, empty if there is none. Raise ``GateError`` if transformers or mlx-lm render it differently."""
    params = request.params
    source = resolve(params["base"], fetch=False)
    chat = load_template(source, TemplateSettings(params["thinking"], params["date"], params["template"]))
    frozen = chat.frozen_source
    if frozen and folder_difference(chat, Path(source.folder), template=frozen):
        hint = "Name a template in model.template that renders them alike, and train again."
        raise GateError(f"Other programs render the prompts of {source.name} differently than in training.", hint=hint)
    return frozen


if __name__ == "__main__":
    sys.exit(serve({"freeze": _freeze}))
