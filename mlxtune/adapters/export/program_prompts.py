"""Compare the prompts of training with those that programs render from an export, each with its own code and nothing but messages."""

from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_lm.tokenizer_utils import TokenizerWrapper
from mlx_lm.utils import load_tokenizer
from transformers import AutoTokenizer

from mlxtune.adapters.export.endpoint_prompts import rendered_prompt
from mlxtune.adapters.export.fidelity import PromptDifference, compare_tokens
from mlxtune.adapters.export.llama_server import LlamaSettings, llama_server
from mlxtune.core.text import one_line
from mlxtune.data.rows import PromptRow
from mlxtune.models.portable import plain_messages, probes
from mlxtune.models.template import ChatTemplate

Program = Callable[[PromptRow], list[int]]  # the tokens of a row's prompt, as a program renders it


def folder_difference(
    chat: ChatTemplate, folder: Path, rows: Sequence[PromptRow] = (), template: str = ""
) -> PromptDifference | None:
    """Return where transformers and mlx-lm render a prompt from ``folder`` differently than in training, or ``None`` if they do not.

    Prompts of ``rows`` are compared, and of conversations of several kinds. ``template`` is what the user names in addition.
    """
    transformers, mlx_lm = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder)
    return _difference(chat, rows, _renderer(transformers, template)) or _difference(chat, rows, _renderer(mlx_lm, template))


def gguf_difference(chat: ChatTemplate, file: Path, rows: Sequence[PromptRow] = ()) -> PromptDifference | None:
    """Do the same with llama.cpp and a GGUF file."""
    with llama_server(LlamaSettings(str(file))) as url:
        return _difference(chat, rows, lambda row: rendered_prompt(f"{url}/v1", "", row, lambda text: []) or [])


def _renderer(tokenizer: TokenizerWrapper, template: str) -> Program:
    replaced = {"chat_template": template} if template else {}

    def render(row: PromptRow) -> list[int]:
        tokens: list[int] = tokenizer.apply_chat_template(
            plain_messages(row), tools=list(row.tools) or None, add_generation_prompt=True, return_dict=False, **replaced
        )
        return tokens

    return render


def _difference(chat: ChatTemplate, rows: Sequence[PromptRow], program: Program) -> PromptDifference | None:
    """Compare the rows that can be trained. Control tokens that a user typed are text only for the trainer, so such rows are left out."""
    untyped = [row for row in rows if not chat.control.typed_in([plain_messages(row), list(row.tools)])]
    for row, expected in chat.rendered_prompts([*probes(chat.dialect, chat.settings.thinking), *untyped]):
        try:
            actual = program(row)
        except Exception as error:  # a template is a program and may raise anything
            return PromptDifference(row.id, 0, chat.tokenizer.decode(expected[:1]), one_line(str(error), 80))
        if difference := compare_tokens(row.id, expected, actual, chat.tokenizer.decode):
            return difference
    return None
