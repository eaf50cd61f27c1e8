"""A split, an export, an import of rows, and a first recipe as documents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxtune.core.text import one_line, plural
from mlxtune.data.column_map import ColumnUse
from mlxtune.data.export import ExportResult
from mlxtune.data.importer import ImportResult
from mlxtune.data.source import Source
from mlxtune.data.split import SPLIT_NAMES, Splits
from mlxtune.present.blocks import Cell, Column, Document, Fact, Facts, Heading, Table
from mlxtune.present.blocks import text as paragraph
from mlxtune.present.check import column_facts
from mlxtune.present.words import WORDS

if TYPE_CHECKING:  # they load numpy
    from mlxtune.data.scaffold import Scaffold
    from mlxtune.data.transforms.preview import Outcome

_USUAL_HOLDOUT = (0.10, 0.20)
_SEALED = "can never be used for training"
_SHOWN = 5  # rows that were set aside, and errors


def split_document(source: Source, splits: Splits, file: str) -> Document:
    sizes = {name: len(getattr(splits, name)) for name in SPLIT_NAMES}
    total, tags = sum(sizes.values()), splits.tags
    rows = []
    for name, count in sizes.items():
        tagged = (Cell(f"{own[name]:,}") for own in tags.values())
        rows.append((Cell(name, "bold"), Cell(f"{count:,}"), Cell(f"{count / max(total, 1):.1%}"), *tagged))
    columns = (Column("split"), *(Column(label, right=True) for label in ("rows", "", *tags)))
    facts = []
    share, (low, high) = sizes["test"] / max(total, 1), _USUAL_HOLDOUT
    if sizes["test"] and not low <= round(share, 2) <= high:
        facts.append(Fact("test split", f"{share:.1%}", f"usual: {low:.0%} to {high:.0%}", "warning"))
    if source.left_out or source.edited:
        facts.append(Fact("review", f"{source.left_out:,} left out, {len(source.edited):,} edited"))
    if sealed := splits.sealed_count:
        facts.append(Fact("sealed", plural(sealed, "test row"), f"{_SEALED}: an evaluation or an export has recorded them"))
    if aside := splits.set_aside:
        places = ", ".join(str(row.location) for row in aside[:_SHOWN]) + (" …" if len(aside) > _SHOWN else "")
        facts.append(Fact("set aside", plural(len(aside), "new row"), f"near-duplicates in different splits: {places}"))
    facts.append(Fact("recorded", file, "every row stays in its split unless [data] changes", "success"))
    return (Heading(source.path.name, plural(total, "row")), Table("", "", columns, tuple(rows)), Facts(tuple(facts)))


def export_document(result: ExportResult) -> Document:
    counts = ", ".join(f"{result.counts[name]:,} {name}" for name in SPLIT_NAMES)
    facts = [Fact("exported", counts, str(result.folder), "success")]
    if result.undecided:
        facts.append(Fact("left out", plural(result.undecided, "undecided row"), "--pending exports them, too"))
    if result.set_aside:
        facts.append(Fact("set aside", plural(result.set_aside, "row"), "near-duplicates of rows in different splits"))
    return (Facts((*facts, Fact("test split", "sealed", f"its rows {_SEALED} from now on"))),)


def import_document(result: ImportResult, columns: ColumnUse) -> Document:
    formats = ", ".join(f"{count:,} {name}" for name, count in result.formats.items())
    facts = [Fact("imported", plural(result.rows, "row"), f"{formats}; {result.out}", "success")]
    facts += [*column_facts(columns), *(Fact("file", WORDS.file_notes[note]) for note in result.notes)]
    if result.transcripts:
        value = f"{plural(result.transcripts, 'text')} that look like transcripts"
        facts.append(Fact("format", value, f'read {result.out.name} with the format "text"', "warning"))
    if result.bad:
        facts.append(Fact("left out", plural(len(result.bad), "invalid row"), "", "warning"))
    errors = [paragraph(one_line(error.message), "muted", "warning") for error in result.bad[:_SHOWN]]
    return (Facts(tuple(facts)), *errors)


def outcome_text(outcome: Outcome) -> str:
    counts = (("edited", outcome.edited), ("left out", outcome.left_out), ("added", outcome.added))
    parts = ", ".join(f"{count:,} {name}" for name, count in counts if count)
    after = plural(outcome.rows - outcome.left_out + outcome.added, "row")
    text = f"{parts}: {outcome.rows:,} → {after}." if parts else f"No change to {plural(outcome.rows, 'row')}."
    return f"{text} {plural(outcome.failed, 'row')} cannot be changed: {outcome.error}" if outcome.failed else text


def recipe_document(guessed: Scaffold, name: str, *, with_columns: bool = False) -> Document:
    from mlxtune.data.checks.registry import get_check  # imports numpy, which --help does not need

    formats = ", ".join(f"{count:,} {format}" for format, count in guessed.formats.items())
    facts = [Fact("rows", f"{guessed.rows:,} ({formats})"), *(column_facts(guessed.columns) if with_columns else ())]
    unreadable = (f"{count:,} {get_check(check).label}" for check, count in guessed.unreadable.items())
    facts += [Fact("blocked", ", ".join(unreadable), "", "warning")] if guessed.unreadable else []
    facts += [Fact("method", guessed.method), Fact("tokens", f"max_tokens = {guessed.max_tokens:,}", "estimated")]
    if contract := None if guessed.only_texts else _guessed_contract(guessed, name):
        facts.append(Fact("contract", *contract))
    if guessed.correct:
        facts.append(Fact("correct", ", ".join(guessed.correct), "equal to the reference"))
    if guessed.sentences:
        required, offered = guessed.required_sentences, len(guessed.sentences) - guessed.required_sentences
        parts = [f"{required:,} in every answer they apply to"] if required else []
        parts += [f"{offered:,} in some answers, commented out"] if offered else []
        facts.append(Fact("disclaimers", ", ".join(parts)))
    missing = (paragraph("Say what an answer must satisfy in [evaluation].", mark="warning"),) if guessed.needs_contract else ()
    return (Facts(tuple(facts)), *missing)


def _guessed_contract(guessed: Scaffold, name: str) -> tuple[str, str] | None:
    if guessed.labels:
        return f"{len(guessed.labels)} labels", ""
    if guessed.schema is not None:
        origin = "from the calls" if guessed.correct == ("calls",) else "from the JSON answers"
        return f"{name}.schema.json", origin
    if guessed.number_form:
        return f"ends with {guessed.number_form}", ""
    if guessed.correct:
        return None
    measure = "the likelihood of both answers" if guessed.method == "dpo" else "exact match"
    return "the disclaimers" if guessed.required_sentences else "none", f"measured by {measure}"
