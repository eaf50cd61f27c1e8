"""Group an evaluation's failed rows by what is wrong with them, and decide what would help.

The evidence is the stored scores, the reference answers, and the nearest training rows with their answers. A teacher may see these
training rows, but never a held-out row.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mlxtune.data.rows import messages_text
from mlxtune.evaluation.drilldown import Drilldown, ScoredRow
from mlxtune.evaluation.evidence import NearestRow
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.scorers import PREFERENCE
from mlxtune.evaluation.scorers.json_parser import find_json
from mlxtune.evaluation.scorers.output_text import strip_thinking

FailureType = Literal["label", "field", "function", "answer", "cut", "format"]
Remedy = Literal["more_rows", "contradiction", "more_updates", "larger_base", "longer_answers", "grammar"]
_LONGEST_LABEL = 40  # characters
_FEW_UPDATES = 100  # below which a model may not have learned what the rows that it was trained on show
_CUT, _CALLS = ("cut_off", "in_a_loop"), ("no_call", "number_of_calls", "/name")


@dataclass(frozen=True)
class FailureClass:
    """Rows that fail alike, in the class ``kind``: with ``given`` instead of ``expected`` if they confuse two labels.

    ``remedy`` is what would help, for ``evidence`` of the rows.
    """

    type: FailureType
    kind: str
    rows: tuple[ScoredRow, ...]
    remedy: Remedy
    evidence: int
    expected: str = ""
    given: str = ""

    @property
    def nearest(self) -> list[NearestRow]:
        """The training rows that are nearest to the rows, those of most rows first."""
        found = [one for row in self.rows if row.links for one in row.links.nearest]
        by_id = {one.id: one for one in found}
        return [by_id[id] for id, _ in Counter(one.id for one in found).most_common()]


def load_failure_classes(folder: Path, report: EvaluationReport) -> list[FailureClass]:
    """Return the classes of the rows that the subject of the report in ``folder`` fails; none if only the base was evaluated.

    Raises ``InputError`` if the stored answers are missing.
    """
    if not report.headline or report.answer_metric == PREFERENCE:
        return []
    subject, updates = report.subject.name, int(report.facts.get("adapter_step", 0))
    return failure_classes(Drilldown(folder).rows_for(report.answer_metric, subject, passed=False), subject, updates)


def failure_classes(rows: Sequence[ScoredRow], arm: str, updates: int = 0) -> list[FailureClass]:
    """Return the classes of the failed ``rows`` of ``arm``, largest first. ``updates`` is the number of its training steps if known."""
    by_kind: defaultdict[str, list[ScoredRow]] = defaultdict(list)
    for row in rows:
        by_kind[row.scores[arm].kind].append(row)
    found = [one for kind, same in by_kind.items() for one in _classes(kind, same, arm, updates)]
    return sorted(found, key=lambda one: -len(one.rows))


def _classes(kind: str, rows: Sequence[ScoredRow], arm: str, updates: int) -> list[FailureClass]:
    """Return the rows of each pair of labels that are confused more than once, and the others."""
    pairs = Counter(_confused(row, arm) for row in rows)
    by_pair: defaultdict[tuple[str, str], list[ScoredRow]] = defaultdict(list)
    for row in rows:
        pair = _confused(row, arm)
        by_pair[pair if pairs[pair] > 1 else ("", "")].append(row)
    result = []
    for (expected, given), same in by_pair.items():
        type = _type(kind, is_label=bool(expected))
        result.append(FailureClass(type, kind, tuple(same), *_remedy(type, kind, same, arm, updates), expected, given))
    return result


def _type(kind: str, *, is_label: bool) -> FailureType:
    if kind in _CUT:
        return "cut"
    if kind in _CALLS:
        return "function"
    if kind.startswith("/") and " " not in kind:
        return "label" if is_label else "field"
    return "label" if is_label else "answer" if kind == "other" else "format"


def _remedy(type: FailureType, kind: str, rows: Sequence[ScoredRow], arm: str, updates: int) -> tuple[Remedy, int]:
    """Return what would help most, and for how many of the rows the evidence says so."""
    if type == "cut":
        return "longer_answers", sum(row.scores[arm].kind == "cut_off" for row in rows)
    contradicted = sum(_contradicts(row, kind, arm) for row in rows)
    if 2 * contradicted >= len(rows):
        return "contradiction", contradicted
    shown = sum(_is_shown(row, kind) for row in rows)
    if 2 * shown < len(rows) and type != "format":
        return "more_rows", len(rows) - shown
    if updates < _FEW_UPDATES:
        return "more_updates", shown
    return ("grammar", len(rows)) if type == "format" else ("larger_base", shown)


def _is_shown(row: ScoredRow, kind: str) -> bool:
    """Return whether a nearest training row has the expected value where ``row`` is wrong."""
    expected = value_at(row.row.reference or "", kind)
    return any(value_at(one.answer, kind) == expected for one in (row.links.nearest if row.links else ()))


def _contradicts(row: ScoredRow, kind: str, arm: str) -> bool:
    """Return whether a near-duplicate training row has the arm's answer where the reference differs from it."""
    from mlxtune.data.duplicates import THRESHOLD, jaccard  # imports numpy, which the command line's help does not need

    given, expected = value_at(row.answers[arm].output, kind), value_at(row.row.reference or "", kind)
    return given != expected and any(
        value_at(one.answer, kind) == given and jaccard(one.question, messages_text(row.row.prompt)) >= THRESHOLD
        for one in (row.links.nearest if row.links else ())
    )


def _confused(row: ScoredRow, arm: str) -> tuple[str, str]:
    """Return the label that was expected and the one given where ``row`` is wrong; two empty strings if they are no labels."""
    kind = row.scores[arm].kind
    if row.row.reference is None or (not kind.startswith("/") and kind != "other"):
        return "", ""
    expected, given = (value_at(text, kind) for text in (row.row.reference, row.answers[arm].output))
    is_label = all(isinstance(one, str) and 0 < len(one) <= _LONGEST_LABEL and "\n" not in one for one in (expected, given))
    return (str(expected), str(given)) if is_label else ("", "")


def value_at(text: str, kind: str) -> Any:
    """Return the value in the JSON of ``text`` at the JSON Pointer ``kind``, or the whole text if ``kind`` is none.

    Of a list of calls, it is that of the first one. ``None`` if there is no such value.
    """
    if not kind.startswith("/"):
        return strip_thinking(text).strip()
    match = find_json(strip_thinking(text))
    value: Any = match[0] if match else None
    if isinstance(value, list) and value and not kind[1:2].isdigit():
        value = value[0]
    for part in kind.partition(" ")[0][1:].split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value
