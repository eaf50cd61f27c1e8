"""Decide whether an export is faithful to its adapter. Imports no mlx.

Both generate answers for the same held-out rows, and their logits are compared on these answers. The export's loss is compared with
the adapter's own change: an export that lost more than the adapter changed is not faithful.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mlxtune.core.errors import GateError, InputError
from mlxtune.core.files import read_json, write_json
from mlxtune.core.text import plural
from mlxtune.evaluation.json_fields import from_json, to_json
from mlxtune.evaluation.scorers.registry import metric_label
from mlxtune.evaluation.statistics.intervals import PairedCounts
from mlxtune.evaluation.verdict import Comparison

FILE = "fidelity.json"
LOSSY = 0.05  # fraction of the adapter's effect; exports that lose more are reported as lossy


@dataclass(frozen=True)
class LogitDistance:
    """The distance of one model from another, measured at ``positions`` positions in answers.

    ``max`` and ``mean`` are absolute differences between logits, ``kl`` is the mean KL(first ‖ second) in nats per token, and
    ``agree`` is the fraction of positions with the same most likely token.
    """

    max: float
    mean: float
    kl: float
    agree: float
    positions: int


@dataclass(frozen=True)
class Fidelity:
    """The distance between base and adapter (``change``), and between adapter and export (``loss``).

    ``same`` of ``rows`` greedy answers are identical. ``rates`` compares adapter and export on each metric of the contract, if any.
    """

    form: str
    change: LogitDistance
    loss: LogitDistance
    rows: int
    same: int
    rates: tuple[Comparison, ...]

    @property
    def lost_share(self) -> float:
        """The loss as a fraction of the adapter's effect, based on mean logit distances."""
        return self.loss.mean / self.change.mean if self.change.mean else float(self.loss.mean > 0)

    @property
    def is_lossy(self) -> bool:
        """Whether the export lost a noticeable share of the adapter's effect."""
        return self.lost_share >= LOSSY

    @property
    def failure(self) -> str:
        """The reason that the export is not faithful, or ``""``."""
        if self.lost_share >= 1:
            return (
                f"The export lost more than the adapter changed: its logits differ from the adapter's by {self.loss.mean:.4f} on average, "
                f"and the adapter's differ from the base's by {self.change.mean:.4f}."
            )
        if self.loss.kl >= self.change.kl > 0:
            return (
                f"The export lost more than the adapter changed: its predictions differ from the adapter's by {self.loss.kl:.5f} nats per token "
                f"(KL divergence), and the adapter's from the base's by {self.change.kl:.5f}."
            )
        worse = [item for item in self.rates if item.outcome == "worse"]
        if not worse:
            return ""
        label, paired = metric_label(worse[-1].metric), worse[-1].paired
        return (
            f"{label[0].upper()}{label[1:]} passes for {paired.both + paired.fixed} of {plural(paired.total, 'row')}, "
            f"down from {paired.both + paired.broken} with the adapter."
        )

    @property
    def summary(self) -> str:
        """Whether the export is faithful, and how much of the adapter's effect it lost, as a sentence."""
        label = "Not faithful" if self.failure else "Lossy" if self.is_lossy else "Faithful"
        return f"{label}: {self.lost_share:.1%} of the adapter's effect was lost."

    @property
    def sentence(self) -> str:
        """Like :attr:`summary`, with the measurements, or why the export is not faithful."""
        if self.failure:
            return f"Not faithful. {self.failure}"
        answers = f"{self.same} of {plural(self.rows, 'greedy answer')} identical"
        return f"{self.summary[:-1]} (KL {self.loss.kl:.5f} nats per token); {answers}."


def require_faithful(proof: Fidelity, *, quantized: bool = False) -> None:
    """Raise ``GateError`` with the measurements and an alternative if the export, or its ``quantized`` file, is not faithful."""
    if not proof.failure:
        return
    alternatives = {
        "quantized": "Fuse it without --requantize, or use the adapter itself.",
        "gguf": "Export it with --precision f16." if quantized else "Use the adapter itself, or mlxtune export hf.",
    }
    raise GateError(
        proof.failure, hint=f"{alternatives.get(proof.form, 'Use the adapter itself.')} --force keeps the export anyway."
    )


def save(proof: Fidelity, folder: Path) -> None:
    """Write ``fidelity.json`` into ``folder``, including derived values for other programs."""
    write_json(folder / FILE, {"v": 1, **to_json(proof), "lost": proof.lost_share, "sentence": proof.sentence})


def load(folder: Path) -> Fidelity:
    """Read ``fidelity.json`` in ``folder``. Raise ``InputError`` if it is invalid."""
    try:
        data = read_json(folder / FILE)
        rates = tuple(from_json(Comparison, item, paired=PairedCounts(**item["paired"])) for item in data["rates"])
        change, loss = LogitDistance(**data["change"]), LogitDistance(**data["loss"])
        return Fidelity(data["form"], change, loss, data["rows"], data["same"], rates)
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / FILE} is not a valid fidelity report.", hint="Export the adapter again.") from error
