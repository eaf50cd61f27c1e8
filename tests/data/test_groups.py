from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxtune.data.checks.base import Finding
from mlxtune.data.groups import CLUSTER, OUTLIERS, RowGroup, by_size, finding_groups, most_diverse

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda pair: pair[0] != pair[1]), max_size=12)


def finding(check: str, *rows: int) -> Finding:
    return Finding(check, "warn", rows, "")


@given(PAIRS)
def test_groups_are_the_connected_components(pairs):
    groups = finding_groups([finding("near-duplicate", *pair) for pair in pairs])
    components = [{row} for row in range(10)]
    for one, two in pairs:
        first, second = (next(part for part in components if row in part) for row in (one, two))
        if first is not second:
            components.remove(second)
            first |= second
    assert sorted(group.rows for group in groups) == sorted(tuple(sorted(part)) for part in components if len(part) > 1)
    assert [len(group.rows) for group in groups] == sorted((len(group.rows) for group in groups), reverse=True)


def test_each_check_has_its_own_groups():
    found = [finding("duplicate", 1, 0), finding("conflict", 2, 1), finding("leak", 3, 1), finding("duplicate", 4)]
    assert [(group.kind, group.rows) for group in finding_groups(found)] == [("conflict", (1, 2)), ("duplicate", (0, 1))]


def test_a_group_without_some_rows():
    group = RowGroup("duplicate", (1, 2, 3))
    assert by_size([group.without({2}), group.without({1, 2}), RowGroup(OUTLIERS, (7,)), RowGroup(CLUSTER, (1, 2, 3, 4))]) == [
        RowGroup(OUTLIERS, (7,)),
        RowGroup(CLUSTER, (1, 2, 3, 4)),
        RowGroup("duplicate", (1, 3)),
    ]


def test_the_most_diverse_rows_are_far_from_each_other():
    texts = ["Where is my parcel?", "Where is my parcel!", "How do I wax the bag?", "Where is my parcel", "How do I wax a bag?"]
    assert most_diverse(texts, 2) in ([0, 2], [0, 4])
    assert most_diverse(texts, 9) == [0, 1, 2, 3, 4]
    assert most_diverse([], 3) == []


@given(st.lists(st.text("abc ", max_size=12), min_size=1, max_size=8), st.integers(1, 8))
def test_as_many_rows_are_kept_as_asked_for(texts, count):
    kept = most_diverse(texts, count)
    assert len(set(kept)) == len(kept) == min(count, len(texts))


@pytest.mark.parametrize("count", [2, 3])
def test_farthest_first_is_at_least_half_as_good_as_the_best_choice(count):
    from mlxtune.data.duplicates import normalize_text, shingles, similarity

    texts = ["the red lamp", "the red lamps", "a blue bag", "a blue bags", "wax for boots", "the lamp", "boots and wax"]
    sets = [shingles(normalize_text(text)) for text in texts]

    def spread(chosen):
        return min(1 - similarity(sets[one], sets[two]) for one, two in combinations(chosen, 2))

    assert spread(most_diverse(texts, count)) >= max(spread(chosen) for chosen in combinations(range(7), count)) / 2
