"""Freeze a chat template: Jinja source with which any program renders plain messages as they were rendered in training.

Programs pass their own values of variables (mlx-lm turns thinking on, llama.cpp passes today's date) and know nothing of a template's
:class:`~mlxtune.models.dialect.Dialect`. A frozen template sets the variables itself, and converts the messages: few
templates render every turn that training accepts. It uses only what both Jinja2 and llama.cpp's engine understand.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.data.rows import REASONING, Conversation, Location, Message, PromptRow
from mlxtune.models.dialect import Dialect
from mlxtune.models.thinking import ThinkingControls, template_variables
from mlxtune.recipe.schema import Thinking


def with_variables(source: str, variables: Mapping[str, Any]) -> str:
    """Return the Jinja template ``source`` with its ``variables`` set to these values, whatever a program passes."""
    source = re.sub(r"\bdate_string\b", "trained_date_string", source)  # llama.cpp passes today's date in this variable
    read = template_variables(source)
    settings = (f"{{%- set {name} = {json.dumps(value)} %}}" for name, value in sorted(variables.items()) if name in read)
    return "".join(settings) + source


def message_converter(dialect: Dialect, controls: ThinkingControls, thinking: Thinking) -> str:
    """Return Jinja source that converts plain messages as ``dialect.adapt`` does, and adds the word for ``thinking`` to the system turn."""
    read = {name: getattr(dialect, name) for name in ("systems", "arguments", "content_parts", "short_ids", "tools_in_system")}
    reasoning = dialect.reasoning if thinking != "off" else ""
    read |= {"reasoning": reasoning, "keep": controls.keeps(thinking), "word": controls.word(thinking)}
    converter = Path(__file__).with_name("plain_messages.jinja").read_text(encoding="utf-8")
    return f"{{%- set dialect = {json.dumps(read)} %}}{converter}"


def plain_prompt(tokenizer: TokenizerWrapper, row: PromptRow, template: str) -> list[int]:
    """Return the tokens of the prompt of ``row`` as a program renders them with ``template``, or else the tokenizer's own."""
    tokens: list[int] = tokenizer.apply_chat_template(
        [turn.as_dict() for turn in row.prompt], tools=list(row.tools) or None, chat_template=template or None,
        add_generation_prompt=True, return_dict=False,
    )  # fmt: skip
    return tokens


_PLACE = Location(Path("probe"), 1)
_QUESTION, _NEXT = Message("user", "Is the ferry running?"), Message("user", "And on Sundays?")
_SYSTEM_TURN, _ANSWER = Message("system", "You are the harbor clerk."), Message("assistant", "Yes, every hour.")
_THOUGHT = Message("assistant", "Yes, every hour.", {REASONING: "The timetable says so."})
_PARAMETERS = {"type": "object", "properties": {"town": {"type": "string", "description": "Its name"}}, "required": ["town"]}
_FUNCTION = {"name": "find_harbor", "description": "Find a harbor by name.", "parameters": _PARAMETERS}
_TOOL: dict[str, Any] = {"type": "function", "function": _FUNCTION}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "find_harbor", "arguments": {"town": "Brègenz"}}}
_CALLING = Message("assistant", "", {"tool_calls": [_CALL]})
_THINKING_CALL = Message("assistant", "", {"tool_calls": [_CALL], REASONING: "A search answers this."})
_RESULT = Message("tool", '{"berths": 12}', {"tool_call_id": "call00001", "name": "find_harbor"})


def probes(dialect: Dialect, thinking: Thinking) -> list[Conversation]:
    """Return conversations of the kinds in which a template, and the programs that render it, may differ from training."""
    reasons = thinking != "off" and dialect.reasoning and not dialect.reasons_before_calls
    answer = _THOUGHT if reasons else _ANSWER
    talk, called = (_QUESTION, _ANSWER, _NEXT), (_QUESTION, _CALLING, _RESULT)
    plain = [(_QUESTION,), talk, (_SYSTEM_TURN, _QUESTION), (_SYSTEM_TURN, *talk), (_QUESTION, _THOUGHT, _NEXT)]
    calling = [(_QUESTION,), called, (_SYSTEM_TURN, *called), (*called, _ANSWER, _NEXT), (_QUESTION, _THINKING_CALL, _RESULT)]
    kinds = [*((turns, ()) for turns in plain), *((turns, (_TOOL,)) for turns in calling)]
    return [Conversation(_PLACE, {}, (*turns, answer), tools) for turns, tools in kinds]
