"""Find answers that break the recipe's contract. Scorers are in a higher-level package, so the caller passes them in."""

from collections.abc import Callable, Iterator, Mapping

from mlxtune.data.checks.base import DROP, Check, Finding, whole_span
from mlxtune.data.checks.check_input import CheckInput, scored_answer

PREFIX = "contract-"
ContractScorer = Callable[[str], Mapping[str, str]]  # returns each required metric that an answer fails, with the scorer's reason


def metric_of(id: str) -> str:
    """Return the metric of a check, or ``""`` if it is not one of the contract."""
    return id.removeprefix(PREFIX).replace("-", "_") if id.startswith(PREFIX) else ""


def metric_check(id: str) -> Check:
    metric = id.removeprefix(PREFIX)
    wording = "The answer breaks the contract: {failure:all}."
    return Check(id, "block", f"answers that fail {metric}", wording, DROP, "✗", metric.partition("-")[0])


def contract_findings(row_input: CheckInput, scorer: ContractScorer) -> Iterator[Finding]:
    part, answer = scored_answer(row_input.row)
    if not part:
        return
    for metric, failure in scorer(answer).items():
        check = metric_check(PREFIX + metric.replace("_", "-"))
        yield check.finding(row_input.index, spans=(whole_span(part, answer),), values={"failure": failure})
