"""The words of a generation: why texts of a teacher were not proposed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import one_line, plural
from mlxtune.present.blocks import ActionBlock, Block, Cell, Column, Document, Fact, Facts, Heading, Table
from mlxtune.present.labels import failure_name
from mlxtune.present.words import WORDS, fill

if TYPE_CHECKING:
    from mlxtune.evaluation.thin_rows import ThinRows


def refusal_title(kind: str) -> str:
    """Return why texts were refused, for a count of them: the title of a check, or the words for another code."""
    from mlxtune.data.checks.registry import is_check
    from mlxtune.present.check import check_title

    return check_title(kind) if is_check(kind) else WORDS.refusals.get(kind, one_line(kind, 60))


def thin_rows_text(place: ThinRows) -> str:
    code = place.kind if place.name else f"nameless_{place.kind}"
    return fill(WORDS.thin_rows[code], {**vars(place), "failure": failure_name(place.name)})


def generation_document(summary: Mapping[str, Any], lowest: Sequence[Mapping[str, Any]], refusals: Path, recipe: str) -> Document:
    """Describe a finished generation: its proposals, and why others were rejected, or the ``lowest`` grades.

    ``refusals`` is the file with all rejected texts, ``recipe`` the argument of the review's command.
    """
    if lowest:
        rows = tuple(
            (
                Cell(f"{row['line']:,}"), Cell(row["id"], "muted"), Cell(f"{row['grade']:.2f}"),
                Cell(", ".join(f"{name} {value:.2f}" for name, value in row["scores"].items())),
            )
            for row in lowest
        )  # fmt: skip
        columns = (Column("line", right=True), Column("row"), Column("grade", right=True), Column("scores"))
        graded = Fact("graded", plural(summary["scored"], "row"), f"mean {summary['mean']:.2f} of 1", "success")
        return Facts((graded,)), Table("Lowest grades", "", columns, rows)
    teacher = f"by {one_line(summary['teacher'], 80)}"
    facts = [Fact("proposed", plural(summary["proposed"], "row"), teacher, "success")]
    facts += [Fact("spent", f"${summary['spent']:.4f}")] if summary["spent"] else []
    blocks: list[Block] = [Facts(tuple(facts))]
    if refused := summary["refused"]:
        counts = tuple(Fact(refusal_title(kind), f"{count:,}") for kind, count in refused.items())
        blocks += [Heading("Rejected", plural(sum(refused.values()), "text")), Facts((*counts, Fact("all of them", str(refusals))))]
    if summary["proposed"]:
        blocks.append(ActionBlock("data.review", "review them", f'mlxtune data review {recipe} --filter "status:proposed"'))
    return tuple(blocks)
