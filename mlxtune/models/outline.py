"""What can be planned of a base before it is downloaded: its shapes from the catalogue, rows measured by another tokenizer."""

from __future__ import annotations

from dataclasses import replace

from mlxtune.models import bundled
from mlxtune.models.catalog import Base
from mlxtune.planning import ask
from mlxtune.planning.machine import Machine
from mlxtune.planning.plan import Planner
from mlxtune.planning.workload import Lengths
from mlxtune.recipe import Recipe


def unseen(recipe: Recipe, base: Base, machine: Machine, progress: bundled.Progress = lambda what, share: None) -> Planner:
    """What is known of ``recipe`` on ``machine`` while ``base`` is not here.

    Rows are as long as the bundled model's tokenizer makes them, whose vocabulary is small: most others need fewer tokens for the same
    text, but their templates may add some. Raises what the worker would raise for the rows.
    """
    bundled.ensure(progress)
    told = ask.lengths(replace(recipe, model=replace(recipe.model, base=bundled.ALIAS)))
    return Planner(machine, base.shapes, measured(told, base))


def measured(lengths: Lengths, base: Base) -> Lengths:
    """``lengths`` as they are for ``base``: where a layer looks at a window only, no beginning is shared."""
    return lengths if base.plain else replace(lengths, prefix=0, plain=False)
