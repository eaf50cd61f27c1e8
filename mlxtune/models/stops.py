"""Find the control token with which a chat template ends an assistant turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import TemplateError
from mlxtune.data.rows import Message

_ANSWER = "Probe answer 5141."
_CONVERSATION = (Message("user", "Probe question 5141?"), Message("assistant", _ANSWER))

Render = Callable[[Sequence[Message]], str]


def end_token(tokenizer: TokenizerWrapper, render: Render) -> int | None:
    """Return the first control token after the text of a final assistant turn, or ``None`` if there is none.

    ``render`` returns a conversation as text. Control tokens are the tokenizer's added tokens, except white space.
    """
    try:
        _, answer, rest = render(_CONVERSATION).rpartition(_ANSWER)
    except TemplateError:
        return None
    if not answer:
        return None
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
    tokens: list[int] = tokenizer.encode(rest, add_special_tokens=False)
    return next((token for token in tokens if token in added or token in tokenizer.eos_token_ids), None)
