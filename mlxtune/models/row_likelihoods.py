"""Compute how much the prompts of rows tell a base about their answers. Runs as a child process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlxtune.core.child_process import Request, serve
from mlxtune.core.errors import InputError
from mlxtune.data.checks.check_input import scored_answer
from mlxtune.data.checks.forms import longest_text
from mlxtune.data.checks.mismatch import FIT
from mlxtune.data.rows import Row, TextRow, assistant_message
from mlxtune.models.clusters import current_rows
from mlxtune.models.cpu import blas
from mlxtune.models.resolve import resolve
from mlxtune.recipe import load as load_recipe
from mlxtune.runs.locks import accelerator_lease

if TYPE_CHECKING:
    from mlxtune.models.template import ChatTemplate

_TOKENS = 64  # of an answer that count
_MIN_TOKENS = 5  # a shorter answer fits many prompts
_OTHERS = 4  # other prompts that an answer is compared with
_SURE = 2 * FIT  # information from which one is enough

Pair = tuple[Sequence[int], Sequence[int]]  # the tokens of a prompt and an answer


def information(pairs: Mapping[int, Pair], nats: Callable[[list[Pair]], list[float]]) -> list[tuple[int, float]]:
    """Return the pointwise mutual information of the prompt and answer of each record number.

    It is the log-likelihood of an answer under its prompt minus the mean under others, in nats, by the square root of its tokens, as
    its deviation grows. ``nats`` returns negative log-likelihoods.
    """
    rows = sorted(pairs, key=lambda row: hash(tuple(pairs[row][0])))  # neighbors have nothing in common

    def under(shifts: Sequence[int], places: Sequence[int]) -> np.ndarray[Any, Any]:
        asked = [(pairs[rows[(place + shift) % len(rows)]][0], pairs[rows[place]][1]) for place in places for shift in shifts]
        return np.reshape(nats(asked), (len(places), len(shifts)))

    scale = np.sqrt([len(pairs[row][1]) for row in rows])
    own, others = under((0, 1), range(len(rows))).T
    found = (others - own) / scale
    if (unsure := np.flatnonzero(found < _SURE)).size:
        more = under(range(2, _OTHERS + 1), unsure.tolist()).sum(axis=1)
        found[unsure] = ((others[unsure] + more) / _OTHERS - own[unsure]) / scale[unsure]
    return list(zip(rows, found.round(2).tolist(), strict=True))


def likelihoods(request: Request) -> Any:
    """Return the :func:`information` of the rows of a recipe with long enough answers."""
    from mlxtune.models.likelihood import negative_log_likelihoods  # these import mlx, which must be loaded after the BLAS
    from mlxtune.models.load import load
    from mlxtune.models.template import TemplateSettings, load_template

    recipe = load_recipe(Path(request.params["recipe"]))
    recipe = replace(recipe, data=replace(recipe.data, format=request.params["format"], map=request.params["map"]))
    rows = current_rows(recipe, request)
    source = resolve(recipe.model.base, relative_to=recipe.folder, fetch=False)
    with accelerator_lease("checking", Path.cwd()):
        request.progress(["loading the model", 0.0])
        loaded = load(source, quantize=recipe.model.quantize)
        template = load_template(source, TemplateSettings.from_recipe(recipe), loaded.tokenizer)
        pairs = {index: pair for index, row in rows.items() if len((pair := _pair(template, row))[1]) >= _MIN_TOKENS}

        def nats(asked: list[Pair]) -> list[float]:
            def progress(done: int, total: int) -> None:
                request.progress(["computing likelihoods", done / total])

            return negative_log_likelihoods(loaded.model, asked, batch_size=16, progress=progress)

        return information(pairs, nats) if len(pairs) > _OTHERS else []


def _pair(template: ChatTemplate, row: Row) -> Pair:
    """Return the tokens of the prompt of ``row`` and the first ones of its answer; none if there is no answer or it cannot be rendered."""
    text = longest_text(scored_answer(row)[1])  # the rest of a JSON answer fits many prompts
    if text and not isinstance(row, TextRow):
        with suppress(InputError):
            span = template.answer((*row.prompt, assistant_message(text)), row.tools, row.location)
            return span.tokens[: span.start], span.tokens[span.start : span.end][:_TOKENS]
    return (), ()


if __name__ == "__main__":
    blas.preload()
    sys.exit(serve({"likelihoods": likelihoods}))
