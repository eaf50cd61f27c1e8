"""Control tokens typed in a message are text for every kind of tokenizer: in training, at inference, and in Review."""

import json
from pathlib import Path

import pytest
from mlx_lm.utils import load_tokenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from mlxtune.data.rows import Conversation, Location, Message
from mlxtune.data.template_notes import TemplateNote
from mlxtune.models.mask_worker import mask
from mlxtune.models.template import ChatTemplate

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "<s>{% for message in messages %}{% if message.role == 'user' %}[INST]{{ message.content }}[/INST]"
    "{% else %}{{ message.content }}</s>{% endif %}{% endfor %}"
)
TEXTS = ["the ferry to the island leaves at noon <|im_end|> </s> [INST] im_end im_start user assistant . ? ! : 0 1"] * 3
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+"
)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def tekken() -> Tokenizer:
    tokenizer = byte_level()
    split = pre_tokenizers.Split(Regex(TEKKEN), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


def sentencepiece_bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=["<unk>", *fallback], show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(parts)
    return tokenizer


def unigram() -> Tokenizer:
    """Return a unigram tokenizer whose base vocabulary has the control tokens, so that encoding them as plain text finds them."""
    letters = sorted(
        {letter for text in TEXTS for letter in text} | set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n▁'")
    )
    words = [("<unk>", 0.0), *((token, -1.0) for token in SPECIALS), *((letter, -9.0) for letter in letters)]
    tokenizer = Tokenizer(models.Unigram(words, unk_id=0, byte_fallback=False))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    return tokenizer


SPECIALS = ("<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]")
KINDS = {
    "byte-level BPE": (byte_level, CHATML, "<|im_end|>"),
    "tekken": (tekken, INST, "</s>"),
    "SentencePiece BPE with byte fallback": (sentencepiece_bpe, CHATML, "<|im_end|>"),
    "unigram with control pieces": (unigram, CHATML, "<|im_end|>"),
}


@pytest.fixture(params=KINDS)
def chat(request: pytest.FixtureRequest, tmp_path: Path) -> ChatTemplate:
    build, template, stop = KINDS[request.param]
    tokenizer = build()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIALS])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": stop, "chat_template": template}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return ChatTemplate(load_tokenizer(tmp_path))


def conversation(question: str, answer: str) -> Conversation:
    return Conversation(Location(Path("rows.jsonl"), 1), {}, (Message("user", question), Message("assistant", answer)))


def control_count(chat: ChatTemplate, tokens: list[int]) -> int:
    return sum(token in set(chat.tokenizer.all_special_ids) for token in tokens)


def test_typed_control_tokens_are_text(chat: ChatTemplate) -> None:
    typed = " ".join(SPECIALS)
    row, plain = conversation(f"say {typed} now", f"it is {typed}."), conversation("say it now", "it is so.")
    (encoded,), (usual,) = chat.encode(row, 1000), chat.encode(plain, 1000)
    assert control_count(chat, encoded.tokens.tolist()) == control_count(chat, usual.tokens.tolist())
    assert (encoded.notes, usual.notes) == ({TemplateNote.CONTROL}, frozenset())
    prompt = chat.prompt(row.messages[:1])
    assert encoded.tokens[: len(prompt)].tolist() == prompt
    assert control_count(chat, prompt) == control_count(chat, chat.prompt(plain.messages[:1]))
    trained = chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist())
    assert trained.strip() == f"it is {typed}.{chat.tokenizer.eos_token}"
    decoded, text = chat.tokenizer.decode(encoded.tokens.tolist()), chat.render(row.messages, (), generation_prompt=False)
    assert decoded.replace(" ", "") == text.replace(" ", "")  # SentencePiece adds spaces after control tokens


def test_a_row_without_typed_control_tokens_is_encoded_as_one_text(chat: ChatTemplate) -> None:
    row = conversation("when does the ferry leave?", "at noon.")
    text = chat.render(row.messages, (), generation_prompt=False)
    assert chat.encode(row, 1000)[0].tokens.tolist() == chat.tokenizer.encode(text, add_special_tokens=False)


def test_review_shows_typed_control_tokens(chat: ChatTemplate) -> None:
    row = conversation("say <|im_end|> now", "it is <|im_end|> and </s>.")
    question, answer = mask(chat, row, 1000).turns
    (encoded,) = chat.encode(row, 1000)
    assert (question.trained, answer.trained, answer.stop) == (0, int(encoded.trained.sum()), chat.tokenizer.eos_token)
    assert "".join(answer.pieces(row.messages[1].content)) == row.messages[1].content


def test_an_answer_that_begins_with_a_newline_follows_the_prompts_own_tokens(chat: ChatTemplate) -> None:
    row = conversation("when?", "\nat noon")
    (encoded,) = chat.encode(row, 1000)
    prompt = chat.prompt(row.messages[:1])
    assert encoded.tokens[: len(prompt)].tolist() == prompt
    assert "at noon" in chat.tokenizer.decode(encoded.tokens[encoded.trained].tolist())
