"""How far an exported model is from the adapter it was made of, and whether that is near enough. No mlx: faces read it.

Both answer the same held-out rows. Where the reference answers stand, their logits are held against each other, and the loss is
measured against what the adapter itself changed: an export that lost more than the adapter gained is no export of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.text import plural
from mlxtune.evaluation.contract import LABELS
from mlxtune.evaluation.statistics import Paired
from mlxtune.evaluation.verdict import Comparison

FILE = "fidelity.json"
LOSSY = 0.05  # of the adapter's change: more is told as a loss, though it may be worth its size


@dataclass(frozen=True)
class Distance:
    """One model from another at ``positions`` of reference answers.

    ``max`` and ``mean`` are absolute differences of logits over the vocabulary, ``kl`` the mean of KL(first ‖ second) in nats a token,
    ``agree`` the share of positions at which both find the same token likeliest.
    """

    max: float
    mean: float
    kl: float
    agree: float
    positions: int


@dataclass(frozen=True)
class Fidelity:
    """``change`` is how far the adapter took the base, ``loss`` how far the export is from the base with the adapter applied.

    ``same`` of ``rows`` greedy answers are equal to the letter. ``rates`` are the metrics of the contract, the adapter first and the
    export second; none where there is no contract.
    """

    form: str
    change: Distance
    loss: Distance
    rows: int
    same: int
    rates: tuple[Comparison, ...]

    @property
    def lost(self) -> float:
        """The loss as a share of the adapter's own change, by the mean distance of logits: 0 for an export that computes the same."""
        return self.loss.mean / self.change.mean if self.change.mean else float(self.loss.mean > 0)

    @property
    def why(self) -> str:
        """Why it is not to be used, in a sentence with the figures; empty where it is."""
        if self.lost >= 1:
            return (
                f"It lost more than the adapter changed: its logits are {self.loss.mean:.4f} from the adapter's on average, "
                f"and those are {self.change.mean:.4f} from the base's."
            )
        worse = [item for item in self.rates if item.word == "worse"]
        if worse:
            item = worse[-1]
            held = item.paired.both + item.paired.broken
            return (
                f"{LABELS[item.metric][0].upper()}{LABELS[item.metric][1:]} holds for {item.paired.both + item.paired.fixed} of "
                f"{plural(item.paired.total, 'row')}, and for {held} with the adapter applied."
            )
        return ""

    @property
    def sentence(self) -> str:
        """What it means, in words."""
        counts = f"{self.same} of {plural(self.rows, 'greedy answer')} equal to the letter"
        if self.why:
            return f"Not faithful. {self.why}"
        word = "Faithful" if self.lost < LOSSY else "Lossy, and still the adapter"
        return f"{word}: it lost {100 * self.lost:.1f} % of what the adapter changed; {counts}."


def require(found: Fidelity) -> None:
    """Raises ``GateError`` with the figure and the alternative when ``found`` is not faithful."""
    if not found.why:
        return
    others = {
        "quantized": "Fuse it without quantising again: leave --requantize out. Or use the adapter as it is.",
        "gguf": "Use the adapter as it is, or a folder of safetensors: --as hf",
    }
    raise GateError(found.why, mend=f"{others.get(found.form, 'Use the adapter as it is.')} --force writes it all the same.")


def save(found: Fidelity, folder: Path) -> None:
    """Write ``fidelity.json`` into ``folder``, with the derived figures in it for other readers."""
    write_json(folder / FILE, {"v": 1, **asdict(found), "lost": found.lost, "sentence": found.sentence})


def load(folder: Path) -> Fidelity:
    """What :func:`save` wrote into ``folder``. Raises ``InputError``."""
    try:
        return _read(read_json(folder / FILE))
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is not of the form that mlxtune writes.") from error


def _read(data: Mapping[str, Any]) -> Fidelity:
    rates = tuple(Comparison(**{**item, "paired": Paired(**item["paired"])}) for item in data["rates"])
    return Fidelity(data["form"], Distance(**data["change"]), Distance(**data["loss"]), data["rows"], data["same"], rates)
