"""Freeze the chat template that an adapter was trained with. Runs as the child process of ``adapters.publish``."""

import sys
from pathlib import Path

from mlxtune.adapters.export.program_prompts import folder_difference
from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import GateError
from mlxtune.models.resolve import resolve
from mlxtune.models.template import TemplateSettings, load_template


def _frozen(request: Request) -> str:
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
    sys.exit(serve({"frozen": _frozen}))
