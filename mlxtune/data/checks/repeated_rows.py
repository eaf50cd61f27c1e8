"""Find rows that repeat others: duplicates, near-duplicates, and leaks between splits."""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations

from mlxtune.core.sequences import grouped
from mlxtune.data.checks.base import DROP, DROP_UNUSABLE, Check, CheckFamily, Finding, Fix
from mlxtune.data.checks.check_input import target_text
from mlxtune.data.checks.conflicts import CONFLICT, contradict, same_question
from mlxtune.data.checks.corpus import Corpus, passages
from mlxtune.data.checks.pairs import normalize_answer
from mlxtune.data.duplicates import THRESHOLD, Pair, jaccard
from mlxtune.data.rows import Row, TextRow, Unpaired, prompt_text

family = CheckFamily()
_LEAK = family.register(
    Check(
        "leak", "block", "train rows that repeat held-out rows",
        "The {split} split has the same or nearly the same prompt, so its results would measure memorization.", DROP_UNUSABLE, "⇄",
    )
)  # fmt: skip
_COPY = family.register(
    Check(
        "duplicate", "warn", "exact duplicates", "This row repeats an earlier one.", Fix("drop", "keep the first", safe=True), "≈"
    )
)
_NEAR = family.register(
    Check(
        "near-duplicate", "warn", "near-duplicates",
        "This row is a near-duplicate of another one (prompt similarity {similarity:.2f}).", DROP, "≈", short="near-dup",
    )
)  # fmt: skip

_SMALL_GROUP = 8  # in a group of up to this many near-duplicates, every pair is compared, not only the links that connect the group
_NAME = re.compile(r"(?<=[^.!?:\s]\s)[A-Z][\w-]*|(?<![\w-])[\w-]*\d[\w-]*")  # capitalized words within a sentence, and numbers
_MAX_COMPARED = 2000  # rows in another split that one row is compared with


@family.corpus_check
def duplicates(corpus: Corpus) -> Iterator[Finding]:
    """Find rows whose content, without metadata, occurs earlier in the same split. In another split it is a leak."""
    for rank, first in corpus.copies.items():
        if corpus.splits[rank] == corpus.splits[first]:
            yield _COPY.finding(corpus.indices[rank], corpus.indices[first])


@family.corpus_check
def near_duplicates(corpus: Corpus) -> Iterator[Finding]:
    """Find rows whose prompt and answer nearly repeat those of another row, not counting text that three or more rows share.

    Two rows that ask the same with contradictory answers are a conflict, not a near-duplicate, of which a fix would drop one.
    """
    for pairs in _near_duplicate_pairs(corpus):
        seen: set[int] = set()
        read = lru_cache(maxsize=256)(lambda rank: corpus.read(corpus.indices[rank]))
        for i, j, similarity in pairs:
            if j in seen or corpus.copies.get(j, j) == corpus.copies.get(i, i) or corpus.splits[i] != corpus.splits[j]:
                continue
            if contradict(read(i), read(j)):
                if corpus.contexts[i] != corpus.contexts[j] and same_question(read(i), read(j)):
                    yield CONFLICT.finding(corpus.indices[j], corpus.indices[i])
            elif _nearly_same(read(i), read(j)) and _is_same_apart_from(corpus.boilerplate, read(i), read(j)):
                seen.add(j)
                yield _NEAR.finding(corpus.indices[j], corpus.indices[i], values={"similarity": similarity})


@family.corpus_check
def leaks(corpus: Corpus) -> Iterator[Finding]:
    """Find train rows that train an answer to a prompt that is held out for testing or validation, or to a near-duplicate of it."""
    if len(set(corpus.splits)) < 2:
        return
    all_prompts = enumerate(zip(corpus.splits, corpus.prompts, strict=True)) if corpus.earlier else ()
    held_out_prompts = grouped(((split, hash(prompt)), rank) for rank, (split, prompt) in all_prompts)
    found = set()
    for members in _groups(corpus):
        by_split = grouped((corpus.splits[rank], rank) for rank in members)
        for rank in by_split.get("train", []):
            for split in ("test", "valid"):
                held_out = [other for other in by_split.get(split, [])[:_MAX_COMPARED] if _is_near(corpus, rank, other)]
                if held_out:
                    found.add(rank)
                    yield _leak(corpus, rank, held_out, split)
                    break
    for rank, prompts in corpus.earlier.items():
        for split in ("test", "valid") if corpus.splits[rank] == "train" and rank not in found else ():
            if held_out := [other for prompt in prompts for other in held_out_prompts.get((split, prompt), ())]:
                yield _leak(corpus, rank, held_out, split)
                break


def _leak(corpus: Corpus, rank: int, held_out: Sequence[int], split: str) -> Finding:
    rows = (corpus.indices[rank], *(corpus.indices[other] for other in held_out[:20]))
    return _LEAK.finding(*rows, values={"split": split}, severity="block" if split == "test" else "warn")


def _is_near(corpus: Corpus, one: int, two: int) -> bool:
    first, second = corpus.prompts[one], corpus.prompts[two]
    return first == second or jaccard(first, second) >= THRESHOLD


def _groups(corpus: Corpus) -> Iterator[list[int]]:
    members = grouped((label, rank) for rank, label in enumerate(corpus.labels))
    return (ranks for ranks in members.values() if len(ranks) > 1)


def _near_duplicate_pairs(corpus: Corpus) -> Iterator[list[Pair]]:
    """Yield the pairs in each group: all pairs in a small group, or a spanning tree in a large one."""
    linked = grouped(pair for i, j, _ in corpus.links for pair in ((i, j), (j, i)))
    for ranks in _groups(corpus):
        pairs = list(_spanning_tree(ranks[0], linked) if len(ranks) > _SMALL_GROUP else combinations(ranks, 2))
        scored = [(i, j, jaccard(corpus.prompts[i], corpus.prompts[j])) for i, j in pairs]
        yield [pair for pair in scored if pair[2] >= THRESHOLD]


def _spanning_tree(root: int, linked: dict[int, list[int]]) -> Iterator[tuple[int, int]]:
    """Yield the edges of a spanning tree: each member other than ``root``, after the member that connects it."""
    seen, queue = {root}, deque([root])
    while queue:
        member = queue.popleft()
        for other in sorted(linked[member]):
            if other not in seen:
                seen.add(other)
                queue.append(other)
                yield member, other


def _nearly_same(one: Row, two: Row) -> bool:
    if type(one) is not type(two) or (isinstance(one, Unpaired) and isinstance(two, Unpaired) and one.label != two.label):
        return False
    answers = target_text(one), target_text(two)
    is_same = normalize_answer(answers[0]) == normalize_answer(answers[1]) or jaccard(*answers) >= THRESHOLD
    if not isinstance(one, TextRow) and not is_same:
        return False
    names = [set(_NAME.findall(prompt_text(row))) for row in (one, two)]
    return names[0] <= names[1] or names[1] <= names[0]  # otherwise, each row has a name that the other lacks


def _is_same_apart_from(boilerplate: frozenset[int], one: Row, two: Row) -> bool:
    """Return whether the prompts are near-duplicates without ``boilerplate``, such as a header shared by rows with different questions."""
    first, second = (
        "\n".join(passage for passage in passages(prompt_text(row)) if hash(passage) not in boilerplate) for row in (one, two)
    )
    return not first or not second or jaccard(first, second) >= THRESHOLD
