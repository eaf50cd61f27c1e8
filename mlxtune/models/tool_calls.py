"""Parse the function calls in a model's output, with mlx-lm's parser for the chat template, or our own if mlx-lm has none."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper, _infer_tool_parser

from mlxtune.data.rows import calls_as_json
from mlxtune.models.detokenizer import partial_length

Tools = Sequence[dict[str, Any]]
_CALL_ID = re.compile(r"\[CALL_ID\]\w+(?=\[ARGS\])")  # Mistral Small 3.2 writes it, and mlx-lm takes the ID for the name
_HARMONY = re.compile(r"(?:<\|channel\|>commentary )?to=functions\.([^\s<]+)[^{}]*<\|message\|>(.*)", re.DOTALL)


@dataclass(frozen=True)
class FunctionCall:
    name: str
    arguments: dict[str, Any]

    @classmethod
    def parse(cls, value: Any, arguments: str = "arguments") -> FunctionCall:
        """Return the call in a JSON object with its arguments under the key ``arguments``. Raises ``ValueError`` if there is none."""
        if isinstance(value, dict) and isinstance(value.get("name"), str) and isinstance(value.get(arguments), dict):
            return cls(value["name"], value[arguments])
        raise ValueError(f"not a call: {value!r}")


@dataclass(frozen=True)
class CallFormat:
    """How calls are written: they begin with one of ``starts``, ``anywhere`` in an answer, or only at its beginning.

    ``parse`` returns a text without its calls, and the calls, and raises any error for a malformed one.
    """

    starts: tuple[str, ...]
    parse: Callable[[str, Tools], tuple[str, list[FunctionCall]]]
    anywhere: bool = False


def _tagged(start: str, end: str, parse_calls: Callable[[str, Tools], Any]) -> CallFormat:
    """Return a format with tags, whose ``parse_calls`` is like those of ``mlx_lm.tool_parsers``. Some formats have only a start tag."""
    first, last = re.escape(start), re.escape(end)
    pattern = re.compile(f"{first}(.*?){last}" if end else f"{first}(.*?)(?={first}|$)", re.DOTALL)

    def parse(text: str, tools: Tools) -> tuple[str, list[FunctionCall]]:
        calls: list[FunctionCall] = []
        for body in pattern.findall(text):
            parsed = parse_calls(_CALL_ID.sub("", body), list(tools))
            calls += map(FunctionCall.parse, parsed if isinstance(parsed, list) else [parsed])
        return pattern.sub("", text), calls

    return CallFormat((start,), parse, anywhere=True)


def _parse_llama(text: str, tools: Tools) -> tuple[str, list[FunctionCall]]:
    """Parse the call of Llama 3.1 and later: an answer that is JSON with a function's name and its ``parameters``."""
    call = FunctionCall.parse(json.loads(text.strip().removeprefix("<|python_tag|>")), "parameters")
    if call.name not in {tool.get("function", tool).get("name") for tool in tools}:
        raise ValueError(f"not a function: {call.name}")
    return "", [call]


def _parse_harmony(text: str, tools: Tools) -> tuple[str, list[FunctionCall]]:
    """Parse the call of gpt-oss: a message to a function, such as `` to=functions.find<|channel|>commentary json<|message|>{}``.

    The channel may also come first, as in ``<|channel|>commentary to=functions.find <|constrain|>json<|message|>{}``.
    """
    match = _HARMONY.fullmatch(text.strip())
    return ("", [FunctionCall.parse({"name": match[1], "arguments": json.loads(match[2])})]) if match else (text, [])


def _parse_list(text: str, tools: Tools) -> list[dict[str, Any]]:
    """Return the calls in a JSON list, with OpenAI's names of their fields or Cohere's."""
    calls = json.loads(text)
    return [
        {"name": one.get("name", one.get("tool_name")), "arguments": one.get("arguments", one.get("parameters"))} for one in calls
    ]


# Formats that mlx-lm has no parser for, by a part of the template that writes them.
_OWN_FORMATS: dict[str, CallFormat] = {
    """'"parameters": ' }}""": CallFormat(("<|python_tag|>", "{"), _parse_llama),
    '"functions." + tool_call.name': CallFormat(("to=functions.", "<|channel|>commentary"), _parse_harmony),
    "<tool_calls>[": _tagged("<tool_calls>", "</tool_calls>", _parse_list),  # Apriel's
    "<|START_ACTION|>": _tagged("<|START_ACTION|>", "<|END_ACTION|>", _parse_list),  # Command R's
}


class CallReader:
    """Reads calls that are written as the template ``source`` writes them; ``tokenizer`` has the template's vocabulary."""

    def __init__(self, tokenizer: TokenizerWrapper, source: str) -> None:
        kind = _infer_tool_parser(SimpleNamespace(chat_template=source, get_vocab=tokenizer.get_vocab))
        self.format = next((format for part, format in _OWN_FORMATS.items() if part in source), None)
        if kind:
            parser: Any = importlib.import_module(f"mlx_lm.tool_parsers.{kind}")
            self.format = _tagged(parser.tool_call_start, parser.tool_call_end, parser.parse_tool_call)

    def split(self, text: str, tools: Tools) -> tuple[str, list[FunctionCall]]:
        """Return ``text`` without the calls of ``tools`` in it, and the calls. A text with a malformed call has none."""
        if self.format is None or not tools:
            return text, []
        try:
            rest, calls = self.format.parse(text, tools)
        except Exception:  # a parser may raise any exception on a malformed call
            return text, []
        return (rest.strip(), calls) if calls else (text, [])

    def read(self, text: str, tools: Tools) -> str:
        """Return ``text`` as JSON if it consists of calls of ``tools``, in the form of a row's reference; else unchanged."""
        rest, calls = self.split(text, tools)
        return text if rest or not calls else calls_as_json([{"function": vars(call)} for call in calls])


class CallSplitter:
    """Splits a streamed answer into text and calls of ``tools``. Text that may belong to a call is withheld."""

    def __init__(self, reader: CallReader, tools: Tools) -> None:
        self._reader, self._tools = reader, tools
        self._format = reader.format if tools else None
        self._withheld = ""

    def add(self, text: str) -> str:
        """Append ``text``. Return the text that is certainly before any call."""
        self._withheld += text
        return self._release(self._start(self._format) if self._format else len(self._withheld))

    def end(self) -> tuple[str, list[FunctionCall]]:
        """Return the withheld text without the calls in it, and the calls."""
        return self._reader.split(self._release(len(self._withheld)), self._tools)

    def _start(self, format: CallFormat) -> int:
        """Return where a call, the beginning of one, or the whitespace before it may start."""
        text = self._withheld
        if not format.anywhere:
            if any(start.startswith(text.lstrip()[: len(start)]) for start in format.starts):
                return 0
            self._format = None
            return len(text)
        places = [text.find(start) for start in format.starts if start in text]
        end = min(places, default=len(text) - max(partial_length(text, start) for start in format.starts))
        return len(text[:end].rstrip())

    def _release(self, length: int) -> str:
        text, self._withheld = self._withheld[:length], self._withheld[length:]
        return text
