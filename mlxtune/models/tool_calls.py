"""Read the calls in a model's output, with mlx-lm's parser for the chat template."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper, _infer_tool_parser

from mlxtune.data.rows import calls_as_json


class CallReader:
    """Reads calls that are written as the template ``source`` writes them; ``tokenizer`` has the template's vocabulary."""

    def __init__(self, tokenizer: TokenizerWrapper, source: str) -> None:
        kind = _infer_tool_parser(SimpleNamespace(chat_template=source, get_vocab=tokenizer.get_vocab))
        self._parser: Any = importlib.import_module(f"mlx_lm.tool_parsers.{kind}") if kind else None

    def read(self, text: str, tools: Sequence[dict[str, Any]]) -> str:
        """Return ``text`` as JSON if it consists of calls of ``tools``, in the form of a row's reference; else unchanged."""
        if self._parser is None or not tools:
            return text
        start, end = re.escape(self._parser.tool_call_start), re.escape(self._parser.tool_call_end)
        pattern = re.compile(f"{start}(.*?){end}" if end else f"{start}(.*?)(?={start}|$)", re.DOTALL)
        bodies = pattern.findall(text)
        if not bodies or pattern.sub("", text).strip():
            return text
        calls: list[Any] = []
        for body in bodies:
            try:
                parsed = self._parser.parse_tool_call(body, list(tools))
            except Exception:  # a parser raises whatever it meets in a malformed call
                return text
            calls += parsed if isinstance(parsed, list) else [parsed]
        if not all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls):
            return text
        return calls_as_json([{"function": call} for call in calls])
