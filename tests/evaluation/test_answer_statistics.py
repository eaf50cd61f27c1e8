"""Which answers were cut off, loops told apart from answers that were still going, and what that means for a verdict."""

import dataclasses
import json
import random
from itertools import combinations

import pytest
from evaluation_files import scored_arm

from mlxtune.data import samples
from mlxtune.evaluation.answers import Answer, AnswerStatistics, answer_statistics, is_loop
from mlxtune.evaluation.contract import Contract
from mlxtune.evaluation.report import EvaluationReport, promotion_caveat, promotion_refusal
from mlxtune.evaluation.report_builder import build
from mlxtune.evaluation.scorers import PASS, ModelAnswer, Score
from mlxtune.evaluation.verdict import compare
from mlxtune.present.verdict import verdict_text
from mlxtune.recipe import EvaluationSection, Length

LOOPS = [
    "The order ships soon. " * 20,
    "ha" * 100,
    '{"reply": "We are sorry' + " and we will help you" * 12,
    "A tent for two people.\n" + "\n" * 120,
    "".join(f"{number}. Check the order number again.\n" for number in range(1, 20)),
    "Sorry about that! We will look into it at once and write to you. " + "您好，我们会尽快回复。" * 20,
]
SAMPLES = (samples.samples_root() / "data/samples/support.jsonl").read_text(encoding="utf-8").splitlines()
REFERENCES = [json.loads(line)["messages"][-1]["content"] for line in SAMPLES]


@pytest.mark.parametrize("text", LOOPS)
def test_repeated_text_is_a_loop_wherever_it_is_cut(text):
    assert all(is_loop(text[: len(text) - cut]) for cut in range(20))


def test_ordinary_answers_cut_anywhere_are_no_loops():
    cuts = [text[:end] for text in REFERENCES for end in range(8, len(text), 11)]
    assert len(cuts) > 5_000
    assert not any(map(is_loop, cuts))


def test_list_of_different_records_is_no_loop():
    names = ("Tent", "Stove", "Climbing rope", "Head lamp", "Rain coat", "Compass", "Bottle", "Sleeping bag", "Mat")
    records = ", ".join(f'{{"name": "{name}", "price": {index}}}' for index, name in enumerate(names))
    assert not is_loop(records[:-5])


def _answer(output: str, ended: str = "length", tokens: int = 10, thought: str = "", contract: Contract | None = None) -> Answer:
    scores = contract.score(ModelAnswer(output, ended)) if contract else {}
    return Answer("id", output, ended, tokens, thought, scores=scores)


def test_reasoning_that_ended_in_a_loop_is_counted_as_one_however_long_it_is():
    """The copies that end it are a small part of a long text."""
    thought = " ".join(json.loads(line)["messages"][1]["content"] for line in SAMPLES[:60]) + " Wait, let me check the order." * 4
    assert not is_loop(thought)
    statistics = answer_statistics([_answer("", "thinking_loop", 0, thought)])
    assert (statistics.cut, statistics.loops) == (0, 1)
    scores = Contract(EvaluationSection(forbid=("Northpeak",))).score(ModelAnswer("", "thinking_loop"))
    assert not scores["contract"].passed
    assert "repeated itself" in scores["contract"].detail


def test_cut_answers_are_counted_apart_from_loops():
    answers = [
        _answer(LOOPS[0], "stop", 3), _answer(LOOPS[0]), _answer(REFERENCES[0][:90]), _answer("", "thinking", 0, LOOPS[1]),
        _answer("", "thinking", 0, REFERENCES[1]),
    ]  # fmt: skip
    assert answer_statistics(answers) == AnswerStatistics(cut=2, loops=2, tokens=23)
    ended_early = [*answers, _answer("A tent for two.", "loop", 40)]
    assert answer_statistics(ended_early) == AnswerStatistics(cut=2, loops=3, tokens=63)


def test_answers_that_failed_before_the_limit_do_not_speak_for_a_higher_one():
    """More text makes an answer no shorter and unsays nothing; it can still add a disclaimer."""
    contract = Contract(EvaluationSection(length=Length(max=20), forbid=("Northpeak",)))
    texts = ["A tent by Northpeak", REFERENCES[0][:90], "A tent for two"]
    statistics = answer_statistics([_answer(text, contract=contract) for text in texts])
    assert (statistics.cut, statistics.failed, statistics.undecided) == (3, 2, 1)


def test_prose_and_fences_do_not_become_json_by_going_on():
    contract = Contract()
    answers = [_answer(text, contract=contract) for text in ("Sure! Here is", "```json\n{", '{"reply": "We are')]
    assert answer_statistics(answers).undecided == 1


def test_a_cut_answer_that_differs_from_its_reference_has_failed():
    answer, evaluated = _answer("A tent for two"), ModelAnswer("A tent for two", "length", "A boat")
    for length in (Length(max=99), Length()):
        contract = Contract(EvaluationSection(length=length, correct=["answer"]))
        statistics = answer_statistics([dataclasses.replace(answer, scores=contract.score(evaluated))])
        assert (statistics.cut, statistics.failed) == (1, 1)


def test_repetition_under_a_grammar_that_would_have_ended_it_is_still_going():
    contract = Contract()
    answers = [_answer(LOOPS[2], ended, contract=contract) for ended in ("grammar", "length")]
    assert (answers[0].scores["json"].kind, answers[1].scores["json"].kind) == ("cut_off", "in_a_loop")
    statistics = answer_statistics(answers)
    assert (statistics.cut, statistics.loops, statistics.undecided) == (1, 1, 1)


def test_percentiles_are_values_that_were_measured():
    answers = [dataclasses.replace(_answer("", "stop", 1), seconds=float(index)) for index in range(1, 41)]
    statistics = answer_statistics(answers[::-1])
    assert (statistics.p50, statistics.p95) == (20.0, 38.0)  # as numpy.percentile(…, method="inverted_cdf")
    statistics = answer_statistics([*answers, _answer("")])
    assert (statistics.p50, statistics.p95) == (None, None)


def _report(
    rival: tuple[int, int], tuned: tuple[int, int], headline: str = "contract", failed: int = 0, group: int = 1, base: int = 0
) -> EvaluationReport:
    """Return a report of 40 rows in which each arm has (hits, answers that the limit may have failed), and ``failed`` cut ones more.

    ``group`` consecutive rows belong together.
    """
    arms = [
        scored_arm(
            name,
            [{"json": PASS, headline: PASS, "contract": PASS if row < hits else Score(False, "cut_off")} for row in range(40)],
            cut=cut + failed, failed=failed,
        )
        for name, (hits, cut) in {"base": (0, base), "base+grammar": rival, "tuned": tuned}.items()
    ]  # fmt: skip
    return build(
        {
            "rows": 40,
            "row_ids": [str(row) for row in range(40)],
            "headline": headline,
            "decoding": {"kind": "greedy", "max_tokens": 112},
        },
        arms,
        [row // group for row in range(40)],
    )


@pytest.mark.parametrize(
    ("rival", "tuned", "outcome", "arm"),
    [
        ((24, 2), (34, 0), "better", ""),  # 5% of 40 rows
        ((24, 8), (34, 0), "cannot_tell", "base+grammar"),  # with 8 more passes, 32 against 34
        ((10, 3), (40, 0), "better", ""),  # 13 against 40 is still better
        ((16, 18), (36, 0), "cannot_tell", "base+grammar"),
        ((10, 0), (40, 9), "better", ""),  # the winner can only gain
        ((40, 9), (10, 0), "worse", ""),
        ((40, 0), (10, 3), "worse", ""),
        ((34, 0), (24, 8), "cannot_tell", "tuned"),
        ((20, 3), (21, 0), "cannot_tell", ""),  # 23 against 21 decides no more than 20 against 21
        ((20, 12), (21, 0), "cannot_tell", "base+grammar"),
    ],
)
def test_limit_decides_if_the_losing_arm_was_still_going(rival, tuned, outcome, arm):
    report = _report(rival, tuned, failed=6)
    assert report.outcome == outcome
    cut = report.verdict.cut
    assert (cut.arm if cut else "", report.verdict.reason == "token_limit") == (arm, bool(arm))
    if cut:
        assert (cut.count, cut.rows, cut.max_tokens) == ((rival if arm == "base+grammar" else tuned)[1], 40, 112)
        assert (promotion_refusal(report), promotion_caveat(report)) == ("not_better", None)
        decides = f"{cut.count} of 40 answers of {arm} were cut off at 112 tokens"
        assert verdict_text(report.verdict) == f"Cannot tell. The token limit may decide: {decides}."


@pytest.mark.parametrize(("base", "outcome"), [(10, "better"), (34, "cannot_tell")])
def test_limit_of_a_baseline_that_is_not_the_strongest_one_decides_too(base, outcome):
    report = _report((14, 0), (34, 0), base=base)
    assert (report.outcome, report.verdict.cut.arm if report.verdict.cut else "") == (outcome, "base" if base == 34 else "")


@pytest.mark.parametrize(("rival", "decides"), [((0, 11), False), ((10, 3), False), ((24, 8), True)])
def test_limit_that_cannot_turn_the_verdict_does_not_decide_in_groups(rival, decides):
    """11 of 40 answers of the rival that were still going are at most 27.5%, against 100%."""
    report = _report(rival, (40, 0), group=2)
    assert report.grouped
    assert (report.outcome, report.verdict.cut is None) == (("cannot_tell", False) if decides else ("better", True))


def test_bound_holds_however_the_cut_answers_would_have_ended():
    """The outcome is the same for every choice of cut answers that pass if it is the same with none and with all of them."""
    rng = random.Random(7)
    for _ in range(60):
        rows = [(rng.random() < 0.2, rng.random() < 0.8) for _ in range(12)]
        cut = [index for index, (first, _) in enumerate(rows) if not first and rng.random() < 0.5]
        possible = [
            compare(
                "contract", "base", "tuned", [(first or index in chosen, second) for index, (first, second) in enumerate(rows)]
            ).outcome
            for size in range(len(cut) + 1)
            for chosen in combinations(cut, size)
        ]
        assert possible[0] != possible[-1] or len(set(possible)) == 1


def test_limit_does_not_matter_for_likelihoods():
    assert _report((40, 9), (40, 9), "preference").verdict.cut is None
