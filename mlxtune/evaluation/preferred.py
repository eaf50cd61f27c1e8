"""Which of two answers an arm would rather give: the measure of preference training, on pairs that never trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlxtune.data.rows import Preference
from mlxtune.evaluation.preference import Preferred
from mlxtune.models import head
from mlxtune.models.load import LoadedModel
from mlxtune.models.template import ChatTemplate
from mlxtune.recipe import Recipe
from mlxtune.training import lanes, pairs
from mlxtune.training.encode import encode
from mlxtune.training.lanes import Lanes
from mlxtune.training.reference import refer
from mlxtune.training.stack import Stack


def preferred(
    loaded: LoadedModel, recipe: Recipe, rows: Sequence[Preference], progress: Callable[[int, int], None]
) -> dict[str, Preferred]:
    """What ``loaded``, as it is now, prefers of each pair, by the row's id; pairs that the window leaves nothing of are left out.

    Log-probabilities are those of ``training.reference``, kept on disk by model, adapter and tokens.
    """
    found = encode(ChatTemplate(loaded.tokenizer), rows, recipe).rows
    stack = Stack(loaded.model, head.split(loaded.model), Lanes(lanes.suitable()))
    base = f"{loaded.source.fingerprint}/{recipe.model.quantize}/{loaded.compute}"
    scored = refer(stack, found, base, shared=pairs.can_share(stack), progress=progress)
    made = {}
    for pair in scored:
        assert pair.reference is not None
        chosen, rejected = pair.reference
        made[pair.id] = Preferred(chosen / len(pair.chosen), rejected / len(pair.rejected))
    return made
