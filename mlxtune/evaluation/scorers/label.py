"""Label: the output is one of the recipe's labels."""

from collections.abc import Collection
from functools import partial

from mlxtune.core.text import nearest, one_line
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score, Scorer
from mlxtune.evaluation.scorers.output_text import strip_thinking


def score_label(answer: ModelAnswer, labels: Collection[str]) -> Score:
    """Score whether the output, excluding reasoning and surrounding whitespace, is one of ``labels``."""
    output = strip_thinking(answer.output).strip()
    if output in labels:
        return PASS
    similar = nearest(output[:100], labels)
    return Score(
        False, answer.interruption or "no_label", f"“{one_line(output, 40)}” is no label" + (f"; {similar} is" if similar else "")
    )


SCORER = Scorer(
    "label",
    "known label",
    lambda contract: partial(score_label, labels=frozenset(contract.section.labels)) if contract.section.labels else None,
    replaces_json=True,
)
