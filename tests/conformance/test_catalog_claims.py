"""What the catalog says about chat templates is true of them."""

import pytest
from bases import template_file
from table import AVAILABLE, template_tokenizer, verdict_of

from mlxtune.data.template_notes import TemplateNote
from mlxtune.models import catalog
from mlxtune.models.thinking import prints_date

TEMPLATES = {base.name: base for base in AVAILABLE}
MODELS = [pytest.param(one, TEMPLATES[one.template], id=one.id) for one in catalog.entries() if one.template in TEMPLATES]


@pytest.mark.parametrize(("model", "base"), MODELS)
def test_the_thinking_default_is_the_templates(model, base):
    tokenizer = template_tokenizer(base)

    def prompt(**variables: bool) -> str:
        messages = [{"role": "user", "content": "Hello"}]
        return str(tokenizer._tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **variables))

    if prompt(enable_thinking=True) == prompt(enable_thinking=False):
        assert model.thinking in ("none", "always")
        assert (model.thinking == "always") == ("Reasoning:" in prompt())
    else:
        assert model.thinking == ("on" if prompt() == prompt(enable_thinking=True) else "off")


@pytest.mark.parametrize(("model", "base"), MODELS)
def test_dates_tools_and_rewritten_answers_are_the_templates(model, base):
    assert model.dated == prints_date(template_file(base).read_text())
    assert model.rewrites == (TemplateNote.TURNS in verdict_of(base, "multi-turn").notes)
    assert model.tools == (verdict_of(base, "final call").status == "ok")
