"""Find the control tokens with which a chat template ends an assistant turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import TemplateError
from mlxtune.data.rows import Message

_ANSWER = "Probe answer 5141."
_QUESTION = Message("user", "Probe question 5141?")
_CALL = {"id": "probe1234", "type": "function", "function": {"name": "probe_tool", "arguments": {"probe_key": _ANSWER}}}

Render = Callable[[Sequence[Message]], str]


def end_tokens(tokenizer: TokenizerWrapper, render: Render) -> frozenset[int] | None:
    """Return the tokens with which a final assistant turn ends: one after an answer, and one after a call if it differs.

    The first is the first control token after the text of the answer; without it, the result is empty. If no known token ends a
    call (Gemma 4), it ends with the last control token. ``render`` returns a conversation as text. Control tokens are
    the tokenizer's added tokens, except whitespace. Returns ``None`` if the text of the answer is not in the conversation.
    """
    known = set(tokenizer.eos_token_ids)
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
    tokens = _after(tokenizer, render, Message("assistant", _ANSWER))
    if tokens is None:
        return None
    end = next((token for token in tokens if token in added | known), None)
    if end is None:
        return frozenset()
    after_call = _after(tokenizer, render, Message("assistant", "", {"tool_calls": [_CALL]})) or []
    if known.isdisjoint(after_call) and end not in after_call and after_call and after_call[-1] in added:
        return frozenset({end, after_call[-1]})
    return frozenset({end})


def _after(tokenizer: TokenizerWrapper, render: Render, message: Message) -> list[int] | None:
    """Return the tokens after the probe text in a conversation that ends with ``message``, or ``None`` if it is not there."""
    try:
        _, separator, rest = render((_QUESTION, message)).rpartition(_ANSWER)
    except TemplateError:
        return None
    return list(tokenizer.encode(rest.rstrip(), add_special_tokens=False)) if separator else None
