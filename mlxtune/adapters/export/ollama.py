"""Write a Modelfile, from which Ollama creates a model that renders prompts as the trainer did.

The format is that of https://docs.ollama.com/modelfile, as read by ``parser/parser.go`` of https://github.com/ollama/ollama: it drops characters
that are not printable, and a text ends at three double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mlxtune.adapters.export.fidelity import PromptDifference
from mlxtune.data.rows import Conversation, Message, PromptRow

if TYPE_CHECKING:  # imports mlx
    from mlxtune.models.template import ChatTemplate

MODELFILE = "Modelfile"
MIN_CONTEXT = 4096  # Ollama's default


@dataclass(frozen=True)
class ModelfileNote:
    """A limitation of a Modelfile."""

    code: Literal["turns_differ", "template_not_writable", "system_not_writable"]
    difference: PromptDifference | None = None  # an example of a prompt that is rendered differently


@dataclass(frozen=True)
class Modelfile:
    text: str
    notes: tuple[ModelfileNote, ...]


def modelfile(
    template: ChatTemplate,
    rows: Sequence[PromptRow],
    *,
    source: str,
    adapter: str = "",
    system: str = "",
    context: int = MIN_CONTEXT,
) -> Modelfile:
    """Return the Modelfile for the model ``source`` (a file, or a name in Ollama), to which the file ``adapter`` is added if set.

    Its template is included only if it renders the prompts of ``rows`` token for token as ``template`` does. ``system`` is the system turn that
    all rows share, and ``context`` the number of tokens in a conversation.
    """
    from mlxtune.adapters.export.turn_template import derive, first_difference

    notes: list[ModelfileNote] = []
    lines, bos = [f"FROM {source}"], template.added_bos
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    turns = derive(template, bos)
    difference = first_difference(template, turns, rows, bos) if turns else None
    if turns and not difference and _writable(turns.go):
        lines.append(f"TEMPLATE {_quoted(turns.go)}")
        if later := first_difference(template, turns, _several_turns(rows), bos):
            notes.append(ModelfileNote("turns_differ", later))
    else:  # recent versions of Ollama use the template in the GGUF file
        notes.append(ModelfileNote("template_not_writable", difference))
    if system and _writable(system):
        lines.append(f"SYSTEM {_quoted(system)}")
    elif system:
        notes.append(ModelfileNote("system_not_writable"))
    stops = [template.tokenizer.decode([token]) for token in sorted(template.stop_tokens)]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if _writable(stop) and '"' not in stop and stop.strip()]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {context}"]  # greedy, as evaluated
    return Modelfile("\n".join(lines) + "\n", tuple(notes))


def model_name(name: str) -> str:
    """Return an adapter's name as a model name in Ollama."""
    return re.sub(r"[^a-z0-9._-]", "-", name.lower())


def is_model_name(name: str) -> bool:
    """Return whether ``name`` can be a model's name in Ollama, so that it adds no line to a Modelfile and is no path or option."""
    return re.fullmatch(r"\w[\w.-]*(?:[:/]\w[\w.-]*){0,4}", name, re.ASCII) is not None


def create_command(name: str, folder: str, quantize: str = "") -> list[str]:
    """Return the command that creates the model ``name`` from the Modelfile in ``folder``, quantized to ``quantize`` if set."""
    quantized = ["--quantize", quantize] if quantize else []
    return ["ollama", "create", model_name(name), *quantized, "-f", f"{folder}/{MODELFILE}"]


def _several_turns(rows: Sequence[PromptRow]) -> list[PromptRow]:
    """Return the first row as a conversation of three turns, with its system turn if it has one."""
    row = rows[0]
    turns = (*row.prompt, Message("assistant", "An answer."), Message("user", "Another question?"), Message("assistant", ""))
    return [Conversation(row.location, {}, turns)]


def _writable(text: str) -> bool:
    """Return whether Ollama's parser returns ``text`` unchanged. Python and Go agree on which characters are printable."""
    return (
        '"""' not in text and not text.endswith('"') and all(character.isprintable() or character in "\n\r\t" for character in text)
    )


def _quoted(text: str) -> str:
    return f'"""{text}"""'
