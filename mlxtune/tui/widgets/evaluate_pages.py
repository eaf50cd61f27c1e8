"""Pages over the Evaluate room: every figure of a report, all of a row, off-task prompts, and two reports against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from mlxtune.core.errors import MlxtuneError
from mlxtune.core.text import duration, one_line, safe_text
from mlxtune.tui.draw import col, fold, line, lines, wrap
from mlxtune.tui.evaluations import Lens, Opened, label, named
from mlxtune.tui.verdict import SIGNS
from mlxtune.tui.widgets.answer_text import answer_rows
from mlxtune.tui.widgets.evaluate_pictures import TUNED, fold_marked, margins, side_rows, why_rows

if TYPE_CHECKING:
    from mlxtune.evaluation.compare import Contrast
    from mlxtune.evaluation.drill import Row
    from mlxtune.evaluation.regression import Probe
    from mlxtune.evaluation.verdict import Comparison

_ROLES = {"system": "◇", "developer": "◇", "user": "○", "assistant": "●", "tool": "▷"}


def sorry(error: MlxtuneError, width: int) -> Content:
    """A report that cannot be read."""
    body = fold(one_line(error.message), width - 2, indent="    ", style="bold $error")
    mend = one_line(error.mend) or "Evaluate again, or choose another report."
    return lines(line(("  ✗ ", "bold $error"), body[4:]), fold(mend, width, "    ", style=""))


def whole_row(opened: Opened, row: Row, lens: Lens, width: int) -> list[Content]:
    """Everything about a row: the conversation, every arm's answer to it, the reference, and its neighbours with their reviewers."""
    from mlxtune.evaluation.wording import nearby

    rows: list[Content] = []
    for message in row.asked.prompt:
        rows.append(line((f"  {_ROLES.get(message.role, '·')} ", "$muted"), (one_line(message.role), "bold $muted")))
        rows += [line("    ", piece) for piece in wrap(safe_text(message.content).expandtabs(4), width - 6)]
        rows.append(Content(""))
    for arm in (lens.arm, *(other for other in row.said if other != lens.arm)):
        span = opened.drill.span(row, lens.metric, arm) if opened.drill else None
        rows += [line("  ", piece) for piece in side_rows(one_line(arm), row.said[arm].output, span, arm == TUNED, width - 4)]
        rows += why_rows(row.scores.get(arm), width)
    if row.asked.reference is not None:
        rows += [line("  ", piece) for piece in side_rows("reference", row.asked.reference, None, False, width - 4)]
        rows.append(Content(""))
    if row.linked and row.linked.near:
        rows.append(line(("  Nearest training rows", "bold $muted")))
        rows += [line("  ", piece) for one in row.linked.near for piece in wrap(safe_text(nearby(one)), width - 4)]
    return rows


def report_rows(opened: Opened, width: int) -> list[Content]:
    """Every figure: the headline in plain words, each comparison, margins, how arms answered, and what was compared."""
    from mlxtune.evaluation.wording import facts, lede

    report = opened.report
    rows = [*_prose(one_line(report.verdict), width, "bold"), *_prose(one_line(lede(report)), width), Content("")]
    if report.comparisons:
        pairs = dict.fromkeys((item.first, item.second) for item in report.comparisons)
        for first, second in pairs:
            found = [item for item in report.comparisons if (item.first, item.second) == (first, second)]
            rows += [*compared(f"{named(second)} against {one_line(first)}", found, width), Content("")]
    for told in margins(opened):
        rows += _prose(told, width)
    if margins(opened):
        rows.append(Content(""))
    rows.append(line(("  How they answered", "bold")))
    for arm in report.arms:
        known = f"perplexity of the references {arm.perplexity:.3f}" if arm.perplexity is not None else "no perplexity"
        how = "from the cache" if arm.cached else f"answered in {duration(arm.seconds)}"
        rows.append(
            line("  ", col(one_line(arm.arm), 16, "bold $primary" if arm.arm == TUNED else ""), (f"{known}, {how}", "$muted"))
        )
    rows += [Content(""), line(("  Facts", "bold"))]
    for name, value in facts(report):
        first, *rest = wrap(safe_text(value), width - 20)
        rows += [line("  ", col(name, 16, "$muted"), first), *(line(" " * 18, more) for more in rest)]
    if opened.report.facts.get("ledger"):
        rows += [
            line("  ", col("ledger", 16, "$muted"), piece) for piece in wrap(one_line(str(report.facts["ledger"])), width - 20)
        ]
    return rows


def compared(title: str, items: Sequence[Comparison], width: int) -> list[Content]:
    """What was fixed and broken on each metric."""
    from mlxtune.evaluation.wording import change, p_value

    wide = width >= 76
    head = [
        ("", 22, False),
        ("fixed", 7, True),
        ("broken", 8, True),
        *([("both", 6, True), ("neither", 9, True)] if wide else []),
        ("change", 20, True),
        ("p", 8, True),
    ]
    rows = [line((f"  {title}", "bold")), line("  ", *(col(name, size, "$faint", right=right) for name, size, right in head))]
    for item in items:
        paired, p = item.paired, item.p if item.adjusted is None else item.adjusted
        cells = [
            col(label(item.metric), 22),
            col(f"{paired.fixed:,}", 7, "$success" if paired.fixed else "$muted", right=True),
            col(f"{paired.broken:,}", 8, "$error" if paired.broken else "$muted", right=True),
        ]
        if wide:
            cells += [col(f"{paired.both:,}", 6, "$muted", right=True), col(f"{paired.neither:,}", 9, "$muted", right=True)]
        cells += [col(change(item.low, item.change, item.high), 20, right=True), col(p_value(p), 8, "$muted", right=True)]
        mark, token = SIGNS.get(item.word, ("·", "$muted"))
        rows.append(line("  ", *cells, (f"  {mark} {item.word}" if wide else f" {mark}", token)).truncate(max(width, 0)))
    return rows


@dataclass(frozen=True)
class OffTask:
    """The off-task prompts of an evaluation, what each arm said, and a sentence."""

    probes: tuple[Probe, ...]
    said: dict[str, list[str]]
    sentence: str
    blocks: bool


def off_task(opened: Opened) -> OffTask:
    """What the evaluation kept of its off-task prompts. Raises ``InputError`` when it cannot be read."""
    from mlxtune.evaluation import evidence, regression

    probes, said = evidence.off_task(opened.folder)
    found = regression.of(opened.report.facts)
    return OffTask(probes, said, found.sentence if found else "", bool(found and found.blocks))


def off_task_rows(found: OffTask, width: int) -> list[Content]:
    """Prompts that were broken first, then those that both fail, then the others: each with what the arms said."""
    mark = ("✗", "$error") if found.blocks else ("✓", "$success")
    rows = [*fold_marked((*mark, found.sentence), width), Content("")]
    held = {
        arm: [probe.holds(said) for probe, said in zip(found.probes, outputs, strict=False)] for arm, outputs in found.said.items()
    }
    arms = list(found.said)
    if len(arms) < 2:
        return rows
    first, last = arms[0], arms[-1]

    def order(at: int) -> tuple[bool, bool]:
        return held[last][at], not held[first][at]

    for at in sorted(range(min(map(len, held.values()))), key=order):
        probe = found.probes[at]
        before, after = held[first][at], held[last][at]
        word, token = (
            ("fixed", "$success") if after and not before else ("broken", "$error") if before and not after else ("", "$muted")
        )
        sign = ("✓ ", "bold $success") if after else ("✗ ", "bold $error")
        rows.append(line("  ", sign, (f"{word}  " if word else "", f"bold {token}"), (one_line(probe.id), "$muted")))
        rows += [line("    ", piece) for piece in wrap(safe_text(probe.prompt), width - 6)]
        for arm in arms:
            name = col(one_line(arm), 8, "bold $primary" if arm == TUNED else "$muted")
            told = answer_rows(found.said[arm][at], None, width - 16) or [Content("")]
            rows += [line("    ", name if index == 0 else " " * 8, "  ", piece) for index, piece in enumerate(told[:4])]
        rows += [
            line("    ", col("accepted", 8, "$muted"), "  ", (one_line(", ".join(probe.accept)), "$muted")).truncate(max(width, 0)),
            Content(""),
        ]
    return rows


def contrast(workspace: Path, first: str, second: str) -> Contrast:
    """The second evaluation against the first. Raises ``InputError`` when they were made on other terms."""
    from mlxtune.evaluation.compare import contrast as against
    from mlxtune.evaluation.compare import side

    return against(side(workspace, first), side(workspace, second))


def contrast_rows(found: Contrast, width: int) -> list[Content]:
    """Which of two reports is better, and on what."""
    mark, token = SIGNS.get(found.headline.word, ("·", "$muted"))
    body = fold(one_line(found.verdict), width - 2, indent="    ", style="bold")
    rows = [line((f"  {mark} ", f"bold {token}"), body[4:]), Content("")]
    rows += _prose(f"{one_line(found.second)} against {one_line(found.first)}, on the same {found.rows:,} held-out rows.", width)
    return [*rows, Content(""), *compared("On each metric", found.comparisons, width)]


def _prose(text: str, width: int, style: str = "$muted") -> list[Content]:
    return [line((f"  {row}", style)) for row in wrap(text, width - 4)]
