"""The catalog's thinking defaults are those of the chat templates."""

from __future__ import annotations

import pytest
from table import AVAILABLE, template_tokenizer

from mlxtune.models import catalog

TEMPLATES = {base.name: base for base in AVAILABLE}
MODELS = [model for model in catalog.entries() if model.template in TEMPLATES]


@pytest.mark.parametrize("model", MODELS, ids=[model.id for model in MODELS])
def test_the_thinking_default_is_the_templates(model: catalog.CatalogModel) -> None:
    tokenizer = template_tokenizer(TEMPLATES[model.template])

    def prompt(**variables: bool) -> str:
        messages = [{"role": "user", "content": "Hello"}]
        return str(tokenizer._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables))

    if prompt(enable_thinking=True) == prompt(enable_thinking=False):
        assert model.thinking in ("none", "always")
        assert (model.thinking == "always") == ("Reasoning:" in prompt())
    else:
        assert model.thinking == ("on" if prompt() == prompt(enable_thinking=True) else "off")
