"""All metrics, in report order."""

from mlxtune.core.text import one_line
from mlxtune.evaluation.scorers import CONTRACT, CONVERSATION, PREFERENCE, correct, disclaimer, json_forms, schema_valid, text_rules

SCORERS = (
    json_forms.VALID,
    json_forms.EXTRACTED,
    schema_valid.SCORER,
    disclaimer.STRICT,
    disclaimer.FUZZY,
    text_rules.FORBIDDEN,
    text_rules.LENGTH,
    text_rules.PATTERN,
    correct.SCORER,
)
FORMS = tuple(scorer.name for scorer in SCORERS if scorer.is_form)
LABELS = {scorer.name: scorer.label for scorer in SCORERS} | {
    CONTRACT: "whole contract", CONVERSATION: "correct conversations", PREFERENCE: "preference accuracy",
}  # fmt: skip


def metric_label(metric: str) -> str:
    return LABELS.get(metric) or one_line(metric, 30)
