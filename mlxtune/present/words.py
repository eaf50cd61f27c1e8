"""The words for codes, which are written once, in ``words.toml``."""

import tomllib
from dataclasses import dataclass
from importlib.resources import files

from mlxtune.core.json_fields import from_json
from mlxtune.present.blocks import Mark


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
    """A status as a glyph, a style, and a word."""

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
    improvements: dict[str, str]
    export_notes: dict[str, str]
    work: dict[str, tuple[str, str, str]]
    progress: dict[str, tuple[str, str, str]]
    answering: dict[str, tuple[str, str]]
    statuses: dict[str, StatusLabel]
    trials: dict[str, str]
    outcome_marks: dict[str, Mark]
    generated: dict[str, tuple[str, str]]
    queued: dict[str, tuple[str, str]]
    commercial: dict[str, tuple[str, str]]
    advice_arms: dict[str, str]
    notices: dict[str, tuple[str, str]]  # a glyph and a color


WORDS = from_json(Words, tomllib.loads(files("mlxtune.present").joinpath("words.toml").read_text("utf-8")))
