"""Detect a chat template's message format by rendering test messages, and convert messages to that format.

Templates differ in whether they render a system turn, whether a call's arguments are an object or JSON text, the name of the
reasoning before an answer, and which call IDs they accept. Few of them say so: most drop what they do not expect.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlx_lm.tokenizer_utils import TokenizerWrapper

from mlxtune.core.errors import TemplateError
from mlxtune.core.sequences import common_length
from mlxtune.data.readers.turns import with_json_arguments
from mlxtune.data.rows import REASONING, Message, join_reasoning
from mlxtune.models.thoughts import THOUGHTS

TurnDict = dict[str, Any]
Tools = Sequence[dict[str, Any]]
Apply = Callable[[Sequence[TurnDict], Tools, bool], str]  # turns, tools, whether to add the generation prompt

Render = Callable[[Sequence[Message]], str]
Systems = Literal["all", "first", "last", "none"]
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_SYSTEM, _LATE, _REASON = "Probe system 4823", "Probe late 7719", "Probe reason 6157"
_QUESTION, _ANSWER, _NEXT = "Probe question 5141", "Probe answer 5142", "Probe question 5143"
_USER: TurnDict = {"role": "user", "content": _QUESTION}
_ASSISTANT: TurnDict = {"role": "assistant", "content": _ANSWER}
_USER_2: TurnDict = {"role": "user", "content": _NEXT}
_VALUE, _ID = "Probe value 3391", "call_probe_1234567890"
_PARAMETERS = {"type": "object", "properties": {"probe_key": {"type": "string", "description": "Probe key 9028"}}}
_TOOL = {"type": "function", "function": {"name": "probe_tool", "description": "Probe tool 9027", "parameters": _PARAMETERS}}

_END_PROBE = "Probe answer 5141."
_END_QUESTION = Message("user", "Probe question 5141?")
_END_CALL = {"id": "probe1234", "type": "function", "function": {"name": "probe_tool", "arguments": {"probe_key": _END_PROBE}}}


@dataclass(frozen=True)
class Dialect:
    """The message format that a chat template expects."""

    systems: Systems = "all"  # that it renders in place ("last": before the last user turn); the others are folded into a user turn
    arguments: Literal["object", "string"] = "object"
    reasoning: str = ""  # the key of a turn's reasoning, "inline", "opened" by the generation prompt, "parts", or empty
    reasons_before_calls: bool = False  # only turns with calls have reasoning
    content_parts: bool = False  # content must be a list of parts
    short_ids: bool = False  # call IDs must have nine letters or digits
    tools: bool = True  # False if it drops or rejects lists of tools
    tools_in_system: bool = False  # the list is JSON text in the system turn
    calls: bool = True  # False if it drops or rejects calls
    header: str = ""  # the generation prompt
    extra: str = ""  # the text at its end that does not precede answers in a conversation, such as Gemma 4's empty thought

    def folds(self, messages: Sequence[Message]) -> bool:
        """Return whether a system turn of ``messages`` is folded into a user turn."""
        return any(turn.is_system and turn.content.strip() and not self._renders(index) for index, turn in enumerate(messages))

    def adapt(self, messages: Sequence[Message], *, thinking: bool, keep: bool) -> list[TurnDict]:
        """Return ``messages`` as the template expects them.

        Without ``thinking``, reasoning is left out; without ``keep``, so is that of turns before the last user turn.
        """
        turns = self._folded(messages)
        last_user = max((index for index, turn in enumerate(turns) if turn.role == "user"), default=0)
        adapted = []
        for index, turn in enumerate(turns):
            reasoning = turn.extra.get(REASONING, "") if thinking and (keep or index > last_user) else ""
            adapted.append(self._turn(turn, reasoning))
        return self._with_call_ids(adapted)

    def _renders(self, index: int) -> bool:
        return self.systems == "all" or (self.systems != "none" and index == 0)

    def _folded(self, messages: Sequence[Message]) -> list[Message]:
        """Return ``messages`` with each system turn that the template does not render joined to a user turn.

        It is the next user turn, or else the previous one. The authors of Gemma 2 and older Mistral models recommend this. A system
        turn without such a neighbor stays.
        """
        if self.systems == "last" and messages and messages[0].is_system:
            _, *folded = self._folded([replace(messages[0], role="user"), *messages[1:]])
            last = max((index for index, turn in enumerate(folded) if turn.role == "user"), default=0)
            folded[last] = replace(folded[last], content=f"{messages[0].content}\n\n{folded[last].content}")
            return folded
        turns: list[Message] = []
        waiting: list[Message] = []
        for index, turn in enumerate(messages):
            turn = replace(turn, role="system") if turn.role == "developer" else turn
            if turn.role == "system" and not self._renders(index):
                waiting.append(turn)
                continue
            if turn.role == "user":
                turns.append(_merged(turn, [*waiting, turn]))
            else:
                turns = [*_with_system_turns(turns, waiting), turn]
            waiting = []
        return _with_system_turns(turns, waiting)

    def _turn(self, turn: Message, reasoning: str) -> TurnDict:
        fields = {key: value for key, value in turn.extra.items() if key != REASONING}
        content: Any = turn.content
        if self.arguments != "object" and (calls := fields.get("tool_calls")):
            fields["tool_calls"] = [with_json_arguments(call) for call in calls]
        if reasoning and self.reasoning == "inline":
            content = join_reasoning(reasoning, content)
        elif reasoning and self.reasoning == "opened":
            content = _opened(reasoning, content)
        elif reasoning and self.reasoning == "parts":
            content = [{"type": "thinking", "thinking": reasoning}, {"type": "text", "text": content}]
        elif reasoning and self.reasoning:
            fields[self.reasoning] = reasoning
        if self.content_parts and isinstance(content, str):
            content = [{"type": "text", "text": content}]
        return {"role": turn.role, "content": content, **fields}

    def _with_call_ids(self, turns: list[TurnDict]) -> list[TurnDict]:
        """Return ``turns`` in which every result names its call, with an ID and a name, which are generated if the row has none."""
        if not any(turn.get("tool_calls") for turn in turns):
            return turns
        numbered: list[TurnDict] = []
        open_calls: list[tuple[str, str, str]] = []  # the given ID, ID and name of each call that has no result yet
        count = 0
        for turn in turns:
            if calls := turn.get("tool_calls"):
                named, open_calls = [], []
                for call in calls:
                    count += 1
                    given = str(call.get("id") or "")
                    id = given if given and (len(given) == 9 or not self.short_ids) else f"call{count:05d}"
                    named.append({**call, "id": id})
                    open_calls.append((given, id, call["function"]["name"]))
                turn = {**turn, "tool_calls": named}
            elif turn["role"] == "tool":
                own = str(turn.get("tool_call_id") or "")
                match = next((call for call in open_calls if not own or call[0] == own), None)
                if match:
                    open_calls.remove(match)
                    turn = {**turn, "tool_call_id": match[1], "name": turn.get("name") or match[2]}
            numbered.append(turn)
        return numbered


def find_dialect(apply: Apply, *, thinking: bool, inline: bool) -> Dialect:
    """Return the dialect of the template that ``apply`` renders; it raises ``TemplateError`` for turns that the template rejects.

    Reasoning is probed only with ``thinking``. ``inline`` is set if the template mentions ``<think>``.
    """
    probe = _Probe(apply)
    arguments = probe.arguments()
    header, extra = probe.generation_prompt()
    reasoning = probe.reasoning(inline=inline) if thinking else ""
    reasoning_before_calls = probe.reasoning_before_calls() if thinking and not reasoning else ""
    tools, tools_in_system = probe.tools(), probe.tools(in_system=True)
    return Dialect(
        systems=probe.systems(), arguments=arguments, reasoning=reasoning or reasoning_before_calls,
        reasons_before_calls=bool(reasoning_before_calls), content_parts=probe.content_parts, short_ids=probe.short_ids,
        tools=tools or tools_in_system, tools_in_system=tools_in_system and not tools, calls=probe.calls(arguments), header=header,
        extra=extra,
    )  # fmt: skip


class _Probe:
    """Renders probe conversations. A rejected one is rendered as an empty text."""

    def __init__(self, apply: Apply) -> None:
        self._apply = apply
        self.content_parts = False
        parts = {**_USER, "content": [{"type": "text", "text": _QUESTION}]}
        self.content_parts = _QUESTION not in self._text([_USER]) and _QUESTION in self._text([parts])
        long, short = (self._text(self._round({"probe_key": _VALUE}, id)) for id in (_ID, "probe1234"))
        self.short_ids = not long and bool(short)

    def systems(self) -> Systems:
        system, late = {"role": "system", "content": _SYSTEM}, {"role": "system", "content": _LATE}
        first = (
            self._in_order([system, _USER], (_SYSTEM, _QUESTION))
            and self._in_order([system, _USER, _ASSISTANT], (_SYSTEM, _QUESTION, _ANSWER))
            and self._in_order([system, _USER, _ASSISTANT, _USER_2], (_SYSTEM, _QUESTION, _ANSWER, _NEXT))
        )
        turns, words = [_USER, _ASSISTANT, late, _USER_2], (_QUESTION, _ANSWER, _LATE, _NEXT)
        in_place = self._in_order(turns, words) and self._in_order([*turns, {**_ASSISTANT, "content": _REASON}], (*words, _REASON))
        in_last = self._in_order([system, _USER, _ASSISTANT, _USER_2], (_QUESTION, _ANSWER, _SYSTEM, _NEXT))  # Mistral Nemo
        return ("last" if in_last else "none") if not first else "all" if in_place else "first"

    def arguments(self) -> Literal["object", "string"]:
        value = {"probe_key": _VALUE, "probe_flag": True}
        as_object = self._text(self._round(value))
        as_string = self._text(self._round(json.dumps(value)))
        if _VALUE in as_object and repr(value) not in as_object:
            return "object"
        return "string" if json.dumps(value) in as_string else "object"

    def tools(self, *, in_system: bool = False) -> bool:
        """Whether the list of tools (or the one ``in_system``) is in the prompt, and remains when the answer is added."""
        start = with_tools_in_system([_USER], [_TOOL]) if in_system else [_USER]
        texts = [
            self._text(start, generation_prompt=True, tools=not in_system),
            self._text([*start, _ASSISTANT], tools=not in_system),
        ]
        return all(word in text for text in texts for word in ("probe_tool", "Probe tool 9027", "probe_key"))

    def calls(self, arguments: Literal["object", "string"]) -> bool:
        """Whether a call is rendered with its name and arguments: a changed value changes the text, which contains it."""
        texts = []
        for value in (_VALUE, "Other value 2282"):
            given: Any = {"probe_key": value}
            turns = self._round(given if arguments == "object" else json.dumps(given))[:2]
            text = self._text(turns)
            texts.append(text if all(word in text for word in ("probe_tool", "probe_key", value)) else "")
        return all(texts) and texts[0] != texts[1]

    def generation_prompt(self) -> tuple[str, str]:
        """Return the generation prompt, and the part at its end that does not precede an answer in a conversation."""
        before, prompt, text = self._text([_USER]), self._text([_USER], generation_prompt=True), self._text([_USER, _ASSISTANT])
        header = prompt[len(before) :] if before and prompt.startswith(before) else ""
        common = common_length(prompt, text)
        empty = next((start + end for start, end in THOUGHTS.items() if prompt.endswith(start + end)), "")
        if not text.startswith(prompt) and text.startswith(prompt.removesuffix(empty)):  # Command R7B
            return header, empty
        return header, prompt[common:] if header and text[common:].startswith(_ANSWER) else ""

    def reasoning(self, *, inline: bool) -> str:
        candidates: list[tuple[str, TurnDict]] = [(key, {**_ASSISTANT, key: _REASON}) for key in _REASONING_KEYS]
        prompt = self._text([_USER], generation_prompt=True)
        if inline:
            if prompt.rstrip().endswith("<think>"):
                candidates.append(("opened", {**_ASSISTANT, "content": _opened(_REASON, _ANSWER)}))
            candidates.append(("inline", {**_ASSISTANT, "content": join_reasoning(_REASON, _ANSWER)}))  # OLMo 3 opens it, too
        parts = [{"type": "thinking", "thinking": _REASON}, {"type": "text", "text": _ANSWER}]
        candidates.append(("parts", {**_ASSISTANT, "content": parts}))
        for key, turn in candidates:
            text = self._text([_USER, turn])
            in_order = _appear_in_order(text[len(prompt) :], (_REASON, _ANSWER))
            is_rendered = in_order and "'type'" not in text and '"type"' not in text
            if text.startswith(prompt) and is_rendered:
                return key
        return ""

    def reasoning_before_calls(self) -> str:
        """Return the key of reasoning in a turn with a call. Gemma 4's first templates render it only in such turns."""
        call = self._round({"probe_key": _VALUE})[1]
        return next((key for key in _REASONING_KEYS if _REASON in self._text([_USER, {**call, key: _REASON}])), "")

    def _round(self, arguments: Any, id: str = "probe1234") -> list[TurnDict]:
        call = {"id": id, "type": "function", "function": {"name": "probe_tool", "arguments": arguments}}
        result = {"role": "tool", "tool_call_id": id, "name": "probe_tool", "content": "Probe result 8846"}
        return [_USER, {"role": "assistant", "content": "", "tool_calls": [call]}, result]

    def _in_order(self, turns: Sequence[TurnDict], words: Sequence[str]) -> bool:
        return _appear_in_order(self._text(turns, generation_prompt=turns[-1]["role"] == "user"), words)

    def _text(self, turns: Sequence[TurnDict], *, generation_prompt: bool = False, tools: bool = False) -> str:
        tools = tools or any("tool_calls" in turn for turn in turns)
        if self.content_parts:
            turns = [
                {**turn, "content": [{"type": "text", "text": turn["content"]}]} if isinstance(turn["content"], str) else turn
                for turn in turns
            ]
        try:
            return self._apply(turns, [_TOOL] if tools else [], generation_prompt)
        except TemplateError:
            return ""


def with_tools_in_system(turns: Sequence[TurnDict], tools: Tools) -> list[TurnDict]:
    """Return ``turns`` with ``tools`` as JSON text in the system turn, as Phi-4-mini's template reads them."""
    system, *rest = turns if turns and turns[0]["role"] == "system" else [{"role": "system", "content": ""}, *turns]
    functions = [tool.get("function", tool) for tool in tools]
    return [{**system, "tools": json.dumps(functions, ensure_ascii=False)}, *rest]


def with_word_in_system(turns: Sequence[TurnDict], word: str) -> list[TurnDict]:
    system, *rest = turns if turns and turns[0]["role"] == "system" else [{"role": "system", "content": ""}, *turns]
    return [{**system, "content": f"{system['content']}\n{word}".lstrip("\n")}, *rest]


def _opened(reasoning: str, answer: str) -> str:
    return join_reasoning(reasoning, answer).removeprefix("<think>\n")


def _with_system_turns(turns: list[Message], system_turns: Sequence[Message]) -> list[Message]:
    """Return ``turns`` with ``system_turns`` merged into the user turn at their end, or appended if there is none."""
    if system_turns and turns and turns[-1].role == "user":
        return [*turns[:-1], _merged(turns[-1], [turns[-1], *system_turns])]
    return [*turns, *system_turns]


def _merged(user: Message, turns: Sequence[Message]) -> Message:
    """Return ``user`` with the text of ``turns``, in their order; blank ones, except ``user`` itself, are left out."""
    return replace(user, content="\n\n".join(turn.content for turn in turns if turn is user or turn.content.strip()))


def _appear_in_order(text: str, words: Sequence[str]) -> bool:
    """Return whether each of ``words`` is in ``text``, and their last occurrences are in this order."""
    places = [text.rfind(word) for word in words]
    return -1 not in places and places == sorted(places)


def end_tokens(tokenizer: TokenizerWrapper, render: Render) -> frozenset[int] | None:
    """Return the tokens with which a final assistant turn ends: one after an answer, and one after a call if it differs.

    The first is the first control token after the text of the answer; without it, the result is empty. If no known token ends a
    call (Gemma 4), it ends with the last control token. ``render`` returns a conversation as text. Control tokens are
    the tokenizer's added tokens, except whitespace. Returns ``None`` if the text of the answer is not in the conversation.
    """
    known = set(tokenizer.eos_token_ids)
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if not token.content.isspace()}
    tokens = _after(tokenizer, render, Message("assistant", _END_PROBE))
    if tokens is None:
        return None
    end = next((token for token in tokens if token in added | known), None)
    if end is None:
        return frozenset()
    after_call = _after(tokenizer, render, Message("assistant", "", {"tool_calls": [_END_CALL]})) or []
    if known.isdisjoint(after_call) and end not in after_call and after_call and after_call[-1] in added:
        return frozenset({end, after_call[-1]})
    return frozenset({end})


def closing_tokens(tokenizer: TokenizerWrapper, render: Render) -> frozenset[int]:
    """Return the eos token that follows the token that ends an answer, also inside a conversation, as in Cohere's templates."""
    tokens = _after(tokenizer, render, Message("assistant", _END_PROBE), _END_QUESTION) or []
    known = set(tokenizer.eos_token_ids)
    end = next((index for index, token in enumerate(tokens) if token in tokenizer.added_tokens_decoder), len(tokens))
    return frozenset(tokens[end + 1 : end + 2]) & known if not known.issuperset(tokens[end : end + 1]) else frozenset()


def _after(tokenizer: TokenizerWrapper, render: Render, *messages: Message) -> list[int] | None:
    """Return the tokens after the probe text in a conversation that ends with ``messages``, or ``None`` if it is not there."""
    try:
        _, separator, rest = render((_END_QUESTION, *messages)).rpartition(_END_PROBE)
    except TemplateError:
        return None
    return list(tokenizer.encode(rest.rstrip(), add_special_tokens=False)) if separator else None
