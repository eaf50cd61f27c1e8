"""Convert a SentencePiece BPE model to a ``tokenizer.json``, so that Llama 2's kind of tokenizer is tested, too.

The result is that of transformers' converter, which needs two further packages. Source of the file format: ``sentencepiece_model.proto``.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

UNKNOWN, CONTROL = 2, 3  # types of pieces


def convert(file: Path, target: Path) -> None:
    """Write the tokenizer of the SentencePiece model in ``file`` to ``target``. A space before the text is added once, as in Mistral's."""
    pieces = list(read_pieces(file.read_bytes()))
    vocabulary = {text: index for index, (text, _, _) in enumerate(pieces)}
    merges = []
    for text, score, type in pieces:
        if type not in (UNKNOWN, CONTROL):
            splits = [(text[:at], text[at:]) for at in range(1, len(text))]
            pairs = [(left, right) for left, right in splits if left in vocabulary and right in vocabulary]
            merges += [(-score, vocabulary[left], vocabulary[right], (left, right)) for left, right in pairs]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [pair for *_, pair in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    control = [text for text, _, type in pieces if type in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in control])
    tokenizer.save(str(target))


def read_pieces(data: bytes) -> Iterator[tuple[str, float, int]]:
    """Yield the text, score and type of every piece: field 1 of the model, with the fields 1, 2 and 3."""
    for number, value in _fields(data):
        if number == 1:
            fields = dict(_fields(value))
            yield fields[1].decode(), struct.unpack("<f", fields[2])[0], fields.get(3, 1)


def _fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """Yield the number and value of every field of a protocol buffer message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size, at = _varint(data, at) if key & 7 == 2 else (4 if key & 7 == 5 else 8, at)
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
