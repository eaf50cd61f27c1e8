"""The bundled Gemma 3: its converted weights, its sliding windows, and the tokens that it is trained on."""

import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlxtune.data.rows import Conversation, Location, Message, TextRow
from mlxtune.models.head import plain_logp, split_head
from mlxtune.models.likelihood import negative_log_likelihoods
from mlxtune.models.load import LoadedModel, load
from mlxtune.models.resolve import ModelFolder
from mlxtune.models.template import ChatTemplate

pytestmark = pytest.mark.real

PROSE = (
    "The weather in the north of England is often wet in autumn, and walkers who set out along the coast should carry a waterproof "
    "jacket. Most of the villages have a small shop and a pub where hot food is served until the early evening. In the winter months, "
    "however, many of these places close, and it is wise to telephone in advance."
)
PLACE = Location(Path("rows.jsonl"), 1)


@pytest.fixture(scope="module")
def gemma3(gemma3_folder: ModelFolder) -> LoadedModel:
    return load(gemma3_folder)


def test_the_head_takes_one_pass_and_plain_english_has_a_low_perplexity(gemma3: LoadedModel) -> None:
    """It is 22; with a wrong rotary base it is 40, without the offset of the last norm 71, and of all norms 1e8."""
    parts, tokens = split_head(gemma3.model), mx.array(gemma3.tokenizer.encode(PROSE))
    assert parts.is_split
    assert not parts.has_unusual_head
    assert tokens[0].item() == gemma3.tokenizer.bos_token_id
    logps = parts.logp(parts.backbone(tokens[None, :-1])[0], tokens[1:])
    assert math.exp(-logps.mean().item()) < 30


@pytest.mark.exhaustive  # tests/models/test_generate.py has it for a tiny Gemma 3
def test_a_shared_prefix_longer_than_the_window_equals_a_full_forward_pass(gemma3: LoadedModel) -> None:
    window = gemma3.source.config["sliding_window"]
    prefix = (gemma3.tokenizer.encode(PROSE) * 9)[: window + 20]
    pairs = [
        ([*prefix, *gemma3.tokenizer.encode(end, add_special_tokens=False)], [1018, 506, 3277]) for end in ("It", "They say that")
    ]
    parts = split_head(gemma3.model)
    expected = []
    for prompt, answer in pairs:
        hidden = parts.backbone(mx.array([[*prompt, *answer]]), None)[0, len(prompt) - 1 : -1]
        expected.append(-plain_logp(parts.logits(hidden), mx.array(answer)).sum().item())
    assert negative_log_likelihoods(gemma3.model, pairs, batch_size=2) == pytest.approx(expected, rel=1e-4)


def test_text_and_completion_rows_train_what_they_say(gemma3: LoadedModel) -> None:
    template = ChatTemplate(gemma3.tokenizer)
    (text,) = template.encode(TextRow(PLACE, {}, "A text\nof two lines."), 64)
    assert gemma3.tokenizer.decode(text.tokens) == "<bos>A text\nof two lines.<eos>"
    assert np.flatnonzero(~text.trained).tolist() == [0]
    messages = (Message("system", "Be brief."), Message("user", "Where is it?"), Message("assistant", "Near."))
    (row,) = template.encode(Conversation(PLACE, {}, messages), 64)
    turns = "<bos><start_of_turn>user\nBe brief.\n\nWhere is it?<end_of_turn>\n<start_of_turn>model\nNear.<end_of_turn>\n"
    assert gemma3.tokenizer.decode(row.tokens) == turns
    assert gemma3.tokenizer.decode(row.tokens[row.trained]) == "Near.<end_of_turn>"
