"""``compare``: compare two or more evaluations on the same rows."""

import math
from pathlib import Path
from typing import Annotated

from mlxtune.cli.options import Json, argument, option
from mlxtune.cli.output import draw, show_json, show_result
from mlxtune.core.errors import GateError, InputError
from mlxtune.core.json_fields import to_json
from mlxtune.core.text import plural
from mlxtune.evaluation.compare import EvaluationSide, compare_evaluations, compare_many, find_side
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.present.blocks import Cell, Column, Table
from mlxtune.present.comparison import comparison_document, comparison_verdict
from mlxtune.present.labels import change_text, glyph_cell, p_value, percent
from mlxtune.runs import registry


def compare(
    first: Annotated[str, argument("Evaluation or run.")],
    second: Annotated[str, argument("The candidate.")],
    more: Annotated[list[str] | None, argument("Further candidates.")] = None,
    gate: Annotated[bool, option("--gate", "Exit 1 unless the candidate is better.")] = False,
    json: Json = False,
) -> None:
    """Compare evaluations row by row with the first one. Their rows, schema, template, and decoding must be the same."""
    if more:
        _compare_many([first, second, *more], gate=gate, json=json)
        return
    result = compare_evaluations(find_side(Path.cwd(), first), find_side(Path.cwd(), second))
    show_result(to_json(result), comparison_document(result), json=json)
    if gate and result.headline.outcome != "better":
        raise GateError(f"Gate failed: {comparison_verdict(result)}")


def _compare_many(names: list[str], *, gate: bool, json: bool) -> None:
    if gate:
        raise InputError("--gate compares two evaluations.")
    sides = [find_side(Path.cwd(), name) for name in names]
    comparisons = compare_many(sides[0], sides[1:])
    if json:
        show_json({"first": sides[0].name, "comparisons": to_json(comparisons)})
        return
    rows = int(sides[0].report.facts["rows"])
    metric = comparisons[0].metric
    curves = [_losses(side) for side in sides]
    known = [loss for curve in curves for loss in curve]
    table = []
    for side, item, curve in zip(sides, (None, *comparisons), curves, strict=True):
        rate = next(arm for arm in side.report.arms if arm.name == side.arm).rate(metric)
        cells = [glyph_cell(""), Cell(), Cell()]
        if item:
            p = item.p if item.adjusted is None else item.adjusted
            cells = [glyph_cell(item.outcome), Cell(change_text(item.low, item.change, item.high)), Cell(p_value(p), "muted")]
        last = f" {curve[-1]:.3f}" if curve else ""
        losses = Cell(_spark(curve, known) + last, "muted")
        table.append((cells[0], Cell(side.name, "bold"), Cell(percent(rate.share)), *cells[1:], losses))
    labels = ("", "evaluation", "rate", "change, points", "p", "loss of its run")
    columns = tuple(Column(label, right=label in ("rate", "p")) for label in labels)
    draw((Table(metric_label(metric), f"{plural(rows, 'held-out row')}, the same for all; p after Holm", columns, tuple(table)),))


def _losses(side: EvaluationSide) -> list[float]:
    """Return the validation losses of the run behind an evaluation or, without any, its training losses."""
    try:
        state = registry.find_run(Path.cwd(), str(side.report.facts["run"])).state()
    except InputError:
        return []
    losses = [item.loss for item in state.validations] or [step.loss for step in state.steps]
    return [loss for loss in losses if math.isfinite(loss)]


def _spark(values: list[float], all_values: list[float]) -> str:
    """Return a sparkline of at most 20 of ``values`` on the scale of ``all_values``."""
    low, high = min(all_values, default=0.0), max(all_values, default=0.0)
    count = min(20, len(values))
    chosen = [values[round(index * (len(values) - 1) / max(1, count - 1))] for index in range(count)]
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / (high - low))] if high > low else "▁" for value in chosen)
