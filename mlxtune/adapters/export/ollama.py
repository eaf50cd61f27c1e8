"""Write a Modelfile, from which Ollama creates a model that renders prompts as the trainer did.

The format is that of https://docs.ollama.com/modelfile, as read by ``parser/parser.go`` of https://github.com/ollama/ollama: it drops characters
that are not printable, and a text ends at three double quotes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlxtune.adapters.export.fidelity import PromptDifference
from mlxtune.data.rows import PromptRow

if TYPE_CHECKING:  # imports mlx
    from mlxtune.models.template import ChatTemplate

MODELFILE = "Modelfile"
MIN_CONTEXT = 4096  # Ollama's default


def modelfile(
    template: ChatTemplate, rows: Sequence[PromptRow], *, source: str, adapter: str = "", system: str = "",
    context: int = MIN_CONTEXT,
) -> str:  # fmt: skip
    """Return the Modelfile for the model ``source`` (a file, or a name in Ollama), to which the file ``adapter`` is added if set.

    Its template is included only if :func:`expressed_template` finds no difference. ``system`` is the system turn that
    all rows share, and ``context`` the number of tokens in a conversation.
    """
    lines = [f"FROM {source}"]
    if adapter:
        lines.append(f"ADAPTER {adapter}")
    text, difference = expressed_template(template, rows)
    if not difference:
        lines.append(f"TEMPLATE {_quoted(text)}")
    if system and is_writable(system):
        lines.append(f"SYSTEM {_quoted(system)}")
    stops = [template.tokenizer.decode([token]) for token in sorted(template.stop_tokens)]
    lines += [f'PARAMETER stop "{stop}"' for stop in stops if is_writable(stop) and '"' not in stop and stop.strip()]
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1", f"PARAMETER num_ctx {context}"]  # greedy, as evaluated
    return "\n".join(lines) + "\n"


def expressed_template(template: ChatTemplate, rows: Sequence[PromptRow]) -> tuple[str, PromptDifference | None]:
    """Return ``template`` in Ollama's language, and where it first renders a prompt differently.

    Compared are ``rows`` and conversations of several kinds, without tools: Ollama refuses tools if a template does not list them.
    """
    from mlxtune.adapters.export.turn_template import derive, first_difference

    turns = derive(template, template.added_bos)
    if turns is None or not is_writable(turns.go):
        first = template.prompt(rows[0].prompt, rows[0].tools)[:1]
        return "", PromptDifference(rows[0].id, 0, template.tokenizer.decode(first), "")
    compared = [*rows, *(row for row, _ in template.rendered_prompts() if not row.tools)]
    return turns.go, first_difference(template, turns, compared, template.added_bos)


def model_name(name: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", name.lower())


def is_model_name(name: str) -> bool:
    """Return whether ``name`` can be a model's name in Ollama, so that it adds no line to a Modelfile and is no path or option."""
    return re.fullmatch(r"\w[\w.-]*(?:[:/]\w[\w.-]*){0,4}", name, re.ASCII) is not None


def is_writable(text: str) -> bool:
    """Return whether Ollama's parser returns ``text`` unchanged. Python and Go agree on which characters are printable."""
    is_printable = all(character.isprintable() or character in "\n\r\t" for character in text)
    return is_printable and '"""' not in text and not text.endswith('"')


def _quoted(text: str) -> str:
    return f'"""{text}"""'
