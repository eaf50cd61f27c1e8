from __future__ import annotations

import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from mlxtune.data import similar
from mlxtune.data.similar import Pair, components, jaccard, links, twins

SHARED = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyzé", k=2 + seed % 8)) for seed in range(300)]


def exhaustive(texts: Sequence[str], threshold: float) -> list[Pair]:
    """All pairs, compared as sets of strings: independent of everything that the join does."""
    folded = [" ".join(text.casefold().split()) for text in texts]
    grams = [{text[at : at + 5] for at in range(max(1, len(text) - 4))} for text in folded]
    found = []
    for i, j in combinations(range(len(texts)), 2):
        alike = len(grams[i] & grams[j]) / len(grams[i] | grams[j])
        if alike >= threshold:
            found.append((i, j, alike))
    return found


def edited(text: str, dice: random.Random) -> str:
    words = text.split()
    for _ in range(dice.randint(0, 3)):
        at = dice.randrange(len(words) + 1)
        words[at : at + dice.randint(0, 1)] = dice.choices(WORDS, k=dice.randint(0, 1))
    return " ".join(words)


def texts(seed: int, shortest: int, longest: int) -> list[str]:
    dice = random.Random(seed)
    base = [" ".join(dice.choices(WORDS, k=dice.randint(shortest, longest))) for _ in range(50)]
    made = base + [edited(dice.choice(base), dice) for _ in range(100)]
    dice.shuffle(made)
    return made


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
@pytest.mark.parametrize(("shortest", "longest"), [(0, 6), (5, 40), (120, 250)])
def test_all_twins_are_found_and_no_others(shortest: int, longest: int, threshold: float) -> None:
    made = texts(longest, shortest, longest)
    assert twins(made, threshold) == exhaustive(made, threshold)


@pytest.mark.parametrize(("name", "key"), [("wikisql/valid.jsonl", "text"), ("peers/gsm8k_test.jsonl", "question")])
def test_the_join_is_that_of_all_pairs_on_real_rows(name: str, key: str) -> None:
    file = SHARED / name
    if not file.is_file():
        pytest.skip(f"{file} is not here")
    made = [json.loads(line)[key] for line in file.read_text().splitlines()[:300]]
    assert twins(made) == exhaustive(made, 0.8)


@pytest.mark.parametrize("size", [6, 40])
def test_links_connect_what_twins_connect_with_fewer_pairs(size: int) -> None:
    made = texts(9, 1, size)
    every, few = twins(made), links(made)
    assert set(few) <= set(every)
    assert components(len(made), few) == components(len(made), every)
    assert len(few) == len(made) - len(set(components(len(made), every)))


def test_copies_are_alike_whatever_their_case_and_spacing() -> None:
    assert twins(["Where is  my parcel?", "Who are you?", "where is my\nparcel?"]) == [(0, 2, 1.0)]


def test_a_text_shorter_than_a_shingle_is_its_own() -> None:
    assert twins(["yes", "no", "Yes", ""]) == [(0, 2, 1.0)]
    assert jaccard("yes", "no") == 0.0


def test_a_crowd_of_near_copies_is_linked_without_all_its_pairs() -> None:
    made = [f"Could you please tell me where the parcel of my order number {number} is at the moment?" for number in range(3000)]
    found = links(made)
    assert len(found) == 2999
    assert set(components(3000, found)) == {0}
    assert all(jaccard(made[i], made[j]) == alike >= 0.8 for i, j, alike in found[::50])


def test_nothing_and_one_text_have_no_twins() -> None:
    assert twins([]) == links([]) == links(["alone"]) == []
    assert components(3, []) == [0, 1, 2]


def test_a_group_is_named_after_its_lowest_member() -> None:
    assert components(5, [(3, 4, 1.0), (1, 3, 0.9)]) == [0, 1, 2, 1, 1]


def test_halves_of_surrogate_pairs_do_no_harm() -> None:
    assert twins(["broken \ud83d text", "broken \ud83d text"]) == [(0, 1, 1.0)]


def test_shingles_are_of_the_folded_text() -> None:
    assert similar.shingles("Ab  Cde F") == {"ab cd", "b cde", " cde ", "cde f"}
