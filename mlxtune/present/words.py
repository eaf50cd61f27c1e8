"""The words for codes, which are written once, in ``words.toml``."""

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from mlxtune.core.json_fields import from_json
from mlxtune.core.text import one_line, plural, size
from mlxtune.present.blocks import Mark

_MAX_VALUE = 80  # characters of a text
_MAX_ITEMS = 5  # of a list


@dataclass(frozen=True)
class StepWords:
    """A next step, and the app's action and the command that do it. Braces hold the step's arguments."""

    title: str
    action: str  # its ID
    label: str  # what the action does, beside its key
    command: str = ""
    mark: Mark = ""


@dataclass(frozen=True)
class StatusLabel:
    glyph: str
    style: str
    text: str


@dataclass(frozen=True)
class Words:
    """The tables, each by code."""

    skips: dict[str, str]
    file_notes: dict[str, str]
    refusals: dict[str, str]
    names: dict[str, str]  # of codes that are not their own names
    disadvantages: dict[str, str]
    part_notes: dict[str, str]
    peaks: dict[str, str]
    time_sources: dict[str, str]
    basis: dict[str, str]
    remedies: dict[str, str]
    decisions: dict[str, str]
    warnings: dict[str, str]
    steps: dict[str, StepWords]
    reviews: dict[str, str]
    row_keys: dict[str, str]
    chat_commands: dict[str, str]
    glyphs: dict[str, tuple[str, str]]  # a color and a meaning
    stop_effects: dict[str, str]
    check_verdicts: dict[str, str]
    thin_rows: dict[str, str]
    caveats: dict[str, str]
    promotion_hints: dict[str, str]
    improvements: dict[str, str]
    export_notes: dict[str, str]
    work: dict[str, tuple[str, str, str]]
    progress: dict[str, tuple[str, str, str]]
    answering: dict[str, tuple[str, str]]
    statuses: dict[str, StatusLabel]
    samples: dict[str, StatusLabel]  # how an answer to a validation row did
    log: dict[str, StatusLabel]  # the line of an event in a run's log, by its type
    trials: dict[str, str]
    outcome_marks: dict[str, Mark]
    generated: dict[str, tuple[str, str]]
    queued: dict[str, tuple[str, str]]
    commercial: dict[str, tuple[str, str]]
    advice_arms: dict[str, str]
    notices: dict[str, tuple[str, str]]  # a glyph and a color


WORDS = from_json(Words, tomllib.loads(files("mlxtune.present").joinpath("words.toml").read_text("utf-8")))


class _Formatter(string.Formatter):
    """Formats values from data safely.

    ``{rows:n row}`` is a count or the length of a list with its noun, ``{bytes:size}`` a size, ``{error:all}`` a text that is not shortened.
    """

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.startswith("n "):
            return plural(len(value) if isinstance(value, list) else value, format_spec[2:])
        if format_spec == "size":
            return size(value)
        if isinstance(value, str):
            return one_line(value, 0 if format_spec == "all" else _MAX_VALUE)
        if isinstance(value, Mapping):
            value = [f"{one_line(str(name), 30)} ({count:,})" for name, count in value.items()]
        if isinstance(value, list):
            more = [f"{len(value) - _MAX_ITEMS:,} more"] if len(value) > _MAX_ITEMS else []
            return ", ".join([*(one if isinstance(one, str) else f"{one:,}" for one in value[:_MAX_ITEMS]), *more])
        return format(value, format_spec)


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Return ``template`` with values in place of their names in braces. Raises ``KeyError`` if one is missing."""
    return _Formatter().vformat(template, (), values).strip()
