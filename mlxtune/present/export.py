"""Describe exports of an adapter: their formats, what they cost, and how to use them."""

from collections.abc import Sequence

from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export.fidelity import ComparedAnswers, Fidelity, PromptDifference, TriedSize
from mlxtune.adapters.export.tried import FailedExport, TriedExport
from mlxtune.core.text import one_line, plural, size
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.verdict import Comparison
from mlxtune.present.blocks import Block, Cell, Column, Document, Fact, Facts, Heading, Mark, Table
from mlxtune.present.labels import change_text, outcome_mark, percent, word
from mlxtune.present.words import WORDS

LOST = "effect lost"
IDENTICAL = "identical answers"
KL = "KL per token"

_FORMS = {"fused": "MLX", "quantized": "MLX, requantized", "hf": "safetensors", "gguf": "GGUF", "gguf-lora": "GGUF LoRA"}
_PROMPTS: dict[fidelity.PromptCheck, str] = {"tokens": "same tokens", "counts": "same number of tokens", "none": "not compared"}


def form_label(export: TriedExport | FailedExport) -> str:
    precision = export.precision
    shown = precision if "bit" in precision else precision.upper() if export.form == "gguf" else ""
    label = f"{_FORMS.get(export.form, export.form)} {shown}".rstrip()
    return f"{label} for {export.program}" if export.program else label


def fidelity_document(proof: Fidelity, folder: str = "", nbytes: int = 0) -> Document:
    facts = [
        Fact("fidelity", word(proof.outcome), mark=outcome_mark(proof.outcome)),
        Fact(LOST, percent(proof.lost_share)),
        Fact(IDENTICAL, identical(proof.answers)),
    ]
    if proof.needed_rows > proof.answers.rows:
        note = f"{proof.answers.rows} held-out rows are too few; about {proof.needed_rows} can rule out the margin"
        facts.append(Fact("sizes", "none holds", note, "warning"))
    if proof.prompt:
        facts.append(Fact("prompts", difference_text(proof.prompt), mark="error"))
    if proof.typed:
        shown = ", ".join(proof.typed[:3]) + (", …" if len(proof.typed) > 3 else "")
        note = f"control tokens in them are text only in training: {shown}"
        facts.append(Fact("prompts", f"{plural(len(proof.typed), 'row')} not compared", note, "warning"))
    if folder:
        facts.append(Fact("folder", folder, size(nbytes)))
    labels = ("", "logits, mean", "max", "KL, nats per token", "same top token")
    rows = (
        (Cell(name, "muted"), *map(Cell, (f"{item.mean:.4f}", f"{item.max:.3f}", f"{item.kl:.5f}", percent(item.agree))))
        for name, item in (("adapter's effect", proof.change), ("export's error", proof.loss))
    )
    distances = Table("", "", tuple(Column(label, right=bool(label)) for label in labels), tuple(rows))
    sizes = (sizes_table(proof.sizes, proof.precision),) if proof.sizes else ()
    heading = f"base with adapter versus export, on {'off-task prompts' if proof.off_task else 'held-out rows'}"
    contract = contract_tables(proof.answers, "adapter, then export")
    return Heading("Fidelity", heading), Facts(tuple(facts)), distances, *sizes, *contract


def sizes_table(sizes: Sequence[TriedSize], chosen: str) -> Table:
    head = ("", "size", "whole contract", "change in points", IDENTICAL, "tokens/s", "")
    exported = next((one for one in sizes if one.holds and one.precision == chosen), None)
    rows = (_size_row(one, "exported" if one is exported else "") for one in sizes)
    return Table(
        "Sizes", "adapter versus export", tuple(Column(label, right=0 < at < 6) for at, label in enumerate(head)), tuple(rows)
    )


def _size_row(one: TriedSize, result: str) -> tuple[Cell, ...]:
    name, contract = one.precision + (f", {one.finishing_steps} steps" if one.finishing_steps else ""), one.answers.contract
    lost = "may lose more than the margin" if contract else f"loses {percent(fidelity.LOSSY)} of the effect or more"
    result = result or ("holds" if one.holds else lost)
    return (
        Cell(name, "success" if result == "exported" else ""), Cell(f"{one.nbytes / 2**20:.0f} MB"), Cell(rate(contract)),
        Cell(points(contract)), Cell(identical(one.answers)), Cell(f"{one.speed:.0f}" if one.speed else ""), Cell(result),
    )  # fmt: skip


def verification_document(result: fidelity.Verification, name: str = "") -> Document:
    wrong = result.difference
    facts = [
        Fact("prompts", difference_text(wrong), mark="error") if wrong else Fact("prompts", _PROMPTS[result.prompts]),
        Fact(IDENTICAL, identical(result.answers)),
    ]
    if contract := result.answers.contract:
        mark: Mark = "error" if result.answers.is_worse else ""
        facts.append(Fact(metric_label(contract.metric), f"{rate(contract)} {points(contract)} points", mark=mark))
    note = f"{name or 'the model'} at {one_line(result.url, 60)} versus the adapter, on held-out rows"
    return Heading("Verification", note), Facts(tuple(facts)), *contract_tables(result.answers, "adapter, then program")


def contract_tables(answers: ComparedAnswers, note: str) -> Sequence[Block]:
    from mlxtune.present.comparison import comparison_table

    named = [(metric_label(item.metric), item) for item in answers.rates]
    return [comparison_table("Contract", note, named)] if named else []


def exports_table(exports: Sequence[TriedExport]) -> Table:
    head = {"format": 0, "size": 0, LOST: 0, KL: 1, IDENTICAL: 1, "whole contract": 0, "change in points": 1, "measured in": 1}
    columns = tuple(Column(label, index in range(1, 7), priority) for index, (label, priority) in enumerate(head.items()))
    return Table("Exports", "compared with the adapter as trained", columns, tuple(map(_export_row, exports)))


def _export_row(export: TriedExport) -> tuple[Cell, ...]:
    proof, contract = export.proof, export.answers.contract
    mark = outcome_mark(proof.outcome)
    return (
        Cell(form_label(export), "error" if export.failed else ""),
        Cell(size(export.nbytes)), Cell(percent(proof.lost_share), "" if mark == "success" else mark), Cell(f"{proof.loss.kl:.5f}"),
        Cell(identical(export.answers)), Cell(rate(contract)), Cell(points(contract)), Cell(measured_in(export)),
    )  # fmt: skip


def measured_in(export: TriedExport) -> str:
    return one_line(export.verified.url, 40) if export.verified else "MLX"


def identical(answers: ComparedAnswers) -> str:
    return f"{answers.same} of {answers.rows}"


def rate(item: Comparison | None) -> str:
    """Return the rate of a metric as exported, or ``""``."""
    return percent((item.paired.both + item.paired.fixed) / item.paired.total) if item else ""


def points(item: Comparison | None) -> str:
    """Return a change in points with its 95% interval, or ``""``."""
    return change_text(item.low, item.change, item.high) if item else ""


def difference_text(difference: PromptDifference) -> str:
    if difference.position < 0:
        return f"{difference.actual} tokens instead of {difference.expected}"
    shown = (repr(one_line(part, 40)) if part else "the end" for part in (difference.actual, difference.expected))
    return f"differ at token {difference.position}: {' instead of '.join(shown)}"


def export_note(note: str, token: str = "") -> str:
    about = f" An example is {one_line(token, 40)}." if token else ""
    return f"{WORDS.export_notes[note]}{about} Compare your prompts with: mlxtune verify-export"
