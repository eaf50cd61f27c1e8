"""Check the labels of rows whose answers are few and short: near-spellings, and labels that other rows' words contradict."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from rapidfuzz import distance, fuzz

from mlxtune.data.checks.base import DROP, Check, CheckFamily, Finding, Fix, Span
from mlxtune.data.checks.corpus import MAX_LABEL, MAX_LABELS, Corpus

_ROWS_PER_LABEL = 3
_MIN_ROWS = 50  # fewer rows say little about the words of a label
_RARE = 0.05  # of the rows of a label, at most, have a near-spelling of it
_SPELLING, _EDITS = 85, 2  # minimum similarity of two spellings, in percent, and most edits of a word
_PRIOR = 1.5  # rows added to every label, with the words of all rows in proportion to their frequency
_BATCH = 1000  # rows
_DOUBT = 6.0  # log odds per square root of the number of words, from which a label is doubted

family = CheckFamily()
_SPELLED = family.register(
    Check(
        "label-spelling", "warn", "labels that are spelled differently",
        "“{label}” is in {rows:n row}; “{other}” is in {others:,}.", Fix("put", "correct"), "≠", short="spelling",
    )
)  # fmt: skip
_NOISE = family.register(
    Check("label-noise", "note", "labels that may be wrong", "“{label}”; similar rows have “{other}”.", DROP, "≠", short="label")
)


def label_set(answers: Sequence[str], most: int = MAX_LABELS) -> tuple[str, ...]:
    """Return the distinct answers if they are labels: at most ``most``, short, and repeated; otherwise none."""
    counts = Counter(answers)
    is_few = len(counts) <= most and len(answers) >= _ROWS_PER_LABEL * len(counts)
    return tuple(sorted(counts)) if is_few and all(len(text) <= MAX_LABEL and "\n" not in text for text in counts) else ()


@family.corpus_check
def labels(corpus: Corpus) -> Iterator[Finding]:
    """Find labels that are spelled unlike a more frequent one, and doubtful ones, most doubtful first."""
    ranks = [rank for rank in corpus.counted if rank in corpus.short_answers]
    answers = [corpus.short_answers[rank][1] for rank in ranks]
    known = label_set(answers)
    if len(ranks) < max(_MIN_ROWS, 0.95 * len(corpus.counted)) or len(known) < 2:
        return
    counts = Counter(answers)
    spelled = {label: other for label in known if (other := _usual_spelling(label, counts))}
    for rank in ranks:
        part, label = corpus.short_answers[rank]
        if label in spelled:
            other = spelled[label]
            values = {"label": label, "rows": counts[label], "other": other, "others": counts[other]}
            span = Span(part, 0, len(label), label, other)
            yield _SPELLED.finding(corpus.indices[rank], spans=(span,), values=values)
    own = [spelled.get(label, label) for label in answers]
    for place, other, odds in _doubtful([corpus.prompts[rank] for rank in ranks], own):
        yield _NOISE.finding(corpus.indices[ranks[place]], values={"label": own[place], "other": other, "odds": odds})


def _usual_spelling(label: str, counts: Counter[str]) -> str:
    """Return the more frequent label that ``label`` misspells, or ``""``: they differ in case or spaces, or a rare one in signs or letters."""
    rows = counts[label]
    for other, count in counts.most_common():
        one, two = label.split(), other.split()
        is_same = one == two or (len(label) > 3 and [word.casefold() for word in one] == [word.casefold() for word in two])
        is_rare = rows < count and rows <= max(1, _RARE * count)
        if (is_same and (rows, label) < (count, other)) or (is_rare and _are_alike(label, other)):
            return other
    return ""


def _are_alike(label: str, other: str) -> bool:
    words, others = (re.findall(r"[^\W_]+", one.casefold()) for one in (label, other))
    one, two = "".join(words), "".join(others)
    is_close = len(words) == len(others) and max(map(distance.OSA.distance, words, others), default=0) <= _EDITS
    is_alike = sorted(one) == sorted(two) or (is_close and fuzz.ratio(one, two) >= _SPELLING)
    return (one == two or (len(one) > 4 and is_alike)) and re.findall(r"\d", one) == re.findall(r"\d", two)


def _doubtful(texts: Sequence[str], own: Sequence[str]) -> list[tuple[int, str, float]]:
    """Return the positions of the rows whose words fit another label much better than their own, that label, and the log odds.

    Each row is scored by a naive Bayes classifier of its words and pairs of words that has not seen it (leave-one-out cross-validation),
    and ranked by the log odds, as in confident learning (Northcutt et al. 2021, arXiv:1911.00068). cleanlab would need scikit-learn and
    pandas.
    """
    names = sorted(set(own))
    label = np.array([names.index(one) for one in own])
    numbers: dict[str, int] = {}
    words = [[numbers.setdefault(word, len(numbers)) for word in _words(text)] for text in texts]
    row = np.repeat(np.arange(len(words)), [len(one) for one in words])
    word = np.array([number for one in words for number in one], np.int64)
    shared = np.bincount(word)[word] > 1
    row, (kinds, word) = row[shared], np.unique(word[shared], return_inverse=True)
    with_word = np.bincount(word * len(names) + label[row], minlength=len(kinds) * len(names)).reshape(-1, len(names))
    rows = np.bincount(label, minlength=len(names))
    prior = _PRIOR * with_word.sum(axis=1) / len(texts) + 1e-3
    weight = np.log(with_word + prior[:, None], dtype=np.float32) - np.log(rows + _PRIOR, dtype=np.float32)
    found = []
    for first in range(0, len(texts), _BATCH):
        start, end = np.searchsorted(row, (first, first + _BATCH))
        ours, own_word = row[start:end], word[start:end]
        scored, starts, sizes = np.unique(ours, return_index=True, return_counts=True)
        if not len(scored):
            continue
        scores = np.add.reduceat(weight[own_word], starts, axis=0)
        mine = label[ours]
        without = np.log(with_word[own_word, mine] - 1 + prior[own_word]) - np.log(rows[mine] - 1 + _PRIOR)
        scores[np.arange(len(scored)), label[scored]] = -np.inf
        odds = (scores.max(axis=1) - np.add.reduceat(without, starts)) / np.sqrt(sizes + 1)
        found += [
            (int(scored[one]), names[scores[one].argmax()], round(float(odds[one]), 2)) for one in np.flatnonzero(odds >= _DOUBT)
        ]
    return found


def _words(text: str) -> set[str]:
    words = re.findall(r"\w+(?:['’]\w+)?", text)
    return {*words, *map(" ".join, itertools.pairwise(words))}
