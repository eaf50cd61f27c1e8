"""The checks of instructions, and the shipped off-task prompts: each has an answer that passes, and none is like another one."""

import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxtune.data import duplicates, samples
from mlxtune.data.rows import Location
from mlxtune.evaluation.off_task.prompts import (
    CHECKS,
    SHIPPED,
    OffTaskPrompt,
    is_check,
    parse_prompt,
    passes_check,
    read_prompts,
    sample_prompts,
)

PLACE = Location(Path("r.jsonl"), 1)
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
