"""Which of two answers an arm would rather give: the measure of preference training, on pairs that never trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from mlxtune.data.rows import Preference
from mlxtune.evaluation.arms import Arm
from mlxtune.evaluation.preference import Preferred
from mlxtune.models import head, lanes
from mlxtune.models.lanes import Lanes
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import Recipe
from mlxtune.training import pairs
from mlxtune.training.encode import encode
from mlxtune.training.reference import refer
from mlxtune.training.stack import Stack


def preferred(
    loaded: LoadedModel, recipe: Recipe, rows: Sequence[Preference], arm: Arm, progress: Callable[[int, int], None]
) -> dict[str, Preferred]:
    """What ``loaded``, as it is now and asked as ``arm`` asks, prefers of each pair, by the row's id.

    Pairs that the window leaves nothing of are left out; it is wider by what the arm says before the question. Log-probabilities are those of ``training.reference``, kept on disk by model, adapter and tokens.
    """
    template = ChatTemplate(loaded.tokenizer)
    asked = [replace(row, prompt=arm.ask(row)) for row in rows]
    ids = {new.id: row.id for new, row in zip(asked, rows, strict=True)}
    lengths = [[len(template.prompt(row.prompt, row.tools)) for row in some] for some in (asked, rows)]
    more = max(0, *(new - old for new, old in zip(*lengths, strict=True)))
    wide = replace(recipe, data=replace(recipe.data, max_tokens=recipe.data.max_tokens + more))
    found = encode(template, asked, wide).rows
    stack = Stack(loaded.model, head.split(loaded.model), Lanes(lanes.suitable()))
    base = f"{loaded.source.fingerprint}/{recipe.model.quantize}/{loaded.compute}"
    scored = refer(stack, found, base, shared=pairs.can_share(stack), progress=progress)
    return {ids[pair.id]: Preferred(*pair.means) for pair in scored}
