"""Changes that a chat template makes to rows that can be trained on.

The notes' values are IDs of checks in ``checks/template.py``.
"""

from enum import StrEnum

from mlxtune.core.text import plural


class TemplateNote(StrEnum):
    """A change that is reported for a data set, with the number of rows."""

    SYSTEM = "system-folded"
    REASONING = "reasoning-left-out"
    NAME = "name-left-out"
    TRIMMED = "trimmed"
    COMPOSED = "composed"
    CONTROL = "control-tokens"
    TURNS = "turns-expanded"
    CUT = "turns-cut"
    WINDOWS = "text-windows"

    def describe(self, count: int) -> str:
        """Return the change and the number of rows that have it, as a message."""
        return f"{plural(count, 'row')}: {self.sentence}"

    @property
    def sentence(self) -> str:
        return _SENTENCES[self]


_SENTENCES = {
    TemplateNote.SYSTEM: "The template does not render a system turn at that position, so it is merged into the user turn.",
    TemplateNote.REASONING: 'Reasoning is left out, because model.thinking is "off". Set it to "on" to train on it, if the template renders it.',
    TemplateNote.NAME: "The template does not render the names of speakers. Write them in the messages if they matter.",
    TemplateNote.TRIMMED: "The template trims answers, so whitespace at their start or end is not trained on.",
    TemplateNote.COMPOSED: "The tokenizer composes characters (Unicode NFC), so decomposed ones are not trained on as written.",
    TemplateNote.CONTROL: "Control tokens in a message are encoded as text, in training and at inference.",
    TemplateNote.TURNS: "The template rewrites earlier turns, so each answer becomes a separate training example.",
    TemplateNote.CUT: "Later answers are not trained on, because the prompt before them fills data.max_tokens.",
    TemplateNote.WINDOWS: "The text is longer than data.max_tokens, so it is divided into windows that overlap by an eighth.",
}
