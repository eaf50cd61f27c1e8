"""Thinking modes: which variables of a chat template control reasoning, and which date it prints."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError, meta, nodes
from transformers.utils.chat_template_utils import _compile_jinja_template

from mlxtune.recipe.schema import Thinking

# Qwen3, SmolLM3, GLM, Gemma 4, Nemotron 3 and many others; Granite 3 and DeepSeek V3; Seed-OSS (a number of tokens; 0 is off)
# Variables that turn reasoning on and off, with both values; None leaves the variable undefined.
_SWITCHES: dict[str, tuple[Any, Any]] = {"enable_thinking": (True, False), "thinking": (True, False), "thinking_budget": (None, 0)}
_HISTORY = {  # variables that keep the reasoning of earlier turns, with the value that keeps it
    "preserve_thinking": True,  # Qwen3.6, Gemma 4, LFM2.5
    "keep_past_thinking": True,  # LFM2.5
    "keep_cots": True,  # Hermes 4
    "clear_thinking": False,  # GLM 4.7 and 5
    "truncate_history_thinking": False,  # Nemotron 3
}
_EFFORTS = ("reasoning_effort", "reasoning_strength", "thinking_effort")  # gpt-oss, Qwen3.8; Muse; Kimi
_NO_EFFORT = ("none", "no_think")  # effort levels that turn reasoning off, in templates that know them
_WORDS = ("/no_think", "/think")  # Nemotron Nano v2
_EFFORT_LEVELS = ("low", "medium", "high")
_REASONING = re.compile(r"think|reasoning|<\|channel", re.IGNORECASE)
_CLOCK = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_QUESTION = [{"role": "user", "content": "Hello"}]


# What a thinking mode does; empty if the template does not support reasoning. It is kept in, or removed from, earlier turns.
ThinkingEffect = Literal["", "off", "lowest_effort", "model_decides", "on", "on_and_kept", "on_and_removed"]


@dataclass(frozen=True)
class ThinkingControls:
    switch: str = ""  # the variable that turns it on, if any
    effort: str = ""  # the variable that sets its amount, if any
    efforts: tuple[str, str] = ("", "")  # its values for off and on; an empty value leaves the template's default
    history: tuple[str, ...] = ()  # variables that decide whether the reasoning of earlier turns stays
    kept: bool = False  # whether it stays if they are not set
    words: tuple[str, str] = ("", "")  # in the system turn, that disable and enable it if there is no variable; may be empty
    reasons: bool = False  # whether the template mentions reasoning

    def word(self, mode: Thinking) -> str:
        """Return the word in the system turn for ``mode``, which may be empty."""
        return self.words[mode != "off"]

    def variables(self, mode: Thinking) -> dict[str, Any]:
        """Return the template variables for ``mode``. ``enable_thinking`` is always set, since mlx-lm would turn it on."""
        on = mode != "off"
        values: dict[str, Any] = {"enable_thinking": on}
        if self.switch:
            values[self.switch] = _SWITCHES[self.switch][0 if on else 1]
        if self.effort and (level := self.efforts[on]):
            values[self.effort] = level
        values |= {name: _HISTORY[name] for name in self.history if mode == "keep"}
        return {name: value for name, value in values.items() if value is not None}

    def history_variables(self, mode: Thinking) -> dict[str, bool]:
        """Return the variables that decide about earlier turns, with the values that have the same effect as ``variables(mode)``."""
        return {name: _HISTORY[name] is (mode == "keep" or self.kept) for name in self.history}

    def keeps(self, mode: Thinking) -> bool:
        """Return whether the reasoning of earlier turns stays in ``mode``: by the template's own default if that is "on"."""
        return mode == "keep" or (mode == "on" and self.kept)

    def effort_variables(self, level: str) -> dict[str, Any]:
        """Return the variables for an OpenAI ``reasoning_effort`` of ``level``; ``none`` turns reasoning off."""
        mode: Thinking = "off" if level == "none" else "on"
        return self.variables(mode) | ({self.effort: level} if self.effort and mode == "on" else {})

    def mode(self, variables: Mapping[str, Any], default: Thinking) -> Thinking:
        """Return the mode that ``variables`` set; parts that they do not set are taken from ``default``."""
        on = bool(variables[self.switch]) if self.switch in variables else default != "off"
        kept = [variables[name] is _HISTORY[name] for name in self.history if name in variables]
        return "off" if not on else "keep" if any(kept or [default == "keep"]) else "on"

    def effect(self, mode: Thinking) -> ThinkingEffect:
        if not self.reasons:
            return ""
        if not (self.switch or self.effort or self.words[0]):
            return "model_decides"
        if mode == "off":
            return "lowest_effort" if self.efforts[0] not in ("", *_NO_EFFORT) else "off"
        return "on" if mode == "on" and not self.kept else "on_and_kept" if self.history else "on_and_removed"


@lru_cache(maxsize=32)
def thinking_controls(source: str) -> ThinkingControls:
    """Return how the Jinja template ``source`` controls reasoning: the variables that it reads and that change what it renders."""
    names, reasons = template_variables(source), bool(_REASONING.search(source))

    def render(variables: dict[str, Any], turns: Sequence[dict[str, str]] = ()) -> str | None:
        try:
            messages = [*turns, *_QUESTION]
            return str(_compile_jinja_template(source).render(messages=messages, add_generation_prompt=True, **variables))
        except Exception:  # a template is a program and may raise anything
            return None

    switch = effort = ""
    for name in (name for name in _SWITCHES if name in names and not switch):
        on, off = (render({} if value is None else {name: value}) for value in _SWITCHES[name])
        switch = name if on is not None and off is not None and on != off else ""
    efforts = ("", "")
    for name in (name for name in _EFFORTS if name in names and not effort):
        known = [level for level in _NO_EFFORT if re.search(rf"['\"]{level}['\"]", source)]
        prompts = {level: prompt for level in (*known, *_EFFORT_LEVELS) if (prompt := render({name: level})) is not None}
        if len(set(prompts.values())) > 1:
            effort, lowest = name, next(iter(prompts))
            efforts = ("", "") if switch else (lowest, _EFFORT_LEVELS[-1] if render({}) == prompts[lowest] else "")
    words = ("", "")
    if not switch and not effort and all(word in source for word in _WORDS):
        prompts = {word: render({}, [{"role": "system", "content": word}]) or word for word in _WORDS}
        words = _WORDS if len({prompt.replace(word, "") for word, prompt in prompts.items()}) > 1 else words
    history = tuple(name for name in _HISTORY if name in names)
    thought = {"role": "assistant", "content": "Hi.", "reasoning_content": "A greeting."}
    kept = bool(history) and thought["reasoning_content"] in (render({}, [*_QUESTION, thought]) or "")
    return ThinkingControls(switch, effort, efforts, history, kept, words, reasons)


def template_variables(source: str) -> frozenset[str]:
    """Return the variables that the Jinja template ``source`` reads, apart from built-in ones; empty if it is invalid."""
    syntax = _syntax_tree(source)
    return frozenset(meta.find_undeclared_variables(syntax)) if syntax else frozenset()


def prints_date(source: str) -> bool:
    """Return whether the Jinja template ``source`` may print the current date."""
    syntax = _syntax_tree(source)
    return syntax is not None and any(name.name == "strftime_now" for name in syntax.find_all(nodes.Name))


@lru_cache(maxsize=8)
def _syntax_tree(source: str) -> nodes.Template | None:
    try:
        return _compile_jinja_template(source).environment.parse(source)
    except TemplateError:
        return None


def freeze_date(source: str, date: str) -> str:
    """Return the Jinja template ``source`` with the ISO ``date`` as today's: calls of ``strftime_now`` become text.

    Transformers passes only data to templates, so that the function itself cannot be replaced.
    """
    day = datetime.fromisoformat(date)
    return _CLOCK.sub(lambda call: json.dumps(day.strftime(call[2])), source)
