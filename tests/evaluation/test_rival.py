"""The tuned arm must beat the strongest arm that needs no training."""

import random
from dataclasses import replace
from typing import Any

import pytest
from evaluation_files import scored_arm

from mlxtune.adapters.entry import score_from_lineage, score_from_report
from mlxtune.core.json_fields import to_json
from mlxtune.evaluation import verdict
from mlxtune.evaluation.answers import ArmAnswers
from mlxtune.evaluation.report import EvaluationReport
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import PASS, Score
from mlxtune.present.blocks import Fact
from mlxtune.present.verdict import contract_fact, verdict_text


def _measured(name: str, hits: int, of: int = 40, **more: Any) -> ArmAnswers:
    scored = [{"schema": PASS, "contract": PASS if at < hits else Score(False, "bad", "why")} for at in range(of)]
    return scored_arm(name, scored, **more)


def _report(**hits: int) -> EvaluationReport:
    return build({"rows": 40}, [_measured(name.replace("_", "+"), count) for name, count in hits.items()])


@pytest.mark.parametrize(
    ("hits", "rival", "word"),
    [
        ({"base": 2, "base_prompt": 10, "base_kshot": 30, "tuned": 40}, "base+kshot", "better"),
        ({"base": 2, "base_prompt": 10, "base_kshot": 38, "tuned": 40}, "base+kshot", "cannot_tell"),
        ({"base": 2, "base_prompt": 40, "base_kshot": 10, "tuned": 30}, "base+prompt", "worse"),
        ({"base": 20, "base_prompt": 5, "tuned": 40}, "base", "better"),
        ({"base": 5, "parent": 30, "tuned": 40}, "parent", "better"),
        ({"base": 5, "base_prompt": 5, "tuned": 30}, "base+prompt", "better"),
    ],
)
def test_verdict_compares_with_strongest_arm(hits, rival, word):
    headline = _report(**hits).headline
    assert (headline.first, headline.second, headline.outcome) == (rival, "tuned", word)


@pytest.mark.parametrize(
    ("hits", "pair", "word"),
    [
        ({"base": 2, "base_grammar": 30, "tuned": 20, "tuned_grammar": 40}, ("base+grammar", "tuned+grammar"), "better"),
        ({"base": 2, "base_grammar": 30, "tuned": 40, "tuned_grammar": 40}, ("base+grammar", "tuned"), "better"),
        ({"base": 40, "base_grammar": 30, "tuned": 20, "tuned_prompt": 25}, ("base", "tuned+prompt"), "worse"),
        ({"base": 2, "tuned": 20, "tuned_prompt": 40, "tuned_grammar": 30}, ("base", "tuned+prompt"), "better"),
    ],
)
def test_verdict_is_about_the_strongest_tuned_arm(hits, pair, word):
    report = _report(**hits)
    assert (report.headline.first, report.headline.second) == pair
    assert report.subject.name == pair[1]
    assert report.outcome == word
    assert (", tuned+" in verdict_text(report.verdict)) == (pair[1] != "tuned")
    tuned = [name.replace("_", "+") for name in hits if name.startswith("tuned")]
    tested = [item.second for item in report.comparisons if (item.metric, item.first) == ("contract", pair[0])]
    assert set(tuned) <= set(tested)  # all are in the family of Holm's correction, because the best was chosen on these rows


@pytest.mark.parametrize(
    ("hits", "rival", "free"),
    [
        ({"base": 2, "constant": 30, "copier": 38, "tuned": 40}, "copier", ("copier", 0.95)),
        ({"base": 20, "constant": 20, "copier": 20, "tuned": 40}, "base", None),
        ({"base": 0, "constant": 0, "copier": 0, "tuned": 0}, "base", None),
        ({"base": 2, "constant": 30, "copier": 12, "tuned": 20}, "constant", ("constant", 0.75)),
    ],
)
def test_free_arms_are_baselines_and_the_verdict_names_one_that_does_as_well(hits, rival, free):
    report = _report(**hits)
    assert report.headline.first == rival
    assert report.verdict.free == free
    assert ("so the contract does not measure the task" in verdict_text(report.verdict)) == (free is not None)
    right = verdict_text(replace(report.verdict, metric="correct"))
    assert ("which the adapter does not surpass" in right) == (free is not None)
    assert not any(item.second in ("constant", "copier") for item in report.comparisons)


def test_free_arm_that_the_adapter_certainly_beats_is_not_named_although_it_is_in_its_interval():
    report = _report(base=0, constant=16, copier=0, tuned=22)
    assert report.subject.rate("contract").low <= 16 / 40
    assert (report.outcome, report.verdict.free) == ("better", None)


def test_choosing_the_best_of_tuned_arms_keeps_the_error_rate(monkeypatch):
    """With three tuned arms that are no better than the base, at most 5% of the verdicts are *better*."""
    monkeypatch.setattr(verdict, "fewest_changes", lambda *_: None)  # it takes most of the time
    rng, better = random.Random(19), 0
    for _ in range(400):
        arms = []
        for name in ("base", "tuned", "tuned+prompt", "tuned+grammar"):
            passed = [rng.random() < 0.5 for _ in range(60)]
            arms.append(scored_arm(name, [{"contract": PASS if one else Score(False, "bad", "")} for one in passed]))
        better += build({"rows": 60}, arms).outcome == "better"
    assert better <= 0.05 * 400


def test_more_baselines_do_not_weaken_the_verdict():
    """What is known about the base with a prompt is no reason to doubt the one test that the verdict is about."""
    report = _report(base=30, base_prompt=34, base_kshot=32, tuned=40)
    headline = report.headline
    assert (headline.first, headline.p, headline.adjusted, headline.outcome) == ("base+prompt", 0.03125, 0.03125, "better")
    others = {item.second: item.adjusted for item in report.comparisons if (item.metric, item.first) == ("contract", "base")}
    assert others == pytest.approx({"tuned": 3 * 2 / 2**10, "base+prompt": 2 * 2 / 2**4, "base+kshot": 2 / 2**2})


def test_report_without_tuned_arm_has_no_verdict():
    report = _report(base=2, base_prompt=40)
    assert report.headline is None
    assert (report.verdict.reason, report.outcome) == ("no_adapter", "")
    assert report.verdict.rates == {"base": 0.05, "base+prompt": 1.0}
    assert verdict_text(report.verdict) == "No adapter evaluated. Without training, whole contract: base 5.0%, base+prompt 100.0%."
    assert [(item.first, item.second) for item in report.comparisons if item.metric == "contract"] == [("base", "base+prompt")]


def test_the_rival_is_the_arm_that_is_most_often_right():
    """A grammar that makes every answer well-formed is no rival of examples that make more answers right."""
    arms = []
    for name, right, formed in (("base", 16, 80), ("base+kshot", 45, 100), ("base+grammar", 26, 152), ("tuned", 128, 150)):
        scored = [{"schema": row < formed, "contract": row < min(right, formed), "correct": row < right} for row in range(152)]
        arms.append(scored_arm(name, [{key: PASS if one else Score(False, "bad") for key, one in row.items()} for row in scored]))
    report = build({"rows": 152, "headline": "correct", "required": ["schema", "correct"]}, arms)
    verdict = report.verdict
    assert contract_fact(report) == Fact("contract", "fits the schema, correct")
    assert (verdict.outcome, verdict.metric, verdict.grammar) == ("better", "correct", "")
    assert (verdict.headline.first, verdict.headline.second, verdict.contract.metric) == ("base+kshot", "tuned", "contract")
    assert "rammar" not in verdict_text(verdict)


@pytest.mark.parametrize(("hits", "met"), [(40, "contract"), (9, "schema")])
def test_sufficient_grammar_is_reported(hits, met):
    assert _report(base=0, base_grammar=hits, tuned=30).verdict.grammar == met
    assert _report(base=0, base_grammar=hits).verdict.grammar == met


def test_perplexity_is_exponential_of_token_mean():
    report = build({}, [_measured("base", 1, nats=30.0, tokens=20), _measured("tuned", 2)])
    assert report.arms[0].perplexity == pytest.approx(4.4816890703)
    assert report.arms[1].perplexity is None


def test_score_of_an_adapter_names_the_arm_that_it_was_evaluated_as():
    score = score_from_report(_report(base=2, base_grammar=30, tuned=20, tuned_grammar=40))
    assert (score.rival, score.arm, score.after[-1].hits) == ("base+grammar", "tuned+grammar", 40)
    assert score_from_lineage({"evaluation": to_json(score)}) == score
    older = {key: value for key, value in to_json(score).items() if key != "arm"}
    again = score_from_lineage({"evaluation": older})
    assert again.arm == "tuned"
