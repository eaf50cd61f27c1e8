"""The comparison of an installed program's answers with the adapter's: the cost of export and quantization. Imports no mlx."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.text import plural
from mlxtune.evaluation.json_fields import from_json, to_json
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.statistics.intervals import PairedCounts
from mlxtune.evaluation.verdict import Comparison, change_text

FILE = "verification.json"
PromptCheck = Literal["tokens", "counts", "none"]


@dataclass(frozen=True)
class Verification:
    """The answers of ``model`` at ``url``, compared with those of the adapter as trained.

    ``export`` is the export's run ID, if known. ``prompts`` says whether the tokens of prompts were compared, or only how many there are, and
    ``problem`` the first difference. ``same`` of ``rows`` greedy answers are identical. ``rates`` compares both on each metric of the contract.
    """

    export: str
    url: str
    model: str
    prompts: PromptCheck
    problem: str
    rows: int
    same: int
    rates: tuple[Comparison, ...]

    @property
    def failure(self) -> str:
        """The reason why the program does not run the model that was evaluated, or ``""``."""
        worse = [item for item in self.rates if item.outcome == "worse"]
        return self.problem or (f"Worse than the adapter as trained: {cost(worse[-1])}." if worse else "")

    @property
    def sentence(self) -> str:
        same = f"{self.same} of {plural(self.rows, 'greedy answer')} identical"
        if self.failure:
            return f"{self.failure} {same[0].upper()}{same[1:]}."
        prompts = {
            "tokens": "Prompts have the same tokens",
            "counts": "Prompts have the same number of tokens",
            "none": "Prompts were not compared",
        }
        costs = "".join(f"; {cost(item)}" for item in self.rates[-1:])
        return f"{prompts[self.prompts]}; {same}{costs}."


def cost(item: Comparison) -> str:
    """Return both rates of a metric, and the change in points with its 95% interval."""
    paired = item.paired
    before, after = (
        f"{share:.1%}" for share in ((paired.both + paired.broken) / paired.total, (paired.both + paired.fixed) / paired.total)
    )
    return f"{metric_label(item.metric)} {before} → {after}, {change_text(item.low, item.change, item.high)} points"


def save(result: Verification, folder: Path) -> None:
    """Write ``verification.json`` into ``folder``, including the sentence for other programs."""
    write_json(folder / FILE, {"v": 1, **to_json(result), "sentence": result.sentence})


def load(folder: Path) -> Verification:
    """Read ``verification.json`` in ``folder``. Raise ``InputError`` if it is invalid."""
    try:
        data = read_json(folder / FILE)
        rates = tuple(from_json(Comparison, item, paired=PairedCounts(**item["paired"])) for item in data["rates"])
        own = {item.name for item in fields(Verification)}
        return from_json(Verification, {name: value for name, value in data.items() if name in own}, rates=rates)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is not a valid verification.", hint="Run mlxtune verify-export again.") from error
