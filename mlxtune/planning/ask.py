"""Questions that only MLX and the model's own tokenizer can answer, put to a process of its own: planning never loads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlxtune.core import errors
from mlxtune.core.errors import MachineError, MlxtuneError
from mlxtune.core.text import one_line
from mlxtune.planning.workload import Batch, Length, Lengths
from mlxtune.recipe import Recipe, dump

if TYPE_CHECKING:  # checks load numpy, which other questions need not wait for
    from mlxtune.data.checks.tokens import Tokens

MODULE = "mlxtune.training.probe"


def lengths(recipe: Recipe) -> Lengths:
    """The true lengths of the recipe's rows, rendered as the worker renders them.

    Raises what the worker would raise for rows, template or model; ``MachineError`` when the process died.
    """
    return as_lengths(_ask("lengths", {"recipe": dump(recipe)}))


def as_lengths(told: dict[str, Any]) -> Lengths:
    """The answer of ``training.probe.lengths`` as a value."""
    train, valid = (tuple(_length(*row) for row in told[share]) for share in ("train", "valid"))
    return Lengths(train, valid, told["prefix"], told["plain"])


def _length(full: int, trained: int, first: int, sides: Sequence[int] | None) -> Length:
    return Length(full, trained, first, (sides[0], sides[1], sides[2]) if sides else None)


def tokens(recipe: Recipe) -> list[Tokens | None]:
    """The true length of every record of the recipe's source, in order: ``None`` for what is no row. Bad rows stop nothing.

    Raises what the worker would raise for the model; ``MachineError`` when the process died.
    """
    from mlxtune.data.checks.tokens import Tokens

    found = _ask("tokens", {"recipe": dump(recipe)})
    return [row and Tokens(*row) for row in found["rows"]]


def steps(
    recipe: Recipe, batch: Batch, *, grouped: int, checkpointed: bool, compute: str | None = None
) -> dict[str, Any]:  # fmt: skip
    """What two steps on ``batch`` took; the keys are those of ``training.probe.steps``.

    ``grouped`` rows run together through the frozen layers for their cache, 0 where there is none. Raises ``MachineError`` and as
    above.
    """
    trained = min(-(-batch.trained // batch.rows), batch.width)
    shape = {
        "rows": batch.rows, "tokens": batch.prefix + batch.width + 1, "trained": trained, "prefix": batch.prefix, "grouped": grouped,
        "checkpointed": checkpointed, "sides": batch.sides,
    }  # fmt: skip
    return _ask("steps", {"recipe": dump(recipe), "batch": shape, "compute": compute})


def _ask(what: str, request: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", MODULE, what], input=json.dumps(request), capture_output=True, text=True,
        env=os.environ | {"TOKENIZERS_PARALLELISM": "true"},
    )  # fmt: skip
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        said = done.stderr.strip().splitlines()
        why = one_line(said[-1], 200) if said else f"it ended with {done.returncode}, as it does when memory runs out"
        raise MachineError(f"The process that looks at the {'step' if what == 'steps' else 'rows'} died: {why}.") from error
    if "error" not in answer:
        return answer
    kind = getattr(errors, answer["kind"], MlxtuneError)
    raise kind(answer["error"], mend=answer["mend"])
