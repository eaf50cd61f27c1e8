"""What a plan says in words, whichever face it is for."""

from __future__ import annotations

from mlxtune.core.text import duration, plural
from mlxtune.planning.plan import Cost, Plan

_MOMENTS = {
    "head": "when the head computes its first logits",
    "backward": "when the topmost layer computes its gradients",
    "update": "when the optimizer updates the adapter",
    "freezing": "when the frozen layers run for the cache",
}


def moment(found: Plan) -> str:
    """When memory is highest."""
    if found.estimate.before:
        return "while the base is loaded, before the first step"
    return _MOMENTS[found.estimate.moment]


def worst(found: Plan) -> str:
    """The batch that needs most: ``4 rows of 232 tokens behind 159``."""
    batch = found.estimate.batch
    return f"{plural(batch.rows, 'row')} of {batch.width:,} tokens" + (f" behind {batch.prefix:,}" if batch.prefix else "")


def parts(found: Plan) -> list[tuple[str, int, str]]:
    """Name, bytes and a note of each part of the memory; parts that this run has not are left out. They add up to all of it."""
    one = found.estimate
    kept = "inputs of layers, and one layer again" if one.checkpointed else "kept for the backward pass"
    listed = [
        ("weights", one.weights, ""),
        ("adapter", one.adapter, ""),
        ("optimizer", one.optimizer, ""),
        ("gradients", one.gradients, "" if one.gradients else "not there yet at that moment"),
        ("activations", one.activations, kept),
        ("head", one.head, ""),
        ("frozen layers' cache", one.frozen, ""),
        ("MLX's free buffers", one.buffers, ""),
        ("loading", one.before, "what it takes more, before the first step: all that is read, and all that is made of it"),
    ]
    return [part for part in listed if part[1] or part[0] == "gradients"]


def tokens(found: Plan) -> str:
    """How many train, of how many that are computed, and the longest row."""
    share = f"{100 * found.trained / max(1, found.computed):.0f} % of {found.computed:,} computed"
    return f"{found.trained:,} trained, {share}; the longest row has {found.longest:,}"


def time(cost: Cost) -> str:
    """How long, and how that is known; empty while nothing was measured."""
    if cost.seconds is None:
        return ""
    return f"about {duration(cost.seconds)}, {'as a probe measured' if cost.source == 'probe' else f'at the pace of {cost.source}'}"
