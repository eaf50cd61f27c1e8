"""The words of a data check: its verdict, its findings, what it did not check, and what to do next."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mlxtune.core.text import one_line, plural

if TYPE_CHECKING:  # they load numpy
    from mlxtune.data.check_cache import CheckOutcome
    from mlxtune.data.checks.base import Finding
    from mlxtune.data.checks.report import CheckVerdict, Improvement, Skip

_MAX_VALUE = 80  # characters of a text in a finding
_MAX_ITEMS = 5  # of a list in a finding

TIERS = {"too_few": "too few", "minimum_viable": "minimum viable", "good": "good", "strong": "strong"}
FILE_NOTES = {
    "byte_order_mark": "Skipped a byte order mark.",
    "utf16": "Converted from UTF-16.",
    "semicolons": "Read columns separated by semicolons.",
    "tabs": "Read columns separated by tabs.",
    "json_lines": "Read the .json file as one row per line.",
}
NAME_THE_COLUMNS = "Name the columns with --map (data.map in a recipe), or the format with --format (data.format)."

_SKIPS = {
    "not_yet": "not counted yet",
    "no_recipe": "no recipe",
    "no_contract": "the recipe has no contract",
    "no_model": "{error}",
    "no_splits": "no recipe, no earlier split, and no train and test files",
    "unsplittable": "{error}",
}
_IMPROVEMENTS = {
    "remove_leaks": "Remove {count:n held-out row} from the train split: until then, no evaluation is valid.",
    "mask_secrets": "Mask the secrets in {count:n row}, and revoke them: they have been exposed in a file.",
    "name_columns": f"No row can be read. {NAME_THE_COLUMNS}",
    "fix": "Fix {title} ({count:,}), or leave them out.",
    "add_rows": "Add rows.",
    "add_prompts": "Write about {count:,} more rows with new prompts: with fewer, results are mostly noise.",
    "resolve_conflicts": "Resolve {count:n prompt} with contradictory answers: they teach the model to guess.",
    "drop_repeats": "Leave out {count:n repeated row}: repeats count twice in training.",
    "fit_window": "Raise data.max_tokens, or shorten {count:n row} that would be truncated or skipped.",
    "add_value": "Add rows with {key} = {value}: {count:,} is too few to learn from or to measure.",
    "review": "Review {count:n row} with a warning: fix, accept, or reject.",
    "more_prompts": "This is enough to start. About {count:,} more distinct prompts would bring it to “good”.",
    "none": "The checks have no further suggestions for the data.",
}


class _Wording(string.Formatter):
    """Formats values from data safely. ``{rows:n row}`` is a count with its noun."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec.startswith("n "):
            return plural(value, format_spec[2:])
        if isinstance(value, Mapping):
            items = [f"{one_line(str(name), 30)} ({count:,})" for name, count in value.items()]
            more = [f"{len(items) - _MAX_ITEMS:,} more"] if len(items) > _MAX_ITEMS else []
            return ", ".join([*items[:_MAX_ITEMS], *more])
        return one_line(value, 0 if format_spec == "all" else _MAX_VALUE) if isinstance(value, str) else format(value, format_spec)


_format = _Wording().vformat


def sentence(wording: str, values: Mapping[str, Any]) -> str:
    """Return ``wording`` with the values in place of their names, beginning with a capital letter."""
    text = _format(wording, (), values).strip()
    return text[:1].upper() + text[1:]


def check_title(id: str) -> str:
    """Return what a check finds, as a plural noun phrase. Those of the contract are named like their metric in reports."""
    from mlxtune.data.checks import contract
    from mlxtune.data.checks.registry import get_check
    from mlxtune.evaluation.scorers.registry import metric_label

    if metric := contract.metric_of(id):
        return f"answers that fail “{metric_label(metric)}”"
    return get_check(id).title


def finding_text(finding: Finding) -> str:
    """Return why a finding matters."""
    from mlxtune.data.checks.registry import get_check

    wording = get_check(finding.check).wording
    return sentence(wording if isinstance(wording, str) else wording[finding.reason], finding.values)


def verdict_text(verdict: CheckVerdict) -> str:
    """Return the verdict in one sentence."""
    rows = plural(verdict.rows, "row")
    if verdict.blocked:
        return f"Not ready: {verdict.blocked:,} of {rows} should be fixed or left out before training."
    if verdict.to_review:
        return f"Nothing blocks training, but {verdict.to_review:,} of {rows} should be reviewed."
    if verdict.source_warnings:
        return f"Nothing blocks training, but there is a warning about the {rows} as a whole."
    if verdict.accepted:
        return f"Nothing blocks training, and the review accepted {plural(verdict.accepted, 'row')} with a warning."
    return f"Clean: no problems in {rows}."


def review_text(left_out: int, edited: int) -> str:
    """Return how the review changed what was checked, or ``""``."""
    parts = [f"{left_out:,} left out"] if left_out else []
    parts += [f"{edited:,} edited"] if edited else []
    return ", ".join(parts)


def improvement_text(improvement: Improvement) -> str:
    """Return what to do with the data next."""
    key, value = improvement.value
    title = check_title(improvement.check) if improvement.check else ""
    return sentence(_IMPROVEMENTS[improvement.code], {"count": improvement.count, "title": title, "key": key, "value": value})


def skip_text(skip: Skip) -> str:
    """Return why a group of checks did not run, as part of a sentence."""
    return _format(_SKIPS[skip.code], (), {"error": skip.error}).rstrip(".")


def check_warning(last: CheckOutcome | None) -> str:
    """Return why training should wait, according to the last check of a recipe's rows, or ``""``."""
    if last is None or not last.needs_attention:
        return ""
    if last.changed == "recipe":
        return "The rows have not been checked since the recipe changed."
    if last.changed:
        return "At the last check, rows had to be fixed or left out. The review has changed since then."
    return f"Not ready: {last.flagged:,} of {plural(last.rows, 'row')} should be fixed or left out before training."
