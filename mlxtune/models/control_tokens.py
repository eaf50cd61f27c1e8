"""Encode rendered conversations so that control tokens typed in a message stay text.

A chat template joins its own control tokens and the messages into one text, in which a ``<|im_end|>`` typed by a customer would end
the turn. Before rendering, every control token in a message is broken by a Unicode noncharacter after its first character. The text
is encoded in pieces at these breaks, so that no tokenizer can match the token. transformers' ``sanitize_control_tokens`` encodes the
token itself without added tokens, which fails for tokenizers whose base vocabulary contains it.
"""

import re
from functools import cached_property
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.data.readers.formats import BREAK

_ESCAPED = re.compile(rf"{BREAK}|\\ufdd0")  # a template may write non-ASCII text with JSON escapes
_LEADS = ("\n", ".", "0")  # characters before a piece, so that SentencePiece does not add a space

Span = tuple[int, int]


class ControlTokens:
    """The special tokens, and the other added tokens that the template's ``source`` contains, except whitespace."""

    def __init__(self, tokenizer: TokenizerWrapper, source: str) -> None:
        self._tokenizer, self._source = tokenizer, source

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        added = self._tokenizer.added_tokens_decoder.values()
        tokens = [token.content for token in added if token.special or token.content in self._source]
        typed = sorted((token for token in tokens if len(token) > 1 and not token.isspace()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, typed)) or "(?!)")

    def typed_in(self, value: Any) -> list[str]:
        """Return the distinct control tokens in the strings of a JSON value, in order."""
        if isinstance(value, str):
            return list(dict.fromkeys(self._pattern.findall(value)))
        items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
        return list(dict.fromkeys(token for item in items for token in self.typed_in(item)))

    def broken(self, value: Any) -> Any:
        """Return a JSON value with a break inside every control token in its strings."""
        if isinstance(value, str):
            return self._pattern.sub(lambda match: match[0][0] + BREAK + match[0][1:], value.replace(BREAK, ""))
        if isinstance(value, dict):
            return {self.broken(key): self.broken(item) for key, item in value.items()}
        return [self.broken(item) for item in value] if isinstance(value, list | tuple) else value

    def plain(self, text: str) -> str:
        """Return ``text`` without breaks."""
        return _ESCAPED.sub("", text)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of ``text``, which is encoded in pieces at its breaks."""
        return [token for token, _ in self._pieces(text, self._plain)]

    def encode_with_spans(self, text: str) -> tuple[list[int], list[Span]]:
        """Return the tokens of ``text``, and where each token starts and ends in ``text`` without breaks."""
        pairs = self._pieces(text, self._with_offsets)
        return [token for token, _ in pairs], [span for _, span in pairs]

    def _pieces(self, text: str, encode: Any) -> list[tuple[int, Span]]:
        first, *rest = _ESCAPED.split(text)
        pairs: list[tuple[int, Span]] = encode(first)
        offset = len(first)
        for piece in rest:
            pairs += [(token, (start + offset, end + offset)) for token, (start, end) in _continued(piece, encode)]
            offset += len(piece)
        return pairs

    def _plain(self, text: str) -> list[tuple[int, Span]]:
        return [(token, (0, 0)) for token in self._tokenizer.encode(text, add_special_tokens=False)]

    def _with_offsets(self, text: str) -> list[tuple[int, Span]]:
        encoding = self._tokenizer._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return list(zip(encoding["input_ids"], map(tuple, encoding["offset_mapping"]), strict=True))


def _continued(piece: str, encode: Any) -> list[tuple[int, Span]]:
    """Encode a piece that continues a text, without the space that SentencePiece would add at the start."""
    for lead in _LEADS:
        before, pairs = encode(lead), encode(lead + piece)
        if [token for token, _ in pairs[: len(before)]] == [token for token, _ in before]:
            return [(token, (start - len(lead), end - len(lead))) for token, (start, end) in pairs[len(before) :]]
    return list(encode(piece))
