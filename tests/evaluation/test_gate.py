import pytest
from evaluation_files import scored_arm

from mlxtune.core.json_fields import to_json
from mlxtune.data.rows import Location
from mlxtune.evaluation.answers import ArmAnswers, SeedAnswers
from mlxtune.evaluation.off_task.prompts import OffTaskPrompt, compare_off_task
from mlxtune.evaluation.report import Caveat, EvaluationReport, ReportFacts, promotion_caveat, promotion_refusal
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import PASS, Score
from mlxtune.present.verdict import caveat_text, conclusion_facts, refusal_hint, refusal_text, verdict_text

ROWS = 40
FAILS = Score(False, "bad", "why")


def _measured(name: str, hits: int, preferred: int) -> ArmAnswers:
    """Return an arm with so many hits on the contract, and so many preferred or correct answers."""
    other = [PASS if at < preferred else FAILS for at in range(ROWS)]
    scored = [{"contract": PASS if at < hits else FAILS, "preference": one, "correct": one} for at, one in enumerate(other)]
    return scored_arm(name, scored)


def _report(*, headline: str = "contract", off_task: tuple[int, int] | None = None, **arms: tuple[int, int]) -> EvaluationReport:
    facts: ReportFacts = {"rows": ROWS, "headline": headline}
    if off_task:  # off-task answers that broke and were fixed, of 300
        broken, fixed = off_task
        prompts = [OffTaskPrompt(str(at), "Which?", ("yes",), Location(None, 1)) for at in range(300)]  # type: ignore[arg-type]
        base = ["yes"] * 200 + ["no"] * 100
        tuned = ["no"] * broken + ["yes"] * (200 - broken + fixed) + ["no"] * (100 - fixed)
        facts["off_task"] = to_json(compare_off_task(prompts, base, tuned))
    return build(facts, [_measured(name, *hits) for name, hits in arms.items()])


CASES = [
    (_report(base=(2, 2), tuned=(30, 2)), "better", "", ""),
    (_report(base=(2, 2), tuned=(30, 2), off_task=(10, 8)), "better", "", ""),
    (_report(base=(2, 2), tuned=(30, 2), off_task=(30, 20)), "better", "off_task_unknown", "off_task_unknown"),
    (_report(base=(2, 2), tuned=(30, 2), off_task=(30, 5)), "better", "off_task_dropped", "off_task_dropped"),
    (_report(base=(20, 2), tuned=(22, 2)), "cannot_tell", "not_better", ""),
    (_report(base=(20, 2), tuned=(22, 2), off_task=(30, 5)), "cannot_tell", "not_better", ""),
    (_report(base=(30, 2), tuned=(2, 2)), "worse", "not_better", ""),
    (_report(base=(2, 2)), "", "not_better", ""),
    (_report(headline="correct", base=(28, 2), tuned=(30, 30)), "better", "", ""),
    (_report(headline="correct", base=(2, 20), tuned=(30, 22)), "cannot_tell", "not_better", ""),
    (_report(headline="preference", base=(20, 2), tuned=(21, 30)), "better", "", ""),
    (_report(headline="preference", base=(30, 2), tuned=(2, 30)), "worse", "not_better", "contract_worse"),
]


@pytest.mark.parametrize(("report", "outcome", "refusal", "caveat"), CASES)
def test_only_improvement_without_forgetting_is_promoted(report, outcome, refusal, caveat):
    found = promotion_caveat(report)
    assert (report.outcome, promotion_refusal(report), found.reason if found else "") == (outcome, refusal, caveat)
    assert bool(caveat_text(found)) == bool(caveat)
    assert bool(refusal_text(report)) == bool(refusal)
    assert verdict_text(report.verdict).lower().startswith(outcome.replace("_", " "))


def test_caveat_has_the_figures():
    assert promotion_caveat(CASES[3][0]) == Caveat("off_task_dropped", 200 / 300, 175 / 300, 0.05)
    assert caveat_text(promotion_caveat(CASES[3][0])) == "off-task accuracy dropped from 66.7% to 58.3%"
    assert caveat_text(promotion_caveat(CASES[2][0])) == "off-task accuracy may have dropped by 5 points or more"


@pytest.mark.parametrize(
    ("report", "is_unmeasured"),
    [
        (_report(base=(2, 2), tuned=(30, 2)), True),
        (_report(base=(2, 2), tuned=(30, 2), off_task=(10, 8)), False),
        (_report(base=(2, 2)), False),
        (build({"rows": ROWS}, [_measured("base", 2, 2), _measured("base+kshot", 30, 2)]), False),
    ],
)
def test_a_comparison_without_off_task_prompts_is_noted(report, is_unmeasured):
    assert any(fact.value == "not measured" for fact in conclusion_facts(report)) == is_unmeasured


@pytest.mark.parametrize(("off_task", "accepted"), [((10, 8), True), ((30, 20), True), ((30, 5), False)])
def test_cannot_tell_can_be_accepted(off_task, accepted):
    report = _report(base=(2, 2), tuned=(30, 2), off_task=off_task)
    assert bool(promotion_refusal(report, accept_unknown=True)) != accepted
    assert ("data.replay" in refusal_hint(report)) == bool(promotion_refusal(report))
    assert ("--accept-unknown" in refusal_hint(report)) == (off_task == (30, 20))


def test_a_worse_contract_precedes_the_gain_in_preferences():
    report = CASES[-1][0]
    verdict = report.verdict
    assert (verdict.reason, verdict.contract.outcome, verdict.headline.outcome) == ("contract", "worse", "better")  # type: ignore[union-attr]
    assert verdict_text(verdict).startswith("Worse. Whole contract: −")
    assert [(fact.label, fact.mark) for fact in conclusion_facts(report)][1] == ("preference accuracy", "success")


def test_a_gain_that_a_first_look_would_show_is_refused_because_the_level_is_used_up():
    facts: ReportFacts = {"rows": ROWS, "headline": "contract"}
    arms = [_measured("base", 10, 0), _measured("tuned", 18, 0)]
    assert promotion_refusal(build(facts, arms)) == ""
    spent = build({**facts, "holdout": {"look": 6}}, arms)
    assert (spent.outcome, promotion_refusal(spent)) == ("cannot_tell", "looks_spent")
    assert "look 6 at an adapter, level 0.17%" in refusal_text(spent)
    assert refusal_hint(spent)


def test_with_several_seeds_the_level_is_used_up_as_well():
    facts: ReportFacts = {"rows": ROWS, "headline": "contract"}
    arms = [_measured("base", 10, 0), _measured("tuned", 18, 0)]
    seeds = [SeedAnswers(f"r{seed}", seed, arms[1].answers[:4], arms[1].answers) for seed in (7, 8, 9)]
    assert promotion_refusal(build(facts, arms, seeds=seeds)) == ""
    assert promotion_refusal(build({**facts, "holdout": {"look": 6}}, arms, seeds=seeds)) == "looks_spent"
