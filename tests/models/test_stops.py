"""Stop tokens: the eos tokens of a model's files, and the token with which its chat template ends an assistant turn."""

import json
from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer
from test_template import ENDLESS, conversation, template
from tiny_model import CHATML, make_tiny

from mlxtune.core.errors import TemplateError
from mlxtune.models import load
from mlxtune.models.resolve import resolve
from mlxtune.models.template import ChatTemplate, TemplateSettings, load_template

PHI = (  # a turn ends with <|end|>, the conversation with the eos token
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% else %}{{ eos_token }}{% endif %}"
)
SPECIALS = ("<|user|>", "<|assistant|>", "<|end|>", "<|tool_call|>")


def ids(chat: ChatTemplate, *tokens: str) -> set[int]:
    return {chat.tokenizer.convert_tokens_to_ids(token) for token in tokens}


def test_the_first_stop_token_ends_an_answer(tmp_path: Path) -> None:
    chat = template(tmp_path, PHI, "<|endoftext|>", SPECIALS)
    assert chat.stop_tokens == ids(chat, "<|endoftext|>", "<|end|>")  # <|tool_call|> is special, but ends nothing
    row = conversation(("user", "Hi"), ("assistant", "Yes?"), ("user", "Rope?"), ("assistant", "60 m."))
    (encoded,) = chat.encode(row, 1000)
    assert chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist()) == "Yes?<|end|>60 m.<|end|>"
    assert chat.tokenizer.decode(encoded.tokens.tolist()).endswith("<|end|><|endoftext|>")


def test_eos_tokens_come_from_both_configs(tmp_path: Path) -> None:
    make_tiny(tmp_path, template=CHATML, stop="<|im_end|>", specials=("<|a|>", "<|b|>", "<|c|>", "<|d|>"))
    tokenizer = load_tokenizer(tmp_path)
    a, b, c = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in "abc")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "eos_token_id": a, "text_config": {"eos_token_id": [a, c]}}))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [a, b]}))
    source = resolve(str(tmp_path))
    assert source.eos_token_ids == (a, b, c)
    expected = {a, b, c, tokenizer.eos_token_id}
    loaded = load.load(source)
    assert load_template(source, TemplateSettings()).stop_tokens == expected
    assert load_template(source, TemplateSettings(), loaded.tokenizer).stop_tokens == expected


def test_a_template_without_an_end_is_refused_with_the_models_name(tmp_path: Path) -> None:
    chat = template(tmp_path, ENDLESS, name="glm-4-9b")
    with pytest.raises(TemplateError, match="chat template of glm-4-9b ends turn 2 without a stop token") as caught:
        chat.encode(conversation(("user", "Hi"), ("assistant", "Yes?")), 1000)
    assert "model.template" in str(caught.value.hint)
