"""Cluster the rows of a source by the base's hidden states and their words. Runs as the child process of ``data/groups.py``.

With the bundled model, 85.2% of 8,175 requests of Bitext are in a cluster most of which has their intent (27 intents, 64 clusters); by
hidden states alone, it is 63.0%.
"""

import math
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import MachineError, ModelError
from mlxtune.core.files import home, read_json, write_json
from mlxtune.core.hashing import sha256_json
from mlxtune.core.json_fields import to_json
from mlxtune.data import review
from mlxtune.data.browser import SourceBrowser
from mlxtune.data.groups import ClusterResult
from mlxtune.data.rows import Row, prompt_text
from mlxtune.data.text_clusters import cluster, word_vectors
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.recipe import Recipe
from mlxtune.recipe import load as load_recipe
from mlxtune.runs.locks import accelerator_lease

MAX_ROWS = 20_000  # if a source is larger, only evenly spaced rows are clustered
_VERSION = 3


def current_rows(recipe: Recipe, request: Request) -> dict[int, Row]:
    """Return the rows that are not left out, as edited, by record number: all of them, or evenly spaced ones."""
    with SourceBrowser(recipe.source, recipe.data.format, recipe.data.map) as browser:
        for scanned in browser.scan():
            request.progress(["reading rows", scanned / max(len(browser), 1)])
        browser.apply_review(review.load(recipe.source))
        indices = [index for index in browser.rows if browser.decision(index).status not in review.EXCLUDED]
        step = max(1, -(-len(indices) // MAX_ROWS))
        return {index: browser.lazy_row(index).current for index in indices[::step]}


def clusters(request: Request) -> Any:
    """Return a :class:`ClusterResult` as JSON. It is stored in the home folder, by the model and the rows' texts."""
    from mlxtune.models.load import load  # these import mlx, which must be loaded after the BLAS
    from mlxtune.models.text_vectors import standardized, text_vectors

    recipe = load_recipe(Path(request.params["recipe"]))
    texts = {index: prompt_text(row) for index, row in current_rows(recipe, request).items()}
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
    own = list(texts.values())
    both = np.concatenate([standardized(vectors), word_vectors(own)], axis=1)
    both /= math.sqrt(2)  # unit vectors again
    result = to_json(ClusterResult(tuple(texts), *cluster(both, own)))
    with suppress(MachineError):  # a full disk: the result is still good
        write_json(file, result)
    return result


if __name__ == "__main__":
    blas.preload()
    sys.exit(serve({"clusters": clusters}))
