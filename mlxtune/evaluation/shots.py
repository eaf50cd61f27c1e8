"""Choose the training rows that few-shot arms show before each prompt."""

import json
import random
from collections import Counter
from collections.abc import Sequence

from mlxtune.core.errors import InputError
from mlxtune.core.text import plural
from mlxtune.data.rows import Conversation, Message, Preference, Row
from mlxtune.evaluation.scorers.json_search import resolve_pointer

Shown = Conversation | Preference


def sample_shots(train: Sequence[Row], count: int, seed: int, labels: Sequence[str] = ()) -> tuple[Message, ...]:
    """Return the turns of ``count`` training rows, without system turns. ``seed`` determines the choice, regardless of row order.

    The rows cover the values of ``labels`` in the answers, most frequent first: JSON Pointers, or ``""`` for whole answers. Raises
    ``InputError`` if there are fewer rows.
    """
    rows = sorted(shown_rows(train), key=lambda row: row.hash)
    if len(rows) < count:
        raise InputError(
            f"base+kshot needs {plural(count, 'example')}, but there are only {plural(len(rows), 'training row')}.",
            hint="Lower evaluation.shots, or leave base+kshot out of evaluation.arms.",
        )
    return tuple(
        turn
        for row in _covering(rows, count, random.Random(seed), labels)
        for turn in (*row.prompt, row.messages[-1] if isinstance(row, Conversation) else Message("assistant", row.reference))
        if not turn.is_system
    )  # fmt: skip


def shown_rows(train: Sequence[Row]) -> list[Shown]:
    """Return the rows that can be shown."""
    rows = [row for row in train if isinstance(row, Conversation | Preference)]
    if len({json.dumps(row.tools) for row in rows}) > 1:  # a prompt has only the tools of its own row
        rows = [row for row in rows if not row.tools]
    return rows


def _covering(rows: Sequence[Shown], count: int, rng: random.Random, labels: Sequence[str]) -> list[Shown]:
    """Return ``count`` of ``rows``, each with the most frequent values of ``labels`` that no earlier one has; without any, at random."""
    values = {row.hash: label_values(row.reference, labels) for row in rows}
    counts = Counter(value for row in rows for value in values[row.hash])
    if max(counts.values(), default=1) == 1:
        return rng.sample(rows, count)
    left, chosen, shown = rng.sample(rows, len(rows)), list[Shown](), set[tuple[str, str]]()
    while len(chosen) < count:
        best = max(left, key=lambda row: sum(counts[value] for value in values[row.hash] - shown))
        if values[best.hash] <= shown and shown:
            shown.clear()  # all are covered: begin again
            continue
        chosen.append(best)
        left.remove(best)
        shown |= values[best.hash]
    return chosen


def label_values(answer: str, labels: Sequence[str]) -> set[tuple[str, str]]:
    """Return each label that ``answer`` has, with its value as canonical JSON."""
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        value = answer.strip()
    found = {label: resolve_pointer(value, label) if label else value for label in labels}
    return {(label, json.dumps(part, sort_keys=True)) for label, part in found.items() if part is not None}
