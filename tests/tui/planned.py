"""A recipe that can be planned without MLX: a model of headers alone, rows of known lengths, a machine of a known size."""

import json

from planning.conftest import llama, write_model

from mlxtune.core.child_process import Progress
from mlxtune.planning.machine import Machine
from mlxtune.planning.measurements import StepCost
from mlxtune.planning.workload import DatasetLengths, RowLength
from mlxtune.recipe import Recipe

from .driver import Gate
from .stage import Shop

RECIPE = """# what it is for
name = "support-json"

[model]
base = "../model"   # a small one

[data]
source = "../data/support.jsonl"
max_tokens = 512

[adapter]
rank = 8    # enough for a format
alpha = 16

[training]
epochs = 2
batch_size = 8
learning_rate = 1e-3
grad_checkpoint = false

[evaluation]
forbid = ["Northpeak"]
"""
LONGEST = 400


def plannable(shop: Shop, limit: float = 8.0, text: str = RECIPE) -> list[Recipe]:
    """Make the workspace's recipe plannable on a machine with ``limit`` GiB; the recipes whose rows were measured are appended."""
    shop.recipe("support-json", text)
    header, config = llama(layers=12, width=512, inner=1024, vocabulary=20_000)
    write_model(shop.folder / "model", header, config)
    (shop.folder / "model" / "tokenizer_config.json").write_text("{}")
    rows = [
        {"messages": [{"role": "user", "content": f"Where is parcel {at}?"}, {"role": "assistant", "content": f"It is near {at}."}]}
        for at in range(60)
    ]
    (shop.folder / "data" / "support.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shop.monkeypatch.setattr(
        "mlxtune.planning.machine.this_machine", lambda: Machine("Linux", "a chip", 2, "cpu", round(limit * 2**30))
    )
    measured: list[Recipe] = []

    def lengths(recipe: Recipe) -> DatasetLengths:
        measured.append(recipe)
        rows = tuple(RowLength(LONGEST - 5 * at, 60, LONGEST - 5 * at - 60) for at in range(45))
        return DatasetLengths(rows, rows[:6], 20, True)

    shop.monkeypatch.setattr("mlxtune.planning.measurements.row_lengths", lengths)
    return measured


class FakeProbe:
    """A probe whose steps take half a second and the memory that was expected. If it is ``endless``, it ends when it is stopped."""

    def __init__(self, *, endless: bool = False) -> None:
        self._endless, self._stopped = endless, Gate()

    def result(self, progress: Progress) -> StepCost | None:
        progress("step 1 of 2 with the largest batch", 0.0)
        if self._endless:
            self._stopped.wait()
        if self._stopped.is_set():
            return None
        return {"rest": 2**27, "loading": 2**27, "peak": 2**30, "frozen": 0.0, "step": 0.5, "trace": 0.0, "uncompiled": 0.0}

    def stop(self) -> None:
        self._stopped.set()
