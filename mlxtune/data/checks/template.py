"""Find rows that the chat template rejects, and report what it changes in the others."""

from collections.abc import Iterator

from mlxtune.data.checks.base import BY_HAND, DROP, Check, CheckFamily, Evidence, Finding
from mlxtune.data.checks.check_input import CheckInput
from mlxtune.data.checks.corpus import Corpus
from mlxtune.data.template_notes import TemplateNote

family = CheckFamily()


@family.row_check(Check("template", "block", "rows that the template rejects", "{error:all}", DROP, "✗"))
def template(row: CheckInput) -> Evidence | None:
    return Evidence(values={"error": row.tokens.error}) if row.tokens and row.tokens.error else None


@family.row_check(
    Check(TemplateNote.CONTROL, "warn", "messages with control tokens", TemplateNote.CONTROL.sentence, BY_HAND, short="special")
)
def control_tokens(row: CheckInput) -> Evidence | None:
    return Evidence() if row.tokens and TemplateNote.CONTROL in row.tokens.notes else None


_TITLES = {  # of changes that concern most rows or none, which are reported once
    TemplateNote.SYSTEM: "folded system turns",
    TemplateNote.REASONING: "reasoning that is left out",
    TemplateNote.NAME: "names that are left out",
    TemplateNote.TRIMMED: "trimmed answers",
    TemplateNote.COMPOSED: "composed characters",
    TemplateNote.TURNS: "answers in separate examples",
}
PER_SOURCE = {
    note: family.register(Check(note, "note", title, f"{{rows:n row}}: {note.sentence}", glyph="·"))
    for note, title in _TITLES.items()
}


@family.corpus_check
def changes(corpus: Corpus) -> Iterator[Finding]:
    for note, check in PER_SOURCE.items():
        if count := corpus.template_notes[note]:
            yield check.finding(values={"rows": count})
