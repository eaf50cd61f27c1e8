"""Cluster texts by their vectors, name the clusters by their words, and make vectors of words for texts without a model.

Spherical k-means, outliers by their nearest neighbors, and class-based TF-IDF. scikit-learn has all of this, but it would add scipy and
100 MB to replace two hundred lines.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mlxtune.data.languages import FREQUENT_WORDS, WORDS

Labels = npt.NDArray[np.int64]  # (texts,)
Vectors = npt.NDArray[np.float32]  # (texts, width), unit vectors

_MIN_TEXTS = 8  # fewer are not clustered
_MAX_CLUSTERS = 100
_ROUNDS = 30
_NEIGHBORS = 5
_BLOCK = 2048  # texts compared with all others at once
_DEVIATIONS = 3.5  # a text is an outlier beyond this distance from the median similarity, in robust standard deviations
_MAD_TO_DEVIATION = 1.4826  # for a normal distribution
_WORD = re.compile(r"[^\W\d_]{3,}")
_NAME_WORDS = 3
_TYPICAL = 0.15  # of a cluster's texts have each word of its name
_COMMON = 0.5  # a word in more than this share of all texts sets no cluster apart
_WIDTH = 1024  # words of a vector of words
_NO_CONTENT = FREQUENT_WORDS | frozenset(WORDS["empty"].split())


def cluster(vectors: Vectors, texts: Sequence[str]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Cluster unit vectors of ``texts`` into √(texts / 2) clusters. The result is always the same.

    Returns the cluster of each text, -1 for an outlier, and the name of each cluster.
    """
    count = len(texts)
    if count < _MIN_TEXTS:
        return (0,) * count, ("",) if count else ()
    typical = ~_outliers(vectors)
    labels = np.full(count, -1, np.int64)
    labels[typical] = _k_means(vectors[typical], min(_count(count), int(typical.sum())))
    _, labels[typical] = np.unique(labels[typical], return_inverse=True)
    return tuple(labels.tolist()), cluster_names(labels.tolist(), texts)


def word_groups(texts: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Group ``texts`` by their words: the name of each group and its positions, the least typical one first. Every text is in a group."""
    vectors = word_vectors(texts)
    labels = _k_means(vectors, _count(len(texts))) if texts else np.zeros(0, np.int64)
    groups = []
    for label, name in enumerate(cluster_names(labels.tolist(), texts)):
        members = np.flatnonzero(labels == label)
        center = vectors[members].sum(axis=0)
        groups.append((name, members[np.argsort(vectors[members] @ center, kind="stable")].tolist()))
    return [group for group in groups if group[1]]


def _count(texts: int) -> int:
    return min(_MAX_CLUSTERS, max(2, round(math.sqrt(texts / 2)))) if texts >= _MIN_TEXTS else 1


def _k_means(vectors: Vectors, clusters: int) -> Labels:
    """Return the cluster of each vector, by spherical k-means with greedy initial centers (Arthur and Vassilvitskii 2007)."""
    random = np.random.default_rng(0)
    centers = [vectors[0]]
    distance = 1 - vectors @ vectors[0]
    for _ in range(1, clusters):
        weights = np.maximum(distance, 0).astype(np.float64) ** 2
        total = weights.sum()
        index = int(random.choice(len(vectors), p=weights / total)) if total > 0 else 0
        centers.append(vectors[index])
        distance = np.minimum(distance, 1 - vectors @ vectors[index])
    center = np.stack(centers)
    labels: Labels = np.full(len(vectors), -1, np.int64)
    for _ in range(_ROUNDS):
        new = (vectors @ center.T).argmax(axis=1)
        if (new == labels).all():
            break
        labels = new
        for cluster in range(clusters):
            members = vectors[labels == cluster]
            if len(members):
                mean = members.mean(axis=0)
                center[cluster] = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return labels


def _outliers(vectors: Vectors) -> npt.NDArray[np.bool_]:
    """Return which vectors are unusually dissimilar from their fifth nearest neighbor, by the median absolute deviation."""
    nearest = min(_NEIGHBORS, len(vectors) - 1)
    similarity = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK] @ vectors.T
        ordered = np.partition(block, -1 - nearest, axis=1)
        similarity[start : start + _BLOCK] = ordered[:, -1 - nearest]  # the vector itself is nearest
    deviation = similarity - np.median(similarity)
    scale = _MAD_TO_DEVIATION * float(np.median(np.abs(deviation)))
    far: npt.NDArray[np.bool_] = deviation < -_DEVIATIONS * max(scale, 1e-3)
    return far


def content_words(text: str) -> list[str]:
    """Return the words of ``text`` that say what it is about, in lower case."""
    return [word for word in _WORD.findall(text.casefold()) if word not in _NO_CONTENT]


def word_vectors(texts: Sequence[str]) -> Vectors:
    """Return unit vectors of the content words of ``texts``, weighted by TF-IDF, as ``(texts, words)``."""
    words = [set(content_words(text)) for text in texts]
    counts = Counter(word for own in words for word in own)
    column = {word: index for index, (word, count) in enumerate(counts.most_common(_WIDTH)) if count > 1}
    vectors: Vectors = np.zeros((len(texts), len(column) + 1), np.float32)
    for row, own in zip(vectors, words, strict=True):
        for word in own & column.keys():
            row[column[word]] = math.log(len(texts) / counts[word])
        row[-1] = 0 if row.any() else 1
    unit: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def cluster_names(labels: Sequence[int], texts: Sequence[str]) -> tuple[str, ...]:
    """Return for each cluster the content words that set it apart, in their usual order, by class-based TF-IDF (Grootendorst 2022).

    Texts with the label -1 are in no cluster. Of words that differ only in their ending, one is in the name.
    """
    counts: defaultdict[int, Counter[str]] = defaultdict(Counter)
    places: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for label, text in zip(labels, texts, strict=True):
        words = list(dict.fromkeys(content_words(text)))
        counts[label].update(words)
        places[label].update({word: at for at, word in enumerate(words)})
    total = sum(counts.values(), Counter[str]())
    mean = total.total() / max(1, len(counts))
    rows = Counter(labels)
    names = []
    for label in range(max(labels, default=-1) + 1):
        own = counts[label]
        scores = {
            word: count * math.log(1 + mean / total[word])
            for word, count in own.items()
            if count >= _TYPICAL * rows[label] and total[word] <= _COMMON * len(texts)
        }
        name: list[str] = []
        for word in sorted(scores, key=lambda word: (-scores[word], word)):
            if len(name) < _NAME_WORDS and not any(_same_stem(word, one) for one in name):
                name.append(word)
        names.append(" ".join(sorted(name, key=lambda word: (places[label][word] / own[word], word))))
    return tuple(names)


def _same_stem(word: str, other: str) -> bool:
    shared = len(os.path.commonprefix([word, other]))  # noqa: RUF071, which means whole names
    return shared >= max(4, min(len(word), len(other)) - 2)
