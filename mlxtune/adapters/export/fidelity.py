"""Decide whether an export is faithful to its adapter. Imports no mlx.

Both generate answers for the same held-out rows, and their logits are compared on these answers. The export's loss is compared with
the adapter's own change: an export that lost more than the adapter changed is not faithful. The prompts and answers of an installed
program that runs the export are compared with the adapter's, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlxtune.core.errors import GateError
from mlxtune.core.files import write_json
from mlxtune.core.json_fields import load_record, optional, to_json
from mlxtune.core.sequences import common_length
from mlxtune.evaluation.scorers import CONTRACT
from mlxtune.evaluation.statistics.intervals import PairedCounts, newcombe
from mlxtune.evaluation.verdict import Comparison
from mlxtune.models.detokenizer import Decode

FILE, VERIFICATION_FILE = "fidelity.json", "verification.json"
VERSION = 2  # of both
LOSSY = 0.05  # fraction of the adapter's effect; exports that lose more are reported as lossy

PromptCheck = Literal["tokens", "counts", "none"]
FidelityOutcome = Literal["faithful", "lossy", "not_faithful"]
FidelityFailure = Literal["", "prompts", "logits", "divergence", "contract"]  # what shows that an export is not faithful
_FAILURES: dict[FidelityFailure, str] = {
    "prompts": "the program renders prompts differently than in training",
    "logits": "its logits differ more from the adapter's than the adapter's from the base's",
    "divergence": "its predictions differ more from the adapter's than the adapter's from the base's",
    "contract": "its answers meet the contract less often than the adapter's",
}


@dataclass(frozen=True)
class PromptDifference:
    """The first difference between a row's prompt as the trainer rendered it and as another program does."""

    row: str
    position: int  # of the first token that differs, from 0; -1 if only the numbers of tokens were compared
    expected: str  # the text of the token there, empty after the end; or the number of tokens
    actual: str


@dataclass(frozen=True)
class LogitDistance:
    max: float  # absolute difference
    mean: float  # absolute difference
    kl: float  # mean KL(first ‖ second), in nats per token
    agree: float  # fraction of positions with the same most likely token
    positions: int  # in answers


@dataclass(frozen=True)
class ComparedAnswers:
    """Greedy answers to the same rows by the adapter as trained and by another model."""

    rows: int
    same: int  # identical answers
    rates: tuple[Comparison, ...]  # of each metric of the contract, if any

    @property
    def contract(self) -> Comparison | None:
        """The comparison of the whole contract or, without one, of the last metric."""
        return next((item for item in self.rates if item.metric == CONTRACT), self.rates[-1] if self.rates else None)

    @property
    def is_worse(self) -> bool:
        return any(item.outcome == "worse" for item in self.rates)


@dataclass(frozen=True)
class TriedSize:
    """A quantization of the fused model, compared with the adapter."""

    precision: str
    nbytes: int
    holds: bool  # as Fidelity.holds() says
    answers: ComparedAnswers
    speed: float | None = None  # llama.cpp's or MLX's on this machine, in generated tokens per second
    finishing_steps: int = 0  # for which the adapter was trained further with its fused weights rounded to the precision


@dataclass(frozen=True)
class Fidelity:
    """The distances between base, adapter and export."""

    form: str
    change: LogitDistance  # from base to adapter
    loss: LogitDistance  # from adapter to export
    answers: ComparedAnswers
    prompt: PromptDifference | None = None  # between training and the program that the export is for
    precision: str = ""  # the smallest that holds, if smaller ones were tried
    sizes: tuple[TriedSize, ...] = ()  # from the smallest
    needed_rows: int = optional(0)  # for a size to hold, if none does
    typed: tuple[str, ...] = optional(())  # IDs of rows with typed control tokens, whose prompts differ in every other program
    off_task: bool = optional(False)  # compared on mlxtune's off-task prompts, because the adapter has no recipe
    v: int = VERSION

    @property
    def lost_share(self) -> float:
        """The loss as a fraction of the adapter's effect, based on mean logit distances."""
        return self.loss.mean / self.change.mean if self.change.mean else float(self.loss.mean > 0)

    @property
    def failure(self) -> FidelityFailure:
        """What shows that the export is not faithful, or ``""``."""
        if self.prompt:
            return "prompts"
        if self.lost_share >= 1:
            return "logits"
        if self.loss.kl >= self.change.kl > 0:
            return "divergence"
        return "contract" if self.answers.is_worse else ""

    @property
    def outcome(self) -> FidelityOutcome:
        """``lossy`` if the export lost a noticeable share of the adapter's effect."""
        return "not_faithful" if self.failure else "lossy" if self.lost_share >= LOSSY else "faithful"

    def holds(self, margin: float) -> bool:
        """Return whether the contract's interval rules out a loss of ``margin`` or, without a contract, whether it is not even lossy."""
        contract = self.answers.contract
        return self.outcome == "faithful" if contract is None else not self.failure and contract.low > -margin


@dataclass(frozen=True)
class Verification:
    """The prompts and answers of ``model`` at ``url``, compared with those of the adapter as trained."""

    export: str  # the export's run ID, if known
    url: str
    model: str
    prompts: PromptCheck  # whether the tokens of prompts were compared, or only how many there are
    difference: PromptDifference | None
    answers: ComparedAnswers
    v: int = VERSION

    @property
    def failure(self) -> Literal["", "prompts", "contract"]:
        """What shows that the program does not run the model that was evaluated, or ``""``."""
        return "prompts" if self.difference else "contract" if self.answers.is_worse else ""


def needed_rows(sizes: Sequence[TriedSize], margin: float) -> int:
    """Return about how many rows would rule out a loss of ``margin`` if as few of them change as in the closest size, half for the better."""
    tables = [contract.paired for one in sizes if (contract := one.answers.contract)]
    if not tables:
        return 0
    closest = min(tables, key=lambda paired: paired.broken + paired.fixed)
    rows, changed = closest.total, closest.broken + closest.fixed
    even = PairedCounts(2 * closest.both, changed, changed, 2 * closest.neither)  # of twice the rows, for a whole number of changes
    while newcombe(even, effective_n=rows)[0] <= -margin:
        rows += max(1, rows // 50)
    return rows


def compare_tokens(row: str, expected: Sequence[int], actual: Sequence[int], decode: Decode) -> PromptDifference | None:
    """Return the first difference between two token sequences for the prompt of ``row``, or ``None`` if they are equal."""
    if list(expected) == list(actual):
        return None
    position = common_length(expected, actual)
    texts = (decode(list(tokens[position : position + 1])) for tokens in (expected, actual))
    return PromptDifference(row, position, *texts)


def require_prompts(difference: PromptDifference | None) -> None:
    """Raise ``GateError`` if there is a ``difference`` between the prompts of training and of the program."""
    if difference:
        place = f"{difference.row}, at token {difference.position}: {difference.actual!r} instead of {difference.expected!r}"
        hint = "Export it for llama.cpp or LM Studio, or use the adapter itself. --force keeps the export anyway."
        raise GateError(f"The export is not faithful: {_FAILURES['prompts']} ({place}).", hint=hint)


def require_faithful(proof: Fidelity, *, quantized: bool = False) -> None:
    """Raise ``GateError`` with an alternative if the export, or its ``quantized`` file, is not faithful."""
    require_prompts(proof.prompt)
    if not proof.failure:
        return
    alternatives = {
        "quantized": "Fuse it without --requantize, or use the adapter itself.",
        "gguf": "Export it with --precision f16." if quantized else "Use the adapter itself, or mlxtune export hf.",
    }
    hint = f"{alternatives.get(proof.form, 'Use the adapter itself.')} --force keeps the export anyway."
    raise GateError(f"The export is not faithful: {_FAILURES[proof.failure]}.", hint=hint)


def save(proof: Fidelity | Verification, folder: Path) -> None:
    write_json(folder / (FILE if isinstance(proof, Fidelity) else VERIFICATION_FILE), to_json(proof))


def load(folder: Path) -> Fidelity:
    """Read ``fidelity.json`` in ``folder``. Raise ``InputError`` if it is invalid."""
    return load_record(Fidelity, folder / FILE, VERSION, "Export the adapter again.")


def load_verification(folder: Path) -> Verification:
    """Read ``verification.json`` in ``folder``. Raise ``InputError`` if it is invalid."""
    return load_record(Verification, folder / VERIFICATION_FILE, VERSION, "Run mlxtune verify-export again.")
