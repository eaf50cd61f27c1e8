import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest

from mlxtune.data import duplicates
from mlxtune.data.duplicates import Pair, components, jaccard, links

SHARED = Path(__file__).parents[3] / "shared" / "data"
WORDS = ["".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyzé", k=2 + seed % 8)) for seed in range(300)]


def exhaustive(texts: Sequence[str], threshold: float) -> list[Pair]:
    """Compare all pairs as sets of strings, independently of the implementation under test."""
    folded = [" ".join(text.casefold().split()) for text in texts]
    grams = [{text[index : index + 5] for index in range(max(1, len(text) - 4))} for text in folded]
    matches = []
    for i, j in combinations(range(len(texts)), 2):
        similarity = len(grams[i] & grams[j]) / len(grams[i] | grams[j])
        if similarity >= threshold:
            matches.append((i, j, similarity))
    return matches


def assert_links(texts: Sequence[str], threshold: float) -> None:
    """Check that the links are near-duplicates and connect all of them with as few pairs as possible."""
    pairs, result = exhaustive(texts, threshold), links(texts, threshold)
    assert set(result) <= set(pairs)
    assert components(len(texts), result) == components(len(texts), pairs)
    assert len(result) == len(texts) - len(set(components(len(texts), pairs)))


def edited(text: str, rng: random.Random) -> str:
    words = text.split()
    for _ in range(rng.randint(0, 3)):
        index = rng.randrange(len(words) + 1)
        words[index : index + rng.randint(0, 1)] = rng.choices(WORDS, k=rng.randint(0, 1))
    return " ".join(words)


def texts(seed: int, shortest: int, longest: int) -> list[str]:
    rng = random.Random(seed)
    base = [" ".join(rng.choices(WORDS, k=rng.randint(shortest, longest))) for _ in range(50)]
    result = base + [edited(rng.choice(base), rng) for _ in range(100)]
    rng.shuffle(result)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
@pytest.mark.parametrize(("shortest", "longest"), [(0, 6), (5, 40), pytest.param(120, 250, marks=pytest.mark.exhaustive)])
def test_links_connect_all_near_duplicates_and_no_others(shortest: int, longest: int, threshold: float) -> None:
    examples = texts(longest, shortest, longest)
    assert_links(examples, threshold)


@pytest.mark.parametrize(("name", "key"), [("wikisql/valid.jsonl", "text"), ("peers/gsm8k_test.jsonl", "question")])
def test_links_equal_all_pairs_on_real_rows(name: str, key: str) -> None:
    file = SHARED / name
    if not file.is_file():
        pytest.skip(f"{file} is missing")
    examples = [json.loads(line)[key] for line in file.read_text().splitlines()[:200]]
    assert_links(examples, 0.8)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["Where is  my parcel?", "Who are you?", "where is my\nparcel?"], [(0, 2, 1.0)]),
        (["yes", "no", "Yes", ""], [(0, 2, 1.0)]),
        (["broken \ud83d text", "broken \ud83d text"], [(0, 1, 1.0)]),
        ([], []),
        (["alone"], []),
    ],
    ids=["case and spaces", "shorter than a shingle", "lone surrogates", "no text", "one text"],
)
def test_a_few_texts_are_linked(texts: list[str], expected: list[Pair]) -> None:
    assert links(texts) == expected


def test_many_near_copies_are_linked_with_few_pairs() -> None:
    examples = [
        f"Could you please tell me where the parcel of my order number {number} is at the moment?" for number in range(3000)
    ]
    result = links(examples)
    assert len(result) == 2999
    assert set(components(3000, result)) == {0}
    assert all(jaccard(examples[i], examples[j]) == similarity >= 0.8 for i, j, similarity in result[::50])


def test_a_group_is_named_after_its_lowest_member() -> None:
    assert components(5, [(3, 4, 1.0), (1, 3, 0.9)]) == [0, 1, 2, 1, 1]


def test_shingles_are_of_the_folded_text() -> None:
    assert duplicates.shingles(duplicates.normalize_text("Ab  Cde F")) == {"ab cd", "b cde", " cde ", "cde f"}
    assert jaccard("yes", "no") == 0.0
