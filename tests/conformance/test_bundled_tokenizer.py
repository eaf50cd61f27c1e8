"""The tokenizer of the bundled Gemma 3, which is built from the GGUF's scores, equals Google's."""

import json

import pytest

IMAGE = "<image_soft_token>"  # Google's tokenizer has it, but its ID is outside the embedding of this text model


@pytest.mark.real
def test_the_bundled_gemma_3_has_googles_tokenizer_and_template(gemma3_folder, vocabularies, templates):
    actual, expected = (
        json.loads((folder / "tokenizer.json").read_text()) for folder in (gemma3_folder.folder, vocabularies["gemma3"])
    )
    expected["added_tokens"] = [token for token in expected["added_tokens"] if token["content"] != IMAGE]
    assert actual.keys() == expected.keys()
    differing = [key for key in expected if actual[key] != expected[key]]
    assert not differing
    settings = json.loads((gemma3_folder.folder / "tokenizer_config.json").read_text())
    assert settings["chat_template"] == (templates / "gemma3.jinja").read_text()
