"""Check the recommendation and the intervals over seeds in simulations."""

import itertools

import numpy
import pytest
from evaluation_files import scored_arm
from exhaustive import cases

from mlxtune.core.json_fields import from_json, to_json
from mlxtune.evaluation import seed_report
from mlxtune.evaluation.answers import SeedAnswers
from mlxtune.evaluation.scorers import Score
from mlxtune.evaluation.seed_report import SeedReport, build_seed_report, recipe_verdict, recommend, seed_change, seed_rate
from mlxtune.evaluation.verdict import Verdict
from mlxtune.present.verdict import verdict_text

FAIL, PASS = {"contract": Score(False, "x", "y")}, {"contract": Score(True)}


def _scored(passed) -> list[dict[str, Score]]:
    return [PASS if value else FAIL for value in passed]


def _seed(number: int, validation, held_out, nats: float = 10.0) -> SeedAnswers:
    valid = scored_arm("", _scored(validation), nats=nats, tokens=10).answers
    return SeedAnswers(f"run-{number}", number, valid, scored_arm("", _scored(held_out)).answers)


def test_validation_recommends_and_held_out_rows_have_no_say():
    seeds = [_seed(7, [1, 0, 0], [1, 1]), _seed(8, [1, 1, 0], [0, 0]), _seed(9, [1, 0, 1], [1, 1], nats=12.0)]
    assert recommend(seeds, "contract") == "run-8"  # as good as seed 9 on validation, with a lower loss
    assert recommend([seeds[0], _seed(8, [0, 1, 0], [1, 1])], "contract") == "run-7"  # equal: the earlier seed


def test_report_survives_json():
    report = build_seed_report(
        [_seed(1, [1, 0], [1, 1, 0]), _seed(2, [1, 1], [1, 0, 0])], "contract", "abc", {"base": _scored([0, 0, 1])}
    )
    assert from_json(SeedReport, to_json(report)) == report
    assert (report.recommended, report.chosen.hits, report.chosen.total) == ("run-2", 1, 3)
    assert report.rate.mean.value == pytest.approx(0.5)
    assert (report.change.seeds, report.change.rival) == (2, "base")
    assert report.change.change == pytest.approx(0.5 - 1 / 3)


def test_fewest_answers_that_turn_the_recipe_verdict_are_found(monkeypatch):
    """Change every set of answers, as an independent search."""
    draws, found = numpy.random.default_rng(6), 0
    for _ in range(6):
        passed, baseline = draws.random((2, 6)) < 0.9, _scored(draws.random(6) < 0.1)

        def built(passed, baseline=baseline) -> SeedReport:
            return build_seed_report(
                [_seed(at, [1], own) for at, own in enumerate(passed)], "contract", range(6), {"base": baseline}
            )

        def flipped(changed, passed=passed):
            return passed ^ numpy.isin(numpy.arange(12), changed).reshape(2, 6)

        report = built(passed)
        turned = (
            count
            for count in range(1, 5)
            for changed in itertools.combinations(range(12), count)
            if built(flipped(changed)).change.outcome != report.change.outcome
        )
        with monkeypatch.context() as patch:
            patch.setattr(seed_report, "fewest_changes", lambda *_: None)  # it takes most of the time
            fewest = next(turned, None)
        assert report.nearness is None or fewest is None or report.nearness >= fewest
        found += report.nearness == fewest
    assert found >= 5


def test_best_of_seeds_by_validation_leaves_the_held_out_rate_unbiased():
    """Seeds differ and are chosen by 40 validation rows: their own validation rate is optimistic, the held-out rate is not."""
    draws, runs = numpy.random.default_rng(1), 400
    optimism = {"validation": 0.0, "held-out": 0.0, "chosen by held-out rows": 0.0}
    for _ in range(runs):
        rates = draws.uniform(0.6, 0.75, size=4)
        seeds = [_seed(index, draws.random(40) < rate, draws.random(60) < rate) for index, rate in enumerate(rates)]
        chosen = next(seed for seed in seeds if seed.run == recommend(seeds, "contract"))
        best = max(seeds, key=lambda seed: sum(row.scores["contract"].passed for row in seed.held_out))
        share = {
            id(seed): [numpy.mean([row.scores["contract"].passed for row in part]) for part in (seed.validation, seed.held_out)]
            for seed in seeds
        }
        optimism["validation"] += share[id(chosen)][0] - rates[chosen.seed]
        optimism["held-out"] += share[id(chosen)][1] - rates[chosen.seed]
        optimism["chosen by held-out rows"] += share[id(best)][1] - rates[best.seed]
    error = 3 * numpy.sqrt(0.7 * 0.3 / 60 / runs)
    assert abs(optimism["held-out"] / runs) < error
    assert optimism["validation"] / runs > 0.03
    assert optimism["chosen by held-out rows"] / runs > 0.03


@pytest.mark.slow
@pytest.mark.parametrize("seed_spread", cases([0.0, 0.3], "0.3"))
def test_intervals_cover_the_recipe_over_new_seeds_and_rows(seed_spread):
    """Pass probabilities have a row effect and a seed effect on the logit scale."""
    draws, runs = numpy.random.default_rng(2), 100

    def probabilities(rows: int, seeds: int, level: float):
        logit = (
            numpy.log(level / (1 - level))
            + 1.5 * draws.standard_normal((1, rows))
            + seed_spread * draws.standard_normal((seeds, 1))
        )
        return 1 / (1 + numpy.exp(-logit))

    rates, changes, total = 0, 0, 0
    for level, seeds in itertools.product([0.6, 0.9], [3, 5]):
        truth = probabilities(1000, 1000, level).mean()
        for _ in range(runs):
            passed = draws.random((seeds, 72)) < probabilities(72, seeds, level)
            before = draws.random(72) < 0.4
            groups = range(72)
            rate = seed_rate(passed.tolist(), groups).mean
            change = seed_change((passed.astype(float) - before).tolist(), groups).mean
            rates += rate.low <= truth <= rate.high
            changes += change.low <= truth - 0.4 <= change.high
            total += 1
    least = 0.95 - 3 * numpy.sqrt(0.95 * 0.05 / total)
    assert rates / total >= least
    assert changes / total >= least


def test_spread_tells_different_seeds_from_equal_ones():
    draws = numpy.random.default_rng(3)
    equal = seed_rate((draws.random((5, 400)) < 0.7).tolist(), range(400))
    different = seed_rate((draws.random((5, 400)) < numpy.array([[0.5], [0.6], [0.7], [0.8], [0.9]])).tolist(), range(400))
    assert equal.spread < 2 * equal.chance
    assert different.spread > 4 * different.chance
    assert different.mean.high - different.mean.low > 2 * (equal.mean.high - equal.mean.low)


def test_copies_of_rows_do_not_narrow_the_interval():
    draws = numpy.random.default_rng(4)
    passed = draws.random((3, 60)) < 0.7
    once = seed_rate(passed.tolist(), range(60)).mean
    copied = seed_rate(numpy.repeat(passed, 2, axis=1).tolist(), [index // 2 for index in range(120)]).mean
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=0.1)


@pytest.mark.parametrize("passed", [[[True] * 20] * 3, [[False] * 20] * 3, [[True, False] * 10] * 2])
def test_equal_seeds_give_the_interval_over_rows(passed):
    mean = seed_rate(passed, range(20))
    assert mean.spread == 0
    assert 0 <= mean.mean.low < mean.mean.high <= 1
    assert mean.mean.high - mean.mean.low < 0.5


def test_equal_rows_do_not_prove_equal_arms():
    change = seed_change([[0.0] * 30] * 3, range(30)).mean
    assert -0.15 < change.low < -0.05
    assert change.value == 0
    assert change.high == pytest.approx(-change.low)


def _recipe_report(hits, baselines, level=0.05):
    """Return the report of seeds that pass so many of 60 rows, and of baselines that pass the first rows."""
    seeds = [_seed(number, [1, 0], [index < count for index in range(60)]) for number, count in enumerate(hits)]
    scored = {name: _scored([index < count for index in range(60)]) for name, count in baselines.items()}
    return build_seed_report(seeds, "contract", range(60), scored, level)


def test_verdict_is_about_the_recipe():
    adapter = Verdict("better", "change", "contract", needed_rows=40)
    report = _recipe_report([50, 52, 20], {"base": 30})
    found = recipe_verdict(adapter, report)
    assert (found.outcome, found.reason, found.needed_rows, found.recipe) == ("cannot_tell", "recipe", None, report.change)
    assert "Whole contract, mean of 3 seeds: +17.8 points versus base (95% interval: " in verdict_text(found)
    assert recipe_verdict(adapter, _recipe_report([50, 52, 51], {"base": 30})).outcome == "better"
    copied = Verdict("cannot_tell", "change", "contract", free=("copier", 0.8))
    assert recipe_verdict(copied, _recipe_report([50, 52, 51], {"base": 30})).free is None
    assert recipe_verdict(copied, report).free == ("copier", 0.8)
    assert recipe_verdict(adapter, _recipe_report([10, 12, 11], {"base": 30})).outcome == "worse"
    worse = Verdict("worse", "contract", "contract")
    assert recipe_verdict(worse, _recipe_report([50, 52, 51], {"base": 30})).outcome == "worse"


def test_recipe_must_beat_every_baseline_at_the_level_of_the_look():
    alone, among = _recipe_report([40, 42, 41], {"base": 30}), _recipe_report([40, 42, 41], {"base": 30, "other": 29})
    assert (alone.change.low, alone.change.high) == pytest.approx((among.change.low, among.change.high), abs=0.02)
    late = _recipe_report([40, 42, 41], {"base": 30}, level=0.05 / 90)
    assert alone.change.outcome == "better"
    assert late.change.outcome == "cannot_tell"
    assert late.change.low < alone.change.low
