"""Words and glyphs that several documents share: how an outcome, a count, a change, or a p-value is written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mlxtune.core.text import one_line, plural, speed
from mlxtune.planning.machine import LOW_BATTERY, PowerState
from mlxtune.present.blocks import Cell, Fact, Mark
from mlxtune.present.words import WORDS

if TYPE_CHECKING:
    from mlxtune.data.free_rates import FreeRates
    from mlxtune.models.catalog import CatalogModel
    from mlxtune.serving.protocol import Done


GLYPHS: dict[Mark, str] = {"success": "✓", "warning": "!", "error": "✗", "muted": "·", "primary": "●"}

FREE_ANSWERS = {"constant": "a constant answer", "copier": "the answer of the nearest training prompt"}
"""What each arm that generates nothing answers."""


def word(code: str) -> str:
    return WORDS.names.get(code, one_line(code.replace("_", " ")))


def failure_name(kind: str) -> str:
    """Return a class of failure in words. A place in JSON with the rule that it breaks, ``/priority enum``, is its own name."""
    return kind if kind.startswith("/") else word(kind)


def outcome_mark(outcome: str) -> Mark:
    return WORDS.outcome_marks.get(outcome, "muted")


def verdict_mark(outcome: str, caveat: object = None) -> Mark:
    """Return the mark of a verdict. One with a caveat is a warning; without an outcome, only the base was measured."""
    return "warning" if caveat else outcome_mark(outcome) if outcome else "primary"


def outcome_cell(outcome: str) -> Cell:
    return Cell(word(outcome), outcome_mark(outcome))


def glyph_cell(outcome: str) -> Cell:
    mark = outcome_mark(outcome)
    return Cell(GLYPHS[mark], mark)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def limits_text(low: float, high: float) -> str:
    """Return an interval around a percentage, without the sign: ``72–85``."""
    return f"{100 * low:.0f}–{100 * high:.0f}"


def most_text(dollars: float, cap: float | None) -> str:
    """Return what requests cost at most, and the cap on it; empty if they are free and have none."""
    money = f", at most ${dollars:.2f}" if dollars else ""
    return money + (f", cap ${cap:.2f}" if cap is not None else "")


def confidence(level: float) -> str:
    """Return the confidence of an interval with the error rate ``level``: ``95%``, ``97.5%``, ``99.17%``."""
    return f"{min(100 * (1 - level), 99.99):.4g}%"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def signed_points(share: float) -> str:
    """Return a change between rates in points, with a sign: ``+2.5``, ``−0.3``, ``0.0``."""
    points = round(100 * share, 1)
    return f"{points:+.1f}".replace("-", "−") if points else "0.0"


def change_text(low: float, change: float, high: float) -> str:
    """Return a change in points with its limits: ``+45.8 (+37.9 to +54.2)``."""
    return f"{signed_points(change)} ({signed_points(low)} to {signed_points(high)})"


def free_facts(found: FreeRates | None) -> list[Fact]:
    """Return how many held-out rows answers pass that cost nothing, and which fields would tell answers apart."""
    if found is None:
        return []
    fields = f"; not compared: {', '.join(one_line(name, 40) for name in found.fields)}" if found.fields else ""
    rows = f"of {plural(found.rows, 'held-out row')}"
    is_easy = 2 * found.constant >= found.rows or (found.constant and found.fields)
    copied = f"the nearest row's answer passes {percent(found.copier / found.rows)}"
    return [
        Fact("constant", f"one answer passes {percent(found.constant / found.rows)}", rows + fields, "warning" if is_easy else ""),
        Fact("copier", copied, rows, "warning" if 2 * found.copier >= found.rows else ""),
    ]


def detectable_gain_fact(rows: int, baselines: int, level: float) -> Fact:
    """Return the smallest gain over the best of ``baselines`` that ``rows`` held-out rows can detect, also if some rows regress."""
    from mlxtune.evaluation.statistics.significance import BROKEN, POWER, detectable_gain  # slow to import, for the first screen

    clean, rough = (detectable_gain(rows, broken, baselines, level) for broken in (0.0, BROKEN))
    if clean is None:
        return Fact("detects", "no change", f"{plural(rows, 'row')}: too few", "warning")
    regress = f"{round(100 * rough)} if {BROKEN:.0%} of rows regress; " if rough is not None else ""
    over = f"{plural(rows, 'row')}, {plural(baselines, 'baseline')}"
    return Fact("detects", f"≥ {plural(round(100 * clean), 'point')}", f"{regress}{over}, {POWER:.0%} power")


def level_text(look: int) -> str:
    from mlxtune.evaluation.statistics.significance import level_for_look

    return f"level {100 * level_for_look(look):.2g}%"


def detectable_drop_fact(prompts: int, margin: float) -> Fact:
    """Return how likely it is that off-task ``prompts`` rule out a drop of ``margin``.

    Answers to a prompt in both conditions count as one, so the true power is at least this.
    """
    from mlxtune.evaluation.statistics.significance import FLIPPED, non_inferiority_power  # slow to import, for the first screen

    power = f"rules out a drop of {100 * margin:g} points with {non_inferiority_power(prompts, margin):.0%} power"
    return Fact("off-task", plural(prompts, "prompt"), f"{power} if {FLIPPED:.0%} of answers change")


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def power_problems(power: PowerState) -> list[str]:
    problems = ["Low Power Mode"] if power.low_power_mode else []
    problems += [f"{power.thermal} thermal pressure"] if power.thermal != "nominal" else []
    is_low = power.charge is not None and power.charge < LOW_BATTERY
    return [*problems, f"battery at {power.charge:.0%}"] if is_low else problems


def thinking_default(model: CatalogModel) -> str:
    return {"none": "no thinking", "off": "thinking off", "on": "thinking on", "always": "thinking always on"}[model.thinking]


def base_summary(model: CatalogModel) -> str:
    tools = "tools" if model.tools else "no tools"
    return f"{model.name}: {model.license}; {thinking_default(model)}, {tools}; tested with its {model.checked}"


_ENDINGS = {"length": ", cut off at the length limit", "cancelled": ", stopped"}


def usage(done: Done) -> str:
    cached = f" ({done.cached:,} cached)" if done.cached else ""
    rate = f", {speed(done.speed)} tokens/s" if done.speed else ""
    return f"{done.prompt_tokens:,} prompt tokens{cached}, {done.tokens:,} generated{rate}{_ENDINGS.get(done.ended, '')}"


def saved(rows: Path, cut_off: bool, pairs: Path | None = None) -> str:
    warning = " An answer in it was cut off: complete it before training." if cut_off else ""
    return f"Added {'the edited answer' if pairs else 'a row'} to {rows}{f' and a pair to {pairs}' if pairs else ''}.{warning}"
