"""What a recipe may say. Field names are the TOML keys; defaults are what a file may leave out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class ModelSection:
    """``base`` is an alias of the catalogue, a hub id or a folder; ``quantize`` = 4 or 8 quantises unquantised weights on load."""

    base: str
    quantize: Literal[0, 4, 8] = 0


@dataclass(frozen=True)
class DataSection:
    """Where the rows are, and how they are divided.

    ``map`` gives keys of ours the source's names for them: ``{ prompt = "question", completion = "answer" }``.
    ``holdout`` and ``validation`` are shares of all rows; a folder with ``test.jsonl`` or ``valid.jsonl`` decides for itself.
    """

    source: str
    format: Literal[
        "auto", "chat", "completion", "text", "alpaca", "sharegpt", "preference", "openai-preference", "unpaired", "transcript"
    ] = "auto"
    map: dict[str, str] = field(default_factory=dict)
    holdout: float = 0.15
    validation: float = 0.10
    group_by: str = ""
    max_tokens: int = 1024
    seed: int = 7


@dataclass(frozen=True)
class MethodSection:
    kind: Literal["sft"] = "sft"


@dataclass(frozen=True)
class AdapterSection:
    """LoRA (Hu et al. 2021, arXiv:2106.09685) or DoRA (Liu et al. 2024, arXiv:2402.09353) on ``targets`` of the last ``layers`` layers.

    ``targets`` may also name ``embed_tokens`` and ``lm_head``. ``lora_plus`` is how many times faster B learns than A (LoRA+,
    Hayou et al. 2024, arXiv:2402.12354).
    """

    rank: int = 16
    alpha: float = 32.0
    kind: Literal["lora", "dora"] = "lora"
    rslora: bool = False
    lora_plus: float = 1.0
    dropout: float = 0.0
    layers: int | Literal["all"] = "all"
    targets: list[str] | Literal["all-linear", "attention"] = "all-linear"

    @property
    def scale(self) -> float:
        """mlx-lm's ``scale``: alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


@dataclass(frozen=True)
class TrainingSection:
    """How long and how fast to learn. Schedules, ``validate_every`` and ``save_every`` count optimizer steps.

    ``samples`` validation rows are answered after each validation, to be read.
    ``steps`` = 0 means "as many as ``epochs`` take"; ``batch_size`` = 0 means "as many rows as fit ``batch_tokens``".
    ``decay`` is the share of the steps in which ``wsd`` falls. ``early_stop`` validations without a better one end the run; 0 = off.
    ``cache_frozen`` keeps what enters the first adapted layer over epochs; ``keep`` newest checkpoints stay, and the best.
    """

    epochs: int = 2
    steps: int = 0
    batch_tokens: int = 2048
    batch_size: int = 0
    accumulate: int = 1
    learning_rate: float = 2e-4
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    warmup: float = 0.05
    decay: float = 0.2
    optimizer: Literal["adamw", "adafactor", "muon", "lion"] = "adamw"
    weight_decay: float = 0.0
    clip: float = 1.0
    grad_checkpoint: bool | Literal["auto"] = "auto"
    cache_frozen: bool | Literal["auto"] = "auto"
    validate_every: int = 25
    save_every: int = 50
    early_stop: int = 0
    samples: int = 2
    keep: int = 3
    seed: int = 7


@dataclass(frozen=True)
class Disclaimer:
    """A sentence that must be there, and must not be there where it does not belong.

    ``when`` names fields of the reference answer and their values, e.g. ``{category = "safety"}``; empty means always.
    """

    text: str
    when: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationSection:
    """The contract an output must satisfy, and who is measured against it."""

    schema: str = ""
    disclaimers: list[Disclaimer] = field(default_factory=list)
    forbid: list[str] = field(default_factory=list)
    arms: list[Literal["base", "tuned"]] = field(default_factory=lambda: ["base", "tuned"])
    max_tokens: int = 256
    batch_size: int = 64


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. ``folder`` is where its relative paths start; it is not part of the file."""

    name: str
    model: ModelSection
    data: DataSection
    method: MethodSection = field(default_factory=MethodSection)
    adapter: AdapterSection = field(default_factory=AdapterSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    folder: Path = field(default=Path(), compare=False)

    def path(self, relative: str) -> Path:
        """``relative`` as seen from the recipe's folder."""
        return (self.folder / Path(relative).expanduser()).resolve()

    @property
    def source(self) -> Path:
        """The file or folder that holds the rows."""
        return self.path(self.data.source)

    @property
    def schema(self) -> Path | None:
        """The JSON Schema file of the contract, if there is one."""
        return self.path(self.evaluation.schema) if self.evaluation.schema else None
