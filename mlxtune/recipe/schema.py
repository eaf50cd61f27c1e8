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
    ``too_long`` rows, of which a window of ``max_tokens`` leaves nothing to train, are refused, or skipped and counted.
    """

    source: str
    format: Literal[
        "auto", "chat", "completion", "text", "alpaca", "sharegpt", "preference", "openai-preference", "unpaired", "transcript"
    ] = "auto"
    map: dict[str, str] = field(default_factory=dict)  # keys of ours, and what the source calls them
    holdout: float = 0.15
    validation: float = 0.10
    group_by: str = ""
    max_tokens: int = 1024
    too_long: Literal["refuse", "skip"] = "refuse"
    seed: int = 7  # of the draws that divide the rows


Loss = Literal["sigmoid", "ipo", "hinge", "robust", "sft", "simpo", "orpo"]


@dataclass(frozen=True)
class MethodSection:
    """``sft`` learns answers, ``dpo`` to prefer one answer to another, ``kto`` from answers that are good or bad by themselves.

    The rest is for the last two. ``loss`` names preference losses for ``dpo``; KTO is one by itself, which weighs wanted rows by
    ``desirable`` and others by ``undesirable``.

    ``weights`` are those of each loss, all 1 when left out. ``beta`` is how far the policy may leave the reference, less for a
    larger one; ``label_smoothing`` the share of pairs that are labelled the wrong way round; ``gamma`` the margin SimPO wants.
    ``reference`` is the model as it stands before the first step, its parent adapter included, or the base without any adapter.
    ``pairs`` = "wrong" trains only on pairs of which the reference finds the rejected answer likelier, by the mean over tokens.
    """

    kind: Literal["sft", "dpo", "kto"] = "sft"
    loss: list[Loss] = field(default_factory=lambda: ["sigmoid"])
    weights: list[float] = field(default_factory=list)
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma: float = 0.5  # the margin that simpo wants; only for dpo
    desirable: float = 1.0
    undesirable: float = 1.0
    reference: Literal["start", "base"] = "start"
    pairs: Literal["all", "wrong"] = "all"

    @property
    def reference_free(self) -> bool:
        """Whether no loss looks at the reference."""
        return self.kind != "kto" and all(name in ("sft", "simpo", "orpo") for name in self.loss)

    @property
    def referred(self) -> bool:
        """Whether the reference scores all pairs before the first step: a loss looks at it, or it says which pairs train."""
        return self.kind != "sft" and (self.pairs == "wrong" or not self.reference_free)


@dataclass(frozen=True)
class AdapterSection:
    """LoRA (Hu et al. 2021, arXiv:2106.09685) or DoRA (Liu et al. 2024, arXiv:2402.09353) on ``targets`` of the last ``layers`` layers.

    ``targets`` may also name ``embed_tokens`` and ``lm_head``. ``lora_plus`` is how many times faster B learns than A (LoRA+,
    Hayou et al. 2024, arXiv:2402.12354). ``parent`` is an adapter to start from: its folder, or the run or recipe that made it;
    what it is decides kind, rank, alpha, layers and targets.
    """

    parent: str = ""
    rank: int = 16
    alpha: float = 32.0
    kind: Literal["lora", "dora"] = "lora"
    rslora: bool = False
    lora_plus: float = 1.0  # how many times faster B learns than A
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
    decay: float = 0.2  # share of the steps in which wsd falls
    optimizer: Literal["adamw", "adafactor", "muon", "lion"] = "adamw"
    weight_decay: float = 0.0  # how much of each weight is taken off at a step
    clip: float = 1.0  # longest gradient; 0 = any
    grad_checkpoint: bool | Literal["auto"] = "auto"
    cache_frozen: bool | Literal["auto"] = "auto"  # keep what enters the first adapted layer over epochs; auto: where it pays
    validate_every: int = 25
    save_every: int = 50
    early_stop: int = 0
    samples: int = 2
    keep: int = 3  # newest checkpoints that stay, beside the best
    seed: int = 7


Match = Literal["exact", "normalised", "regex", "fuzzy"]


@dataclass(frozen=True)
class Phrase:
    """One way to say a disclaimer. What is left empty is as the disclaimer has it."""

    text: str  # what is said
    match: Match | Literal[""] = ""  # how exactly; as the disclaimer has it when empty
    threshold: float = 0.0  # for fuzzy; as the disclaimer has it when 0


@dataclass(frozen=True)
class Disclaimer:
    """A sentence that must be there, and must not be there where it does not belong.

    ``any_of`` are other ways to say it. ``match``: to the letter, ``normalised`` (NFKC, case, spaces, quotes, dashes), a regular
    expression, or ``fuzzy``, with a similarity of at least ``threshold`` (rapidfuzz's partial ratio, 100 = equal).
    ``at``: anywhere, in the last paragraph, or in a field of a JSON answer, named by its pointer (``/reply``).
    ``when`` names fields of the reference answer and their values, e.g. ``{category = "safety"}``; empty means always.
    Where all of ``unless`` agree, it does not belong.
    """

    text: str = ""  # the sentence, by which reports call it
    when: dict[str, Any] = field(default_factory=dict)  # fields of the reference answer, and their values; always when empty
    unless: dict[str, Any] = field(default_factory=dict)  # fields and values with which it does not belong
    any_of: list[Phrase] = field(default_factory=list)  # other ways to say it
    match: Match = "normalised"  # how exactly it must be said
    threshold: float = 90.0  # similarity that fuzzy asks for; 100 = equal
    at: str = "anywhere"  # anywhere, "last paragraph", or the pointer of a field of a JSON answer

    @property
    def phrases(self) -> list[Phrase]:
        """Every way to say it, ``text`` first."""
        ways = [Phrase(self.text)] if self.text else []
        return [Phrase(way.text, way.match or self.match, way.threshold or self.threshold) for way in [*ways, *self.any_of]]

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.text or self.any_of[0].text


@dataclass(frozen=True)
class Length:
    """How short and how long an answer may be; 0 = no limit. ``at`` is the pointer of one field of a JSON answer."""

    min: int = 0  # 0 = no limit
    max: int = 0  # 0 = no limit
    unit: Literal["characters", "words"] = "characters"  # what is counted
    at: str = ""  # pointer of one field of a JSON answer; the whole answer when empty


ArmName = Literal["base", "base+prompt", "base+kshot", "base+grammar", "tuned"]


@dataclass(frozen=True)
class EvaluationSection:
    """The contract an output must satisfy, and who is measured against it.

    ``reference`` are comparisons with the data's own answers, reported and no part of the contract: ``exact`` equality, and
    the F1 of ``fields``: all of a JSON answer, or those that ``fields`` names by their pointers.
    ``prompt`` is what ``base+prompt`` has for its system turn: a text, or a .txt or .md file that holds it. ``shots`` examples from
    the training rows stand before each question of ``base+kshot``. ``rows`` bounds how many held-out rows are asked, 0 = all; which ones
    is drawn by their content. ``regression`` is a file of off-task prompts that an adapter must
    not unlearn: those that come with mlxtune, or none when it is empty.
    """

    schema: str = ""
    disclaimers: list[Disclaimer] = field(default_factory=list)  # sentences that must be there, and where
    forbid: list[str] = field(default_factory=list)
    length: Length = field(default_factory=Length)  # how short and how long an answer may be
    reference: list[Literal["exact", "fields"]] = field(default_factory=list)  # likeness to the data's own answers, reported only
    fields: list[str] = field(default_factory=list)  # pointers that reference = ["fields"] looks at; all when empty
    arms: list[ArmName] = field(default_factory=lambda: ["base", "tuned"])
    prompt: str = ""
    shots: int = 3
    rows: int = 0  # held-out rows that are asked; 0 = all
    regression: str = "shipped"
    max_tokens: int = 256
    batch_size: int = 96  # answers that are written side by side


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. ``folder`` is where its relative paths start; it is not part of the file."""

    name: str  # what runs, evaluations and children call it: letters, digits, dots, dashes, underscores
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
    def contract(self) -> bool:
        """Whether outputs must satisfy anything."""
        asked = self.evaluation
        return bool(asked.schema or asked.disclaimers or asked.forbid) or asked.length != Length()

    @property
    def schema(self) -> Path | None:
        """The JSON Schema file of the contract, if there is one."""
        return self.path(self.evaluation.schema) if self.evaluation.schema else None

    @property
    def prompt_file(self) -> Path | None:
        """The file that holds the user's best prompt, if it is one."""
        return self.path(self.evaluation.prompt) if self.evaluation.prompt.endswith((".txt", ".md")) else None
