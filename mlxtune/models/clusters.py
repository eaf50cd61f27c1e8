"""Cluster the rows of a source by the base's hidden states. Runs as the child process of ``planning.cluster_process``.

Spherical k-means, outliers by their nearest neighbors, and the words that name a cluster. scikit-learn has all of this, but it would
add scipy and 100 MB to replace two hundred lines.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import MachineError, ModelError
from mlxtune.core.files import home, read_json, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import to_json
from mlxtune.data import review
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.rows import prompt_text
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.planning.cluster_process import ClusterResult
from mlxtune.recipe import Recipe
from mlxtune.recipe import load as load_recipe
from mlxtune.runs.locks import accelerator_lease

if TYPE_CHECKING:
    from mlxtune.models.text_vectors import Vectors

Labels = npt.NDArray[np.int64]  # (texts,)

MAX_ROWS = 20_000  # if a source is larger, only evenly spaced rows are clustered
_VERSION = 2
_MIN_TEXTS = 8  # fewer are not clustered
_MAX_CLUSTERS = 100
_ROUNDS = 30
_NEIGHBORS = 5
_BLOCK = 2048  # texts compared with all others at once
_DEVIATIONS = 3.5  # a text is an outlier beyond this distance from the median similarity, in robust standard deviations
_MAD_TO_DEVIATION = 1.4826  # for a normal distribution
_WORD = re.compile(r"[^\W\d_]{3,}")
_LABEL_WORDS = 4


def cluster(vectors: Vectors, texts: Mapping[int, str]) -> ClusterResult:
    """Cluster unit vectors ``(texts, width)`` of the rows ``texts`` into √(texts / 2) clusters. The result is always the same."""
    count = len(texts)
    if count < _MIN_TEXTS:
        return ClusterResult(tuple(texts), (0,) * count, ("",) if count else ())
    typical = ~_outliers(vectors)
    clusters = min(_MAX_CLUSTERS, max(2, round(math.sqrt(count / 2))))
    labels = np.full(count, -1, np.int64)
    labels[typical] = _k_means(vectors[typical], min(clusters, int(typical.sum())))
    used, labels[typical] = np.unique(labels[typical], return_inverse=True)
    return ClusterResult(tuple(texts), tuple(labels.tolist()), _names(labels, len(used), list(texts.values())))


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


def _names(labels: Labels, clusters: int, texts: Sequence[str]) -> tuple[str, ...]:
    """Return the words of each cluster that are much more frequent in it than elsewhere (class-based TF-IDF; Grootendorst 2022)."""
    counts = [Counter[str]() for _ in range(clusters)]
    rows = Counter[int](labels.tolist())
    total: Counter[str] = Counter()
    for label, text in zip(labels.tolist(), texts, strict=True):
        words = set(_WORD.findall(text.casefold()))
        total.update(words)
        if label >= 0:
            counts[label].update(words)
    names = []
    for label, own in enumerate(counts):
        scores = {
            word: count / rows[label] * math.log(1 + len(texts) / total[word])
            for word, count in own.items()
            if count / rows[label] > 1.5 * total[word] / len(texts)
        }
        best = sorted(scores, key=lambda word: (-scores[word], word))[:_LABEL_WORDS]
        names.append(" ".join(best))
    return tuple(names)


def _texts(recipe: Recipe, request: Request) -> dict[int, str]:
    with closing(SourceBrowser(recipe.source, recipe.data.format, recipe.data.map)) as browser:
        for scanned in browser.scan():
            request.progress(["reading rows", scanned / max(len(browser), 1)])
        browser.apply_review(review.load(recipe.source))
        indices = [index for index in browser.rows if browser.decision(index).status not in review.EXCLUDED]
        step = max(1, -(-len(indices) // MAX_ROWS))
        return {index: prompt_text(browser.lazy_row(index).current) for index in indices[::step]}


def clusters(request: Request) -> Any:
    """Return a :class:`ClusterResult` as JSON. It is stored in the home folder, by the model and the rows' texts."""
    from mlxtune.models.load import load  # these import mlx, which must be loaded after the BLAS
    from mlxtune.models.text_vectors import standardized, text_vectors

    recipe = load_recipe(Path(request.params["recipe"]))
    texts = _texts(recipe, request)
    source = resolve(recipe.model.base, relative_to=recipe.folder, fetch=False)
    key = [_VERSION, source.fingerprint, recipe.model.quantize, list(texts.items())]
    file = home() / "clusters" / f"{sha256_json(key)[:32]}.json"
    if file.is_file():
        return read_json(file)
    with accelerator_lease("clustering", Path.cwd()):
        request.progress(["loading the model", 0.0])
        loaded = load(source, quantize=recipe.model.quantize)

        def progress(done: int, total: int) -> None:
            request.progress(["computing hidden states", done / total])

        vectors = text_vectors(loaded, list(texts.values()), home() / "clusters", progress)
    if vectors is None:
        raise ModelError(f"The hidden states of {recipe.model.base} cannot be read.", hint="Use another base to cluster rows.")
    request.progress(["clustering", 0.0])
    result = to_json(cluster(standardized(vectors), texts))
    with suppress(MachineError):  # a full disk: the result is still good
        write_json(file, result)
    return result


if __name__ == "__main__":
    blas.preload()
    sys.exit(serve({"clusters": clusters}))
