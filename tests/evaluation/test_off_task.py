"""Off-task prompts: which answers are correct, the shipped prompts, and the test whether their answers were held."""

import itertools
import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from exhaustive import EXHAUSTIVE, cases

from mlxtune.core.errors import DataError
from mlxtune.core.json_fields import from_json, to_json
from mlxtune.data import duplicates, samples
from mlxtune.data.rows import Location
from mlxtune.evaluation.off_task import prompts
from mlxtune.evaluation.off_task.prompts import (
    CHECKS,
    SHIPPED,
    OffTaskPrompt,
    OffTaskResult,
    compare_off_task,
    is_check,
    parse_prompt,
    passes_check,
    read_prompts,
    sample_prompts,
)
from mlxtune.evaluation.statistics.intervals import Z_ONE_SIDED, PairedCounts, tango, tango_statistic
from mlxtune.evaluation.statistics.significance import FLIPPED, non_inferiority_power
from mlxtune.recipe import parse

PLACE = Location(Path("r.jsonl"), 1)
RECIPE = 'name = "x"\n[model]\nbase = "m"\n[data]\nsource = "d"'


def _probe(*accept: str, id: str = "x", category: str = "", **conditions: object) -> OffTaskPrompt:
    return OffTaskPrompt(id, "Which?", accept, PLACE, category, **conditions)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("accept", "output", "holds"),
    [
        (["Paris"], "The capital of France is Paris.", True),
        (["Paris"], "PARIS", True),
        (["Paris"], "Parisian cafés", False),
        (["7", "seven"], "There are Seven days", True),
        (["7", "seven"], "There are 17 days", False),
        (["H2O"], "The formula is H2O, or H₂O", True),
        (["da Vinci"], "It was Leonardo da  Vinci.", True),
        (["mice"], "", False),
    ],
)
def test_answer_counts_when_accepted_word_appears_as_whole_word(accept, output, holds):
    assert _probe(*accept).passes(output) is holds


def test_prompts_with_the_same_limit_and_system_prompt_are_answered_together():
    short, long = _probe("a", id="a", max_tokens=16), _probe("b", id="b")
    both = prompts.in_both_conditions([long, short], "You are a shop.")
    groups = prompts.group_by_prefix(both)
    assert [(limit, [(one.id, one.with_system) for one in group]) for limit, group in groups] == [
        (16, [("a", False)]), (16, [("a", True)]), (32, [("b", False)]), (32, [("b", True)]),
    ]  # fmt: skip
    assert sorted(map(id, (one for _, group in groups for one in group))) == sorted(map(id, both))


def _sum(prompt: str, number: float) -> OffTaskPrompt:
    return OffTaskPrompt("x", prompt, (), PLACE, number=number)


@pytest.mark.parametrize(
    ("probe", "output", "holds"),
    [
        (_sum("What is 5 + 3?", 8), "5 + 3 = 8. This was question 2.", True),
        (_sum("What is 5 + 3?", 8), "5 + 3 = 9, not 8", False),
        (_sum("What is 5 + 3?", 8), "5 + 3", False),
        (_sum("What is 6 - 0?", 6), "6 - 0 = 6", True),
        (_sum("What is 6 - 0?", 6), "6 - 0", False),
        (_probe(number=1000), "It is 1,000.", True),
        (_probe(number=-2), "That is −2.", True),
        (_probe(number=8), "eight", False),
        (_probe("dog", reject=("cat",)), "A dog barks.", True),
        (_probe("dog", reject=("cat",)), "A dog or a cat", False),
        (_probe(pattern=r"\A\W*yes\b"), "yes, it is", True),
        (_probe(pattern=r"\A\W*yes\b"), "I say yes", False),
        pytest.param(_probe(pattern=r"(?:a+)+\Z"), "a" * 5000 + "b", False, id="timeout"),
    ],
)
def test_every_condition_must_hold(probe, output, holds):
    assert probe.passes(output) is holds


def test_prompts_are_asked_with_and_without_the_system_prompt():
    alone, with_system = prompts.in_both_conditions([_probe("b")], "You are a shop.")
    assert [turn.role for turn in alone.row("You are a shop.").prompt] == ["user"]
    assert [turn.role for turn in with_system.row("You are a shop.").prompt] == ["system", "user"]
    assert prompts.in_both_conditions([alone], "") == (alone,)


def test_counts_are_paired_over_all_prompts():
    probes = [_probe("yes", id=f"{name}{at}", category=name) for name in ("a", "b") for at in range(10)]
    asked = prompts.in_both_conditions(probes, "system")
    # a: 8 of 10 alone, 2 of 10 with the system prompt; b: 5 of 10 alone, 1 of 10 with it and none after training
    base = ["yes"] * 8 + ["no"] * 2 + ["yes"] * 5 + ["no"] * 5 + ["yes"] * 2 + ["no"] * 8 + ["yes"] + ["no"] * 9
    tuned = ["no"] * 2 + ["yes"] * 7 + ["no"] + base[10:30] + ["no"] * 10
    result = compare_off_task(asked, base, tuned)
    assert result.overall.paired == PairedCounts(both=13, broken=3, fixed=1, neither=23)
    assert [change.paired.total for change in result.categories] == [20, 20]
    assert result.overall.prompts == 20
    assert result.broken == ("a0", "a1", "b0+system")
    assert result.fixed == ("a8",)
    assert 20 <= result.overall.effective_n <= 40
    assert from_json(OffTaskResult, to_json(result)) == result


def test_what_the_base_is_weak_at_counts_if_it_is_forgotten():
    probes = [_probe("yes", id=f"{name}{at}", category=str(name)) for name in range(6) for at in range(100)]
    base = [
        answer for name in range(6) for right in [15 if name < 4 else 60] for answer in ["yes"] * right + ["no"] * (100 - right)
    ]
    tuned = ["no"] * 400 + base[400:]
    result = compare_off_task(probes, base, tuned)
    assert (result.overall.change, result.outcome) == (-0.1, "dropped")


def test_nothing_is_held_where_the_base_is_never_right():
    assert compare_off_task([_probe("yes", id=str(at)) for at in range(300)], ["no"] * 300, ["no"] * 300).outcome == "cannot_tell"


def _compared(broken: int, fixed: int, total: int = 300, right: int = 150) -> OffTaskResult:
    probes = [_probe("yes", id=str(at)) for at in range(total)]
    base = ["yes"] * right + ["no"] * (total - right)
    tuned = ["no"] * broken + ["yes"] * (right - broken) + ["yes"] * fixed + ["no"] * (total - right - fixed)
    return compare_off_task(probes, base, tuned)


@pytest.mark.parametrize(
    ("broken", "fixed", "outcome"),
    [(0, 0, "held"), (10, 10, "held"), (5, 0, "held"), (50, 50, "cannot_tell"), (20, 8, "dropped"), (40, 5, "dropped")],
)
def test_outcome_follows_from_the_limits_and_the_margin(broken, fixed, outcome):
    result = _compared(broken, fixed)
    assert result.outcome == outcome
    low, change, high = tango(PairedCounts(150 - broken, broken, fixed, 150 - fixed))
    assert (result.overall.low, result.overall.change, result.overall.high) == (low, change, high)


@pytest.mark.parametrize(
    ("broken", "fixed", "outcome"),
    [(0, 0, "held"), (1, 2, "held"), (8, 1, "dropped"), (9, 8, "cannot_tell"), (5, 2, "cannot_tell")],
)
def test_nearness_is_the_smallest_number_of_changed_answers(broken, fixed, outcome):
    """Try every number of changed answers of each kind, as an independent search."""
    result = _compared(broken, fixed, 60, 30)
    assert result.outcome == outcome
    table = PairedCounts(30 - broken, broken, fixed, 30 - fixed)

    def other(both: int, gained: int, lost: int, neither: int) -> str:
        paired = PairedCounts(
            table.both - both + lost, table.broken + both - lost, table.fixed - gained + neither, table.neither + gained - neither
        )
        low, _, high = tango(paired)
        return "held" if low > -0.05 else "dropped" if high < 0 else "cannot_tell"

    ways = itertools.product(*(range(min(count, 8) + 1) for count in (table.both, table.fixed, table.broken, table.neither)))
    assert result.nearness == next(sum(way) for way in sorted(ways, key=sum) if other(*way) != outcome)


def test_recipe_can_replace_or_disable_prompts(tmp_path):
    text = f"{RECIPE}\n[evaluation]\nregression = "
    assert prompts.load_prompts(parse(f'{text}""')) == ()
    with pytest.raises(DataError, match=r"^evaluation\.regression: there is no file at .*none\.$") as caught:
        prompts.load_prompts(parse(f'{text}"none"', folder=tmp_path))
    assert caught.value.hint == 'To skip off-task prompts, set evaluation.regression = "".'
    (tmp_path / "own.jsonl").write_text('{"id": "a", "prompt": "Say b.", "accept": ["b"]}\n')
    (own,) = prompts.load_prompts(parse(f'{text}"own.jsonl"', folder=tmp_path))
    assert (own.id, own.row().prompt[0].content, own.row().reference) == ("a", "Say b.", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a", "prompt": "b", "accept": ["c"]}\nno', "line 2: invalid JSON"),
        ('{"id": "a", "prompt": "b", "accept": []}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "accept": [" "]}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "reject": ["c"]}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "number": true}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "pattern": "("}', "line 1: expected"),
        ('{"id": "a", "accept": ["b"]}', "line 1: expected"),
        ('{"id": "a", "prompt": "b", "accept": ["c"]}\n' * 2, "two prompts have the same ID"),
        ("", "has no prompts"),
    ],
)
def test_malformed_prompt_file_is_refused_with_line(tmp_path, text, message):
    (tmp_path / "r.jsonl").write_text(text)
    with pytest.raises(DataError, match=message):
        prompts.read_prompts(tmp_path / "r.jsonl")


def test_score_interval_agrees_with_tangos_example():
    """The crossover trial of contact lens disinfection in Tango 1998: Z = 1.709, 90% interval −0.096 to 0.037."""
    paired = PairedCounts(both=43, broken=1, fixed=0, neither=0)
    assert tango_statistic(paired, -0.1) == pytest.approx(1.709, abs=5e-4)
    low, change, high = tango(paired)
    assert (low, change, high) == (pytest.approx(-0.096, abs=5e-4), pytest.approx(-1 / 44), pytest.approx(0.037, abs=5e-4))
    with pytest.raises(ValueError, match="no rows"):
        tango(PairedCounts(0, 0, 0, 0))


@pytest.mark.parametrize("table", [(150, 20, 8, 122), (10, 3, 0, 5), (0, 9, 4, 0), (40, 1, 6, 2)])
def test_score_statistic_uses_the_likelihoods_maximum(table):
    """Maximize the trinomial likelihood under the hypothesis on a grid, as an independent computation."""
    paired, total = PairedCounts(*table), sum(table)
    for hypothesis in (-0.2, -0.05, 0.1):
        broken = np.linspace(max(0.0, -hypothesis), (1 - hypothesis) / 2, 200_001)[1:-1]
        fixed = broken + hypothesis
        same = 1 - broken - fixed
        best = float(
            broken[np.argmax(paired.broken * np.log(broken) + paired.fixed * np.log(fixed) + (total - paired.broken - paired.fixed) * np.log(same))]
        )  # fmt: skip
        deviation = math.sqrt((2 * best + hypothesis - hypothesis**2) / total)
        expected = ((paired.fixed - paired.broken) / total - hypothesis) / deviation
        assert tango_statistic(paired, hypothesis) == pytest.approx(expected, rel=1e-3)
        assert tango_statistic(paired, hypothesis, effective_n=total / 4) == pytest.approx(expected / 2, rel=1e-3)


@pytest.mark.parametrize("broken", [0.06, 0.075, 0.1, 0.15, 0.2])
@pytest.mark.parametrize("prompts_counted", [120, 240, 300])
def test_error_at_the_margin_is_five_percent(prompts_counted, broken):
    """The exact probability of *held* if the rate drops by exactly the margin."""
    assert 0.035 < non_inferiority_power(prompts_counted, 0.05, broken, broken - 0.05) < 0.0525


def _simulated(drop: float, dependence: float, trials: int, count: int = 300) -> tuple[float, float]:
    """Return how often simulated evaluations are *held* and *dropped*, if rates drop by ``drop`` and 10% more answers flip.

    Each of ``count`` prompts in six categories is asked twice; with probability ``dependence``, both answers change alike. The base
    rarely answers two of the categories correctly with the system prompt.
    """
    random = np.random.default_rng(11)
    names = np.repeat(np.arange(6), count // 6)
    asked = prompts.in_both_conditions([_probe("1", id=str(at), category=str(name)) for at, name in enumerate(names)], "system")
    difficulty = np.concatenate([np.array([0.8, 0.5, 0.6, 0.4, 0.3, 0.7])[names], np.array([0.7, 0.22, 0.5, 0.2, 0.4, 0.6])[names]])
    words = Counter[str]()
    for _ in range(trials):
        ease = np.tile(random.random(count), 2)
        own = random.random(2 * count)
        same = np.tile(random.random(count) < dependence, 2)
        base = np.where(same, ease, own) < difficulty
        # of all answers, FLIPPED / 2 + drop break and FLIPPED / 2 are fixed, in proportion to those that can
        luck = np.where(same, np.tile(random.random(count), 2), random.random(2 * count))
        tuned = np.where(base, luck > (FLIPPED / 2 + drop) / difficulty, luck < FLIPPED / 2 / (1 - difficulty))
        words[compare_off_task(asked, _answers(base), _answers(tuned)).outcome] += 1
    return words["held"] / trials, words["dropped"] / trials


def _answers(passes: Sequence[bool] | np.ndarray) -> list[str]:
    return ["1" if one else "0" for one in passes]


@pytest.mark.slow
@pytest.mark.parametrize("dependence", cases([0.0, 0.7], "0.7"))
def test_simulated_evaluations_keep_the_error_and_the_stated_power(monkeypatch, dependence):
    """At the margin, *held* at most one time in twenty; with no drop, *held* with at least the stated power."""
    monkeypatch.setattr(OffTaskPrompt, "passes", lambda _, output: output == "1")  # the scorers take most of the time
    monkeypatch.setattr(prompts, "fewest_changes", lambda *_: None)  # so does this
    trials = 1000 if EXHAUSTIVE else 120
    deviation = math.sqrt(0.05 * 0.95 / trials)
    held, _ = _simulated(0.05, dependence, trials)
    assert held < 0.05 + 2.5 * deviation
    held, dropped = _simulated(0.0, dependence, trials)
    stated = non_inferiority_power(300, 0.05)
    assert held > stated - 2.5 * math.sqrt(stated * (1 - stated) / trials)
    assert dropped < 0.05 + 2.5 * deviation
    assert len(prompts.load_prompts(parse(RECIPE))) == 1000


def test_power_equals_a_direct_enumeration():
    rows, broken, fixed = 40, 0.06, 0.04
    power = 0.0
    for lost in range(rows + 1):
        for gained in range(rows + 1 - lost):
            ways = math.comb(rows, lost) * math.comb(rows - lost, gained)
            chance = ways * broken**lost * fixed**gained * (1 - broken - fixed) ** (rows - lost - gained)
            power += chance * (tango_statistic(PairedCounts(rows - lost - gained, lost, gained, 0), -0.1) > Z_ONE_SIDED)
    assert non_inferiority_power(rows, 0.1, broken, fixed) == pytest.approx(power, rel=1e-6)
    assert non_inferiority_power(0, 0.1) == 0.0


CASES = {
    "max_words": ((3,), "one, two three.", "one two three four"),
    "min_words": ((3,), "it's a well-known", "it's well-known"),
    "words": ((2,), "Heavy rain!", "rain"),
    "sentences": ((2,), 'It is 3.5 m. "Mr. Lee left."', "It is. And then"),
    "paragraphs": ((2,), "one\ntwo\n \nthree", "one\ntwo"),
    "lines": ((2,), "one\n\ntwo", "one"),
    "bullets": ((2,), "Here:\n- one\n  * two", "- one\n- two\n- three"),
    "numbered": ((2,), "1. one\n2) two", "1. one\n1. two"),
    "comma_items": ((3,), "red, green, blue", "red, green,"),
    "alphabetical": ((3,), "1. Ant\n2. bee\n3. Cat", "bee, ant, cat"),
    "lowercase": ((), "yes, 2!", "Yes"),
    "uppercase": ((), "STOP 2!", "STOp"),
    "capitals": ((2,), "BIG and FAST", "BIG I"),
    "contains": (("read",), "I Reads it", "I ate bread"),
    "omits": (("sun",), "sunny", "The Sun."),
    "word_times": (("no", 2), "No, no", "no, nothing"),
    "starts": (("dear",), '"Dear Ana"', "My dear"),
    "ends": (("end.",), "The End.", "The end"),
    "enclosed": (("<<", ">>"), "A <<title>>", "<<\ntitle>>"),
    "wrapped": (("*", "*"), "*yes*", "*yes* no"),
    "json_key": (("a",), '```json\n{"a": 1}\n```', '["a"]'),
    "json_items": ((2,), "[1, 2]", "1, 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKS)
def test_check_passes_and_fails(name):
    arguments, right, wrong = CASES[name]
    assert is_check((name, *arguments))
    assert passes_check(right, (name, *arguments))
    assert not passes_check(wrong, (name, *arguments))
    assert not passes_check(" \n", (name, *arguments))


@pytest.mark.parametrize(
    "check", [(), (1,), (["words"], 2), ("no_check",), ("words",), ("words", "2"), ("words", True), ("omits", "a", "b")]
)
def test_unknown_checks_and_arguments_are_refused(check):
    assert not is_check(check)
    assert parse_prompt({"id": "a", "prompt": "b", "checks": [list(check)]}, PLACE) is None


def test_letters_and_signs_are_omitted_everywhere_but_words_as_wholes():
    assert not passes_check("Sunlight and Tea", ("omits", "e"))
    assert not passes_check("one, two", ("omits", ","))
    assert passes_check("Sunlight", ("omits", "sun"))


def _shipped() -> tuple[OffTaskPrompt, ...]:
    return read_prompts(samples.samples_root() / SHIPPED)


def test_every_shipped_prompt_has_a_right_and_a_wrong_answer():
    prompts, right = _shipped(), json.loads(Path(__file__).with_name("off_task_answers.json").read_text())
    wrong = ("Qwx zzz, 77777 E", "- q\n- q\n\n1. q; Wow! Oh?\n\n- Qqq " + "q " * 60 + "aeo,")
    assert len(prompts) == 1000
    assert sum(bool(prompt.checks) for prompt in prompts) >= 250
    assert {check[0] for prompt in prompts for check in prompt.checks} == set(CHECKS)
    for prompt in prompts:
        answer = right.get(prompt.id) or (f"It is {prompt.number:g}." if prompt.number is not None else prompt.accept[0])
        assert prompt.passes(answer), prompt
        assert not all(prompt.passes(one) for one in (*wrong, prompt.prompt)), prompt
        assert not prompt.passes(""), prompt
        assert prompt.category != "knowledge" or not prompt.passes(prompt.prompt), prompt


def test_shipped_sums_are_right():
    forms: dict[str, Callable[..., float]] = {
        r"What is (\d+) (?:\+|plus) (\d+)\?|Add (\d+) and (\d+)\.|What is the sum of (\d+) and (\d+)\?": operator.add,
        r"What is (\d+) (?:-|minus) (\d+)\?|What is the difference between (\d+) and (\d+)\?": operator.sub,
        r"Subtract (\d+) from (\d+)\.": lambda one, two: two - one,
        r"What is (\d+) (?:x|times|multiplied by) (\d+)\?|Multiply (\d+) by (\d+)\.|What is the product of (\d+) and (\d+)\?": operator.mul,
        r"What is (\d+) (?:/|divided by) (\d+)\?|Divide (\d+) by (\d+)\.": operator.truediv,
        r"(?:What|How much) is half of (\d+)\?": lambda one: one / 2,
        r"What is double (\d+)\?": lambda one: 2 * one,
    }
    found = [
        (match, solve, prompt)
        for prompt in _shipped()
        for form, solve in forms.items()
        if (match := re.fullmatch(form, prompt.prompt))
    ]
    assert len(found) > 90
    assert all(solve(*(int(one) for one in match.groups() if one)) == prompt.number for match, solve, prompt in found)


def test_no_shipped_prompt_is_like_another_one_or_like_a_replayed_one():
    prompts = [prompt.prompt for prompt in _shipped()]
    replayed = [
        json.loads(line)["prompt"] for line in (samples.samples_root() / "data/samples/replay.jsonl").read_text().splitlines()
    ]
    assert duplicates.links(prompts) == []
    assert [pair for pair in duplicates.links(prompts + replayed, 0.6) if pair[0] < len(prompts) <= pair[1]] == []


def test_sample_has_each_category_in_proportion():
    prompts = _shipped()
    third, whole = sample_prompts(prompts, 333), Counter(prompt.category for prompt in prompts)
    assert (len(third), len(whole), min(whole.values()) > 40) == (333, 9, True)
    assert all(abs(count / 3 - Counter(prompt.category for prompt in third)[name]) < 1 for name, count in whole.items())
    assert list(third) == [prompt for prompt in prompts if prompt in set(third)]
    assert sample_prompts(prompts, 0) == sample_prompts(prompts, 2000) == prompts
