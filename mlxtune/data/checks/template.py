"""Find rows that the chat template rejects, and report what it changes in the others."""

from __future__ import annotations

from collections.abc import Iterator

from mlxtune.data.checks.base import BY_HAND, DROP, Check, CheckFamily, Finding, Span
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.template_notes import TemplateNote

Reasons = Iterator[tuple[str, tuple[Span, ...]]]
family = CheckFamily()


@family.row_check(Check("template", "block", "rows that the template rejects", DROP, "✗"))
def template(row: CheckInput) -> Reasons:
    if row.tokens and row.tokens.error:
        yield row.tokens.error, ()


@family.row_check(Check(TemplateNote.CONTROL, "warn", "messages with control tokens", BY_HAND, short="special"))
def control_tokens(row: CheckInput) -> Reasons:
    if row.tokens and TemplateNote.CONTROL in row.tokens.notes:
        yield TemplateNote.CONTROL.sentence, ()


PER_SOURCE = {  # changes that concern most rows or none are reported once
    TemplateNote.SYSTEM: family.register(Check(TemplateNote.SYSTEM, "note", "folded system turns", glyph="·")),
    TemplateNote.REASONING: family.register(Check(TemplateNote.REASONING, "note", "reasoning that is left out", glyph="·")),
    TemplateNote.NAME: family.register(Check(TemplateNote.NAME, "note", "names that are left out", glyph="·")),
    TemplateNote.TRIMMED: family.register(Check(TemplateNote.TRIMMED, "note", "trimmed answers", glyph="·")),
    TemplateNote.COMPOSED: family.register(Check(TemplateNote.COMPOSED, "note", "composed characters", glyph="·")),
    TemplateNote.TURNS: family.register(Check(TemplateNote.TURNS, "note", "answers in separate examples", glyph="·")),
}


@family.corpus_check
def changes(corpus: Corpus) -> Iterator[Finding]:
    """Report the changes that the template makes, with the number of rows."""
    for note, check in PER_SOURCE.items():
        if count := corpus.template_notes[note]:
            yield Finding(check.id, check.severity, (), note.describe(count))
