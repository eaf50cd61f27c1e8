"""Express a chat template as the text around each turn, for programs that cannot run Jinja.

Ollama renders conversations with Go's ``text/template``. The text around turns is read from what the model's own template renders, and
the result is compared with it, token for token, before it is used. Templates that do more than put text around turns, such as those that
list tools, cannot be expressed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlxtune.adapters.export.fidelity import PromptDifference
from mlxtune.adapters.export.program_prompts import prompt_difference
from mlxtune.core.errors import TemplateError
from mlxtune.core.sequences import common_length
from mlxtune.data.rows import Message, PromptRow
from mlxtune.models.template import ChatTemplate

_SYSTEM, _FIRST, _ANSWER, _SECOND = "System probe 5141.", "First probe 5142.", "Answer probe 5143.", "Second probe 5144."


@dataclass(frozen=True)
class TurnTemplate:
    """The text around turns. A conversation begins with at most one system turn, and ends with a user's turn."""

    start: str  # before a first turn of the user
    system: tuple[str, str] | None  # before and after a system turn; None if the template has none
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str  # at the end
    user_after_system: bool = True  # False: nothing is between the system turn's text and the user's, as in Gemma's template

    def render(self, messages: Sequence[Message]) -> str | None:
        """Return the prompt for ``messages`` as Ollama renders it, or ``None`` if a turn cannot be expressed."""
        text, merged = "", _merged(messages)
        for index, turn in enumerate(merged):
            around = {"system": self.system, "user": self.user, "assistant": self.assistant}.get(turn.role)
            if around is None or "tool_calls" in turn.extra:
                return None
            before, after = around
            if turn.role == "user" and index == 0:
                before = self.start + before
            if turn.role == "user" and index == 1 and merged[0].role == "system" and not self.user_after_system:
                before = ""
            text += before + turn.content + after
        return text + self.generation

    @property
    def go(self) -> str:
        """The template in the language of Go's ``text/template``, with the variables that Ollama defines (docs.ollama.com/modelfile)."""
        before, after = self.user
        if not self.user_after_system:
            before = f'{{{{ if or (ne $i 1) (ne (index $.Messages 0).Role "system") }}}}{before}{{{{ end }}}}'
        start = f"{{{{ if eq $i 0 }}}}{self.start}{{{{ end }}}}" if self.start else ""
        user = f'{{{{ if eq .Role "user" }}}}{start}{before}{{{{ .Content }}}}{after}'
        assistant = f'{{{{ else if eq .Role "assistant" }}}}{self.assistant[0]}{{{{ .Content }}}}{self.assistant[1]}'
        system = ""
        if self.system:
            system = f'{{{{ else if eq .Role "system" }}}}{self.system[0]}{{{{ .Content }}}}{self.system[1]}'
        return f"{{{{ range $i, $_ := .Messages }}}}{user}{assistant}{system}{{{{ end }}}}{{{{ end }}}}{self.generation}"


def derive(template: ChatTemplate, bos: str = "") -> TurnTemplate | None:
    """Return ``template`` as the text around turns, or ``None`` if that is not possible. ``bos`` is removed from the start.

    A result is correct only for conversations like the probes; :func:`first_difference` compares others.
    """
    user, second = Message("user", _FIRST), Message("user", _SECOND)
    answer = Message("assistant", _ANSWER)
    try:
        one = _split(template, [user])
        two = _split(template, [user, answer, second])
        asked, answered = (_split(template, turns, generation=False) for turns in ([user], [user, answer]))
    except TemplateError:
        return None
    if not (one and two and asked and answered and two[0] == one[0]):
        return None
    start, end = one
    to_answer, to_user = two[1], two[2]
    shared = end[: common_length(end, to_answer)]
    after_user = asked[1] if shared.startswith(asked[1]) else shared
    before_user = to_user.removeprefix(answered[2])
    if not start.endswith(before_user):
        before_user = to_user[len(to_user) - common_length(start[::-1], to_user[::-1]) :]
    system, user_after_system = None, True
    try:
        with_system = _split(template, [Message("system", _SYSTEM), user])
    except TemplateError:
        with_system = None
    if with_system and with_system[2] == end:
        between = with_system[1]
        user_after_system = between.endswith(before_user)
        system = (with_system[0].removeprefix(bos), between.removesuffix(before_user) if user_after_system else between)
    result = TurnTemplate(
        start=start.removeprefix(bos).removesuffix(before_user), system=system, user=(before_user, after_user),
        assistant=(to_answer.removeprefix(after_user), to_user.removesuffix(before_user)), generation=end.removeprefix(after_user),
        user_after_system=user_after_system,
    )  # fmt: skip
    parts = (result.start, *(system or ()), *result.user, *result.assistant, result.generation)
    return None if any(mark in part for part in parts for mark in ("{{", "}}")) else result


def first_difference(
    template: ChatTemplate, other: TurnTemplate, rows: Sequence[PromptRow], bos: str = ""
) -> PromptDifference | None:
    """Return where the prompts of ``rows`` first differ between ``template`` and ``other``, or ``None`` if their tokens are equal."""

    def render(row: PromptRow) -> list[int]:
        text = None if row.tools else other.render(row.prompt)
        return [] if text is None else template.tokenizer.encode(bos + text, add_special_tokens=False)

    return prompt_difference(template, ((row, template.prompt(row.prompt, row.tools)) for row in rows), render)


def _split(template: ChatTemplate, messages: Sequence[Message], *, generation: bool = True) -> tuple[str, ...] | None:
    parts, rest = [], template.render(messages, (), generation_prompt=generation)
    for turn in messages:
        before, separator, rest = rest.partition(turn.content)
        if not separator:
            return None
        parts.append(before)
    return (*parts, rest)


def _merged(messages: Sequence[Message]) -> list[Message]:
    """Merge consecutive turns of a role, as Ollama does (``collate`` in its ``template/template.go``)."""
    merged: list[Message] = []
    for turn in messages:
        if merged and merged[-1].role == turn.role != "tool":
            merged[-1] = replace(merged[-1], content=f"{merged[-1].content}\n\n{turn.content}")
        else:
            merged.append(turn)
    return merged
