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
from mlxtune.adapters.publish import TOKENIZER, copy_tokenizer
from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.text import one_line
from mlxtune.data.rows import PromptRow
from mlxtune.data.source import read_source
from mlxtune.data.split import prompt_rows, split
from mlxtune.models.portable import plain_prompt
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template
from mlxtune.runs.launch import TEMPLATE_FILE
from mlxtune.runs.registry import Run


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


def has_typed_tokens(chat: ChatTemplate, row: PromptRow) -> bool:
    """Return whether control tokens are typed in the prompt of ``row``. In training, they are text; programs read them as control tokens."""
    return bool(chat.control.typed_in([[turn.as_dict() for turn in row.prompt], list(row.tools)]))


def prompt_difference(
    chat: ChatTemplate, rendered: Iterable[tuple[PromptRow, list[int]]], program: Callable[[PromptRow], list[int]]
) -> PromptDifference | None:
    """Return where ``program`` first renders a row differently than ``rendered``, without rows with typed control tokens."""
    for row, expected in rendered:
        if has_typed_tokens(chat, row):
            continue
        try:
            actual = program(row)
        except Exception as error:  # a template is a program and may raise anything
            return PromptDifference(row.id, 0, chat.tokenizer.decode(expected[:1]), one_line(str(error), 80))
        if difference := compare_tokens(row.id, expected, actual, chat.tokenizer.decode):
            return difference
    return None


def _write(request: Request) -> list[str]:
    """Write the frozen template, for PEFT with the tokenizer. Raise ``GateError`` if programs render it differently."""
    params, folder = request.params, Path(request.params["folder"])
    source = resolve(params["base"], fetch=False)
    chat = load_template(source, TemplateSettings(params["thinking"], params["date"], params["template"]))
    has_tokenizer = params["library"] == "peft"
    files = copy_tokenizer(source, folder, chat.frozen_source, TOKENIZER if has_tokenizer else ())
    if not chat.frozen_source:
        return files
    template = "" if has_tokenizer else (folder / TEMPLATE_FILE).read_text(encoding="utf-8")
    if folder_difference(chat, folder if has_tokenizer else source.folder, _held_out_rows(params["run"]), template):
        hint = "Name a template in model.template that renders them alike, and train again."
        raise GateError(f"Other programs render the prompts of {source.name} differently than in training.", hint=hint)
    return files


def _held_out_rows(run: str) -> list[PromptRow]:
    """Return the held-out rows of the training in the folder ``run``; none if the adapter was imported, or the data is no longer there."""
    try:
        recipe = Run(Path(run)).recipe()
        return prompt_rows(split(read_source(recipe.source, recipe.data), recipe.data).prompts)
    except InputError:
        return []


if __name__ == "__main__":
    sys.exit(serve({"write": _write}))
