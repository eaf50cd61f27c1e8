"""The sections and keys of a recipe. Field names are TOML keys; a key with a default may be omitted from the file.

A field's :class:`Key` describes its meaning and the :class:`Rule` of its values.
"""

import math
import re
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

from mlxtune.core.files import user_path

Stepping = Literal["", "ones", "tens", "doubles", "twentieths", "decade"]


class Rule(NamedTuple):
    """A condition on values of the right type, and how an error describes the valid values."""

    is_valid: Callable[[Any], object]
    expected: str


@dataclass(frozen=True)
class Key:
    """A key's meaning, the rules for its values, and how the app's form treats it."""

    description: str
    rules: tuple[Rule, ...] = ()
    by: Stepping = ""  # how a number is stepped
    in_form: bool = True
    overridden_by: str = ""  # a key in the same section that takes precedence
    methods: tuple[str, ...] = ()  # the training methods that use the key; all if empty
    inherited: bool = False  # from the parent adapter
    by_rule: bool = False  # if it is 0: from the base and the rows (planning.training_rule)


def described(description: str, *rules: Rule, **options: Any) -> dict[str, Key]:
    """Return the metadata of a key's field; ``options`` are further fields of :class:`Key`."""
    return {"about": Key(description, rules, **options)}


def key(default: Any, description: str, *rules: Rule, **options: Any) -> Any:
    """Return the field of a key that may be omitted from the file. Each recipe gets its own copy of a list or a table."""
    how: dict[str, Any] = {"default_factory": lambda: copy(default)} if isinstance(default, list | dict) else {"default": default}
    return field(metadata=described(description, *rules, **options), **how)


_BASE = Rule(bool, "an alias, a Hub ID, or a folder")
_POSITIVE = Rule(lambda number: 0 < number < math.inf, "above 0")
_AT_LEAST_0 = Rule(lambda number: number >= 0, "at least 0")
_AT_LEAST_1 = Rule(lambda number: number >= 1, "at least 1")
_SEED = Rule(lambda number: 0 <= number < 2**63, "from 0 to 2**63 - 1")
_STEPS = Rule(lambda number: 0 <= number <= 1_000_000, "from 0 to 1,000,000")  # planning reads the batches of every step
_EPOCHS = Rule(lambda number: 0 <= number <= 10_000, "from 0 to 10,000")
_AUTO_OR_AT_LEAST_1 = Rule(lambda number: number == "auto" or number >= 1, '"auto" or at least 1')
_FRACTION = Rule(lambda fraction: 0 <= fraction < 1, "a fraction from 0 to less than 1")
_FRACTION_OF_STEPS = Rule(lambda fraction: 0 <= fraction < 1, "a fraction of the steps, from 0 to less than 1")
_POINTER_OR_EMPTY = Rule(lambda at: not at or at.startswith("/"), 'empty or a JSON Pointer such as "/reply"')


_TEMPLATES = Path(__file__).parent / "templates"
SHIPPED_TEMPLATES = {name: _TEMPLATES / f"{name}.jinja" for name in ("chatml-tools", "phi-tools", "gemma-tools")}
Thinking = Literal["off", "on", "keep"]
Turns = Literal["auto", "all", "last", "each"]
_DATE = Rule(lambda day: not day or is_date(day), 'empty or a date such as "2026-11-26"')


def is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True)
class ModelSection:
    """The base model and its chat template. Its weights can be quantized to 4 or 8 bits on load.

    With ``thinking`` = "off", the model is trained and evaluated without reasoning; with "on", with it; "keep" also leaves the reasoning
    of earlier turns in the prompt. It matters only for templates that have a thinking mode. ``template`` can name
    a built-in template that adds tool calling: "chatml-tools" for models that use the ChatML tokens, "phi-tools" for Phi-3 to
    Phi-4-mini, or "gemma-tools" for Gemma 2 and 3. Training, evaluation, serving, and exports all use this template.
    """

    base: str = field(metadata=described("base model: an alias, a Hub ID, or a folder", _BASE))
    quantize: Literal[0, 4, 8] = key(0, "bits to quantize unquantized weights to when they are loaded; 0 = as saved")
    thinking: Thinking = key("off", "reasoning before the answer; keep = also in earlier turns")
    template: str = key("", "chat template: a Jinja file, chatml-tools, phi-tools, or gemma-tools; empty = the model's own")


RowFormatName = Literal[
    "auto", "chat", "completion", "text", "alpaca", "sharegpt", "preference", "openai-preference", "unpaired", "transcript", "export",
    "scored-pair",
]  # fmt: skip


_SFT, _DPO, _KTO, _PAIRS = ("sft",), ("dpo",), ("kto",), ("dpo", "kto")


@dataclass(frozen=True)
class DataSection:
    """The location of the rows and how they are split.

    ``map`` maps keys to the source's column names: ``{ prompt = "question", completion = "answer" }``. ``holdout`` and
    ``validation`` are fractions of all rows. In a folder, ``test.jsonl`` and ``valid.jsonl`` take their place. ``too_long`` applies
    to rows with no trained tokens within ``max_tokens``: they are rejected, or skipped and counted. ``date`` is the
    date that templates insert as today's; a run records it, so that it can be resumed and evaluated on another day. ``turns`` = "all"
    trains on all answers of a conversation in one example, "each" makes one training example per answer and evaluates every turn of
    held-out conversations, and "last" trains only on the last one. "auto" is "all", or "each" where the template renders earlier turns differently, as many reasoning models' do. ``replay`` mixes in
    general prompts with the base's own answers, so that the adapter forgets less. ``replay_system`` = false sends these
    prompts without the system prompt that all rows share.
    """

    source: str = field(
        metadata=described("file, folder, or hf:owner/name[@revision][:config][:split]", Rule(bool, "a file or a folder"))
    )
    format: RowFormatName = key("auto", "row format")
    map: dict[str, str] = key({}, "columns by key", in_form=False)
    holdout: float = key(0.15, "fraction held out", _FRACTION, by="twentieths")
    reserve: float = key(0.0, "share of held-out rows kept for one last evaluation: eval --last-look", _FRACTION, by="twentieths")
    validation: float = key(0.10, "fraction for validation", _FRACTION, by="twentieths")
    group_by: str = key("", "metadata key; rows with the same value stay in the same split")
    generated: bool = key(True, "train on generated rows that were accepted in the review", in_form=False)
    max_tokens: int = key(1024, "maximum tokens per row; longer texts are divided, other rows truncated", _AT_LEAST_1, by="doubles")
    too_long: Literal["refuse", "skip"] = key("refuse", "what to do with rows that truncation leaves without trained tokens")
    seed: int = key(7, "split seed", _SEED, in_form=False)
    turns: Turns = key("auto", "answers of a conversation to train on: all in one example, one each, or the last", in_form=False)
    date: str = key("", "date that templates insert as today's; empty = the day the run starts", _DATE, in_form=False)
    replay: float = key(0.0, "share of the base's own answers to general prompts", _FRACTION, by="twentieths", methods=_SFT)
    replay_system: bool = key(True, "whether the task's system prompt precedes replayed prompts", in_form=False, methods=_SFT)
    replay_prompts: str = key("shipped", "prompts for replay: shipped, or a file", in_form=False, methods=_SFT)


# To add a preference loss, write a function with its name in training/preference/losses.py and add the name here.
Loss = Literal["sigmoid", "ipo", "hinge", "robust", "sft", "simpo", "orpo"]
REFERENCE_FREE_LOSSES = {"sft", "simpo", "orpo"}  # losses that do not use the reference model

_LOSSES = Rule(lambda names: names and len(set(names)) == len(names), "at least one loss, with no duplicates")
_WEIGHTS = Rule(lambda weights: all(0 < weight < math.inf for weight in weights), "above 0 (to disable a loss, remove it)")
_SMOOTHING = Rule(lambda fraction: 0 <= fraction < 0.5, "a fraction of the pairs, from 0 to less than 0.5")
_GAMMA = Rule(lambda margin: 0 <= margin < math.inf, "at least 0")


@dataclass(frozen=True)
class MethodSection:
    """``sft`` trains on answers, ``dpo`` on pairs of a chosen and a rejected answer, ``kto`` on answers labeled good or bad.

    The other keys are for ``dpo`` and ``kto``. The reference is the starting model, including its parent adapter, or the base model; a
    larger ``beta`` keeps the policy closer to it. ``pairs = "wrong"`` trains only on pairs whose rejected answer
    is likelier under the reference, by mean log-probability per token.
    """

    kind: Literal["sft", "dpo", "kto"] = key("sft", "answers (sft), preference pairs (dpo), or good and bad answers (kto)")
    loss: list[Loss] = key(["sigmoid"], "preference losses, summed", _LOSSES, methods=_DPO)
    weights: list[float] = key([], "loss weights; empty = all 1", _WEIGHTS, methods=_DPO)
    beta: float = key(0.1, "how close the policy stays to the reference", _POSITIVE, by="decade", methods=_PAIRS)
    label_smoothing: float = key(0.0, "assumed fraction of pairs with flipped labels", _SMOOTHING, by="twentieths", methods=_DPO)
    gamma: float = key(0.5, "simpo's target margin", _GAMMA, in_form=False, methods=_DPO)
    reference: Literal["start", "base"] = key("start", "the starting model with its parent adapter, or the base", methods=_PAIRS)
    pairs: Literal["all", "wrong"] = key("all", "all pairs, or only those that the reference ranks incorrectly", methods=_DPO)
    desirable: float = key(1.0, "good answers' weight", _POSITIVE, by="decade", methods=_KTO)
    undesirable: float = key(1.0, "bad answers' weight", _POSITIVE, by="decade", methods=_KTO)

    @property
    def reference_free(self) -> bool:
        """Whether no loss uses the reference model."""
        return self.kind != "kto" and set(self.loss) <= REFERENCE_FREE_LOSSES

    @property
    def needs_reference(self) -> bool:
        """Whether the reference must score all pairs before the first step, for a loss or to select the pairs."""
        return self.kind != "sft" and (self.pairs == "wrong" or not self.reference_free)


Layers = int | Literal["all"]


def layer_count(layers: Layers, depth: int) -> int:
    """Return the number of adapted layers of a base with ``depth`` layers."""
    return depth if isinstance(layers, str) else min(layers, depth)


_LAYERS = Rule(lambda layers: layers == "all" or layers >= 1, '"all" or at least 1')
_RATIO = Rule(lambda ratio: 0 < ratio <= 1000, "above 0 and at most 1000")


@dataclass(frozen=True)
class AdapterSection:
    """LoRA (Hu et al. 2021, arXiv:2106.09685) or DoRA (Liu et al. 2024, arXiv:2402.09353) on ``targets`` of the last ``layers`` layers.

    ``targets`` may include ``embed_tokens`` and ``lm_head``. ``lora_plus`` is the learning rate ratio of LoRA+ (Hayou et al. 2024,
    arXiv:2402.12354). A new adapter inherits the kind, rank, alpha, layers, and targets of its parent.
    """

    parent: str = key("", "adapter to start from: a run, a recipe, or a folder")
    kind: Literal["lora", "dora"] = key("lora", "LoRA or DoRA", inherited=True)
    rank: int = key(16, "rank of updates", _AT_LEAST_1, by="doubles", inherited=True)
    alpha: float = key(32.0, "scale = alpha / rank", _POSITIVE, by="doubles", inherited=True)
    layers: Layers = key("all", "number of adapted layers, counted from the last", _LAYERS, by="doubles", inherited=True)
    targets: list[str] | Literal["all-linear", "attention"] = key("all-linear", "adapted matrices", inherited=True)
    dropout: float = key(0.0, "adapter input dropout", _FRACTION, by="twentieths")
    rslora: bool = key(False, "scale = alpha / sqrt(rank)", inherited=True)
    lora_plus: float = key(1.0, "ratio of B's learning rate to A's", _RATIO, in_form=False)

    @property
    def scale(self) -> float:
        """mlx-lm's ``scale``: alpha / rank, or alpha / sqrt(rank) for rsLoRA (Kalajdzievski 2023, arXiv:2312.03732)."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


Schedule = Literal["constant", "linear", "cosine", "wsd"]
Optimizer = Literal["adamw", "adafactor", "muon", "lion"]
WaitFor = Literal["", "power", "cool", "both"]
_RATE = Rule(lambda rate: 0 <= rate < 1, "from 0 to less than 1")
_DECAY = Rule(lambda fraction: 0 < fraction <= 1, "a fraction of the steps, above 0 and at most 1")


@dataclass(frozen=True)
class TrainingSection:
    """Training length and hyperparameters. Schedules, ``validate_every``, and ``save_every`` count optimizer steps.

    The number of epochs, the batch, and the learning rate follow from the method, the base, and the rows if they are 0. With 58 rows of
    RESTAURANTS-8K, SmolLM2 135M was right on 67% of 100 held-out rows after the rule's 120 updates, and on 56% after 30; see
    benchmarks/tasks.

    The adapter has the weights of the last step, unless an earlier one has a lower validation loss beyond noise, the run stopped early,
    or the last step lost the format, and the earlier step's answers to the validation rows are at least as good.
    """

    epochs: int = key(0, "passes over rows", _EPOCHS, by="ones", overridden_by="steps", by_rule=True)
    steps: int = key(0, "optimizer steps; 0 uses epochs", _STEPS, by="tens")
    batch_size: int = key(0, "rows per batch; 0 = batch_tokens", _AT_LEAST_0, by="doubles")
    batch_tokens: int = key(0, "tokens per batch", _AT_LEAST_0, by="doubles", overridden_by="batch_size", by_rule=True)
    accumulate: int = key(1, "batches per step", _AT_LEAST_1, by="doubles")
    learning_rate: float = key(0.0, "peak learning rate", _RATE, by="decade", by_rule=True)
    schedule: Schedule = key("cosine", "schedule after warmup")
    warmup: float = key(0.05, "fraction for warmup", _FRACTION_OF_STEPS, by="twentieths")
    decay: float = key(0.2, "wsd's decay fraction", _DECAY, in_form=False)
    optimizer: Optimizer = key("adamw", "optimizer")
    weight_decay: float = key(0.0, "decoupled weight decay", _AT_LEAST_0, in_form=False)
    clip: float = key(1.0, "maximum gradient norm; 0 = no clipping", _AT_LEAST_0, in_form=False)
    grad_checkpoint: bool | Literal["auto"] = key("auto", "recompute activations to save memory; auto = if needed")
    cache_frozen: bool | Literal["auto"] = key("auto", "cache frozen layers' output across epochs; auto = if faster", in_form=False)
    validate_every: int = key(25, "steps between validations", _AT_LEAST_1, by="doubles")
    save_every: int = key(50, "steps between checkpoints", _AT_LEAST_1, by="doubles")
    early_stop: int = key(0, "validations without improvement before stopping; 0 = off", _AT_LEAST_0, by="ones")
    samples: int = key(2, "answers per validation", _AT_LEAST_0, by="ones")
    keep: int = key(3, "number of newest checkpoints to keep, besides the best", _AT_LEAST_1, in_form=False)
    seed: int = key(7, "random seed for the row order and the initial adapter", _SEED, by="ones")
    wait_for: WaitFor = key("", "pauses the run on battery (power), under heavy thermal pressure (cool), or both", in_form=False)


Match = Literal["exact", "normalized", "regex", "fuzzy"]

_THRESHOLD = Rule(lambda threshold: 0 < threshold <= 100, "above 0 and at most 100")
_THRESHOLD_OR_0 = Rule(lambda threshold: 0 <= threshold <= 100, "from 0 to 100")
_LOCATION = Rule(
    lambda at: at in ("anywhere", "last paragraph") or at.startswith("/"),
    '"anywhere", "last paragraph", or a JSON Pointer such as "/reply"',
)


@dataclass(frozen=True)
class Phrase:
    """An alternative wording of a disclaimer. Empty fields are inherited from the disclaimer."""

    text: str = field(metadata=described("the wording"))
    match: Match | Literal[""] = key("", "how to match; inherited from the disclaimer if empty")
    threshold: float = key(0.0, "minimum similarity for fuzzy; inherited from the disclaimer if 0", _THRESHOLD_OR_0)


@dataclass(frozen=True)
class Disclaimer:
    """A sentence that answers must contain in some cases, and must not contain in others.

    ``match`` is ``exact``, ``normalized`` (NFKC, case, spaces, quotes, dashes), ``regex``, or ``fuzzy`` with a similarity of at
    least ``threshold`` (rapidfuzz's partial ratio). ``when`` maps fields of the reference answer, or JSON Pointers, to values, such as
    ``{category = "safety"}`` or ``{"/order/kind" = "gift"}``. The sentence is forbidden if all fields in ``unless`` match.
    """

    text: str = key("", "the sentence, also used as its name in reports")
    when: dict[str, Any] = key({}, "reference answer fields and values that require the sentence; empty = always")
    unless: dict[str, Any] = key({}, "fields and values for which the sentence is forbidden")
    any_of: list[Phrase] = key([], "alternative wordings")
    match: Match = key("normalized", "how it matches")
    threshold: float = key(90.0, "minimum similarity for fuzzy; 100 = identical", _THRESHOLD)
    at: str = key("anywhere", '"anywhere", "last paragraph", or a JSON Pointer to a field of the answer', _LOCATION)

    @property
    def phrases(self) -> list[Phrase]:
        """All wordings, ``text`` first."""
        wordings = [*([Phrase(self.text)] if self.text else []), *self.any_of]
        return [Phrase(item.text, item.match or self.match, item.threshold or self.threshold) for item in wordings]

    @property
    def name(self) -> str:
        return self.text or self.any_of[0].text


@dataclass(frozen=True)
class Length:
    """Minimum and maximum length of an answer."""

    min: int = key(0, "minimum length; 0 = no limit")
    max: int = key(0, "maximum length; 0 = no limit")
    unit: Literal["characters", "words"] = key("characters", "unit of length")
    at: str = key("", "JSON Pointer to a field of the answer; empty = the whole answer", _POINTER_OR_EMPTY)


@dataclass(frozen=True)
class Endpoint:
    """A model at an OpenAI-compatible endpoint, evaluated as the arm ``endpoint:NAME``: a hosted model, Ollama, or ``mlxtune serve``.

    It gets the same prompts as the base. Prices and a cap are required unless it runs on this machine. The key is never stored: it
    is read from the environment variable ``key_env``, by default OPENAI_API_KEY for OpenAI and MLXTUNE_ENDPOINT_KEY for all others.
    """

    model: str = field(metadata=described("the endpoint's model", Rule(bool, "a model name")))
    url: str = key("https://api.openai.com/v1", "base URL of the endpoint, up to and including /v1")
    key_env: str = key("", "key's environment variable")
    price_in: float = key(0.0, "$ per 1M prompt tokens", _AT_LEAST_0)
    price_out: float = key(0.0, "$ per 1M answer tokens", _AT_LEAST_0)
    cap: float = key(0.0, "spending cap in dollars, over all evaluations that send the same requests", _AT_LEAST_0)


AUTO: Literal["auto"] = "auto"

ArmName = Literal[
    "base", "base+prompt", "base+kshot", "base+grammar", "base+grammar+kshot", "base+grammar+prompt", "base+optimized", "strongest",
    "tuned", "tuned+prompt", "tuned+grammar",
]  # fmt: skip
EndpointArmName = Annotated[str, Rule(re.compile(r"endpoint:[A-Za-z0-9_-]+").fullmatch, "endpoint:NAME")]

_DISCLAIMERS = Rule(
    lambda items: all(item.phrases and all(phrase.text.strip() for phrase in item.phrases) for item in items), "non-empty sentences"
)
_PHRASES = Rule(lambda phrases: all(phrase.strip() for phrase in phrases), "non-empty phrases")
_LENGTH = Rule(lambda limit: limit.min >= 0 and (limit.max == 0 or limit.max >= limit.min), "a range with 0 <= min <= max")
CORRECT_PARTS = Rule(
    lambda parts: all(part.startswith("/") or part in ("answer", "fields", "number", "calls") for part in parts),
    'a list of JSON Pointers such as "/category", or "answer", "fields", "number", "calls"',
)
_MARGIN = Rule(lambda margin: 0 < margin < 1, "a fraction of the answers, above 0 and below 1")
_WITH_BASE = Rule(lambda arms: not arms or "base" in arms, 'empty, or a list that includes "base"')
_DISTINCT = Rule(lambda arms: len(set(arms)) == len(arms), "a list without duplicates")


@dataclass(frozen=True)
class EvaluationSection:
    """The contract that answers must satisfy, and the arms that are evaluated.

    ``correct`` lists what must equal the reference: JSON Pointers into a JSON answer, all of its ``fields``, the whole ``answer``,
    its final ``number``, or the ``calls`` of functions. ``prompt`` may be a .txt or .md file. ``shots`` training rows precede each prompt in the
    arms with ``kshot``, and cover the values of ``correct``. The arm ``strongest`` is the untrained one that passes most validation rows. ``regression`` is a
    file with off-task prompts used to detect forgetting (see docs/evaluation.md). ``max_tokens`` = "auto" is twice the length of the longest reference answer
    in the training and validation rows, or that length plus 64 tokens, whichever is greater; reasoning is not counted.
    """

    schema: str = key("", "answers' JSON Schema")
    disclaimers: list[Disclaimer] = key([], "required sentences", _DISCLAIMERS, in_form=False)
    forbid: list[str] = key([], "forbidden phrases", _PHRASES)
    length: Length = key(Length(), 'length limits, such as max = 40, unit = "words"', _LENGTH)
    pattern: str = key("", "regular expression that answers must match somewhere; ^ and $ are their start and end")
    labels: list[str] = key([], "labels, one of which must be the whole answer; replaces pattern", _PHRASES, in_form=False)
    correct: list[str] = key([], 'parts of an answer that must equal the reference, such as "/category" or "answer"', CORRECT_PARTS)
    arms: list[ArmName | EndpointArmName] = key(
        [], "arms to evaluate on the held-out rows; empty = base, base+kshot, tuned; with a schema, also those with a grammar",
        _WITH_BASE, _DISTINCT,
    )  # fmt: skip
    endpoints: dict[str, Endpoint] = key({}, "models at endpoints, by name, for arms named endpoint:NAME", in_form=False)
    optimizer: str = key("", "endpoint, by name, whose model proposes prompts for base+optimized; empty = the base", in_form=False)
    optimizer_calls: int = key(0, "answers for base+optimized; 0 = as long as the training", _AT_LEAST_0, in_form=False)
    prompt: str = key("", "system prompt for base+prompt and tuned+prompt, or a file that contains it")
    shots: int = key(3, "examples per prompt", _AT_LEAST_1, by="ones")
    rows: int = key(0, "most held-out rows; 0 = all", _AT_LEAST_0, by="tens")
    regression: str = key("shipped", "off-task prompts: shipped, a file, or empty for none")
    regression_rows: int = key(0, "most off-task prompts, of each category in proportion; 0 = all", _AT_LEAST_0, in_form=False)
    regression_system: bool = key(True, "also send off-task prompts with the task's system prompt", in_form=False)
    regression_margin: float = key(0.05, "drop to rule out, off-task and in exports with --smallest", _MARGIN, in_form=False)
    max_tokens: int | Literal["auto"] = key(AUTO, "most answer tokens", _AUTO_OR_AT_LEAST_1, by="doubles")
    thinking_tokens: int = key(1024, "most reasoning tokens", _AT_LEAST_1, by="doubles")
    stop_loops: bool = key(True, "end answers that repeat themselves more than a reference or the schema allows", in_form=False)
    batch_size: int = key(96, "answers per batch", _AT_LEAST_1, in_form=False)
    extras: bool = key(True, "also measure what no verdict needs: perplexity, and the time of an answer alone", in_form=False)

    @property
    def answer_pattern(self) -> str:
        """The regular expression that answers must match: one of the labels, if there are any."""
        return f"^(?:{'|'.join(map(re.escape, self.labels))})$" if self.labels else self.pattern


_RANGE = Rule(lambda ends: not ends or (len(ends) == 2 and 0 < ends[0] <= ends[1]), "two numbers above 0, the smaller one first")
_RATES = Rule(lambda ends: _RANGE.is_valid(ends) and max(ends, default=0) < 1, "two numbers between 0 and 1, the smaller one first")
_COUNTS = Rule(lambda values: all(value >= 1 for value in values), "at least 1")
_FRACTIONS = Rule(lambda values: all(0 <= value < 1 for value in values), "fractions from 0 to less than 1")
_LAYER_COUNTS = Rule(lambda values: all(value == "all" or value >= 1 for value in values), '"all" or at least 1')
BUDGET_PATTERN = re.compile(r"(\d+(?:\.\d+)?) ?(s|m|h|Wh|steps)")
_BUDGET = Rule(lambda own: not own or BUDGET_PATTERN.fullmatch(own), 'empty, a time ("30m", "2h"), energy ("50Wh"), or "500 steps"')


@dataclass(frozen=True)
class SearchSection:
    """The hyperparameters that ``mlxtune search`` varies. Trial 1 is always the recipe itself. The next ones bracket the training rule's rate
    and epochs, unless these have ranges. An empty range uses a default for the training method.

    A trial trains for a sixth, a third, and all of its steps; after each, the best third continues. Trials are compared on
    a fraction ``validation`` of all rows, or on ``data.validation`` if that is larger. A range whose ends are equal is not searched.
    """

    trials: int = key(8, "number of trials, including the recipe itself", _AT_LEAST_1, in_form=False)
    budget: str = key("", 'limit for all trials: "30m", "2h", "50Wh", or "500 steps"; empty = none', _BUDGET, in_form=False)
    validation: float = key(0.15, "fraction for comparisons", _FRACTION, in_form=False)
    learning_rate: list[float] = key([], "lowest and highest rate; empty = a fifth to five times the rule's", _RATES, in_form=False)
    rank: list[int] = key([], "ranks; alpha / rank stays the same; empty = half to twice", _COUNTS, in_form=False)
    layers: list[Layers] = key([], "numbers of adapted layers; empty = half to twice", _LAYER_COUNTS, in_form=False)
    epochs: list[int] = key([], "epochs; empty = half to twice the rule's, or none with training.steps", _COUNTS, in_form=False)
    batch_size: list[int] = key([], "rows per batch; empty = half to twice the rule's", _COUNTS, in_form=False)
    replay: list[float] = key([], "shares of replay; empty = the recipe's", _FRACTIONS, in_form=False, methods=_SFT)
    seed: list[int] = key([], "seeds of the row order and the initial adapter; empty = the recipe's", in_form=False)
    beta: list[float] = key([], "lowest and highest beta; empty = a third to three times", _RANGE, in_form=False, methods=_PAIRS)
    sft_weight: list[float] = key([], "lowest and highest weight of the sft loss, if any", _RANGE, in_form=False, methods=_DPO)


RECIPE_NAME = Rule(re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}").fullmatch, "1 to 64 letters, digits, dots, dashes, underscores")


HUB_FOLDER = "hf"  # of the copies of datasets, next to a recipe
_HUB_SOURCE = re.compile(r"hf:([\w.-]+/[\w.-]+(?:@[\w.-]+)?)((?::[\w.-]+){0,2})")


def hub_copy(folder: Path, source: str) -> Path | None:
    """Return the path of the copy of a dataset, ``hf:owner/name[@revision][:config][:split]``, or ``None`` for any other source."""
    match = _HUB_SOURCE.fullmatch(source)
    name = "--".join([*match[1].split("/"), *match[2].split(":")[1:]]) if match else ""
    return (folder / HUB_FOLDER / f"{name}.jsonl").resolve() if name else None


@dataclass(frozen=True)
class Recipe:
    """A recipe. Its paths are relative to ``folder``, which is not part of the file."""

    name: str = field(metadata=described("name of runs and evaluations: letters, digits, dots, dashes, underscores", RECIPE_NAME))
    model: ModelSection
    data: DataSection
    method: MethodSection = field(default_factory=MethodSection)
    adapter: AdapterSection = field(default_factory=AdapterSection)
    training: TrainingSection = field(default_factory=TrainingSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    search: SearchSection = field(default_factory=SearchSection)
    folder: Path = field(default=Path(), compare=False)

    def path(self, relative: str) -> Path:
        return (self.folder / user_path(relative)).resolve()

    @property
    def source(self) -> Path:
        """The file or folder with the rows, or the file that a dataset on the Hub is copied to."""
        return hub_copy(self.folder, self.data.source) or self.path(self.data.source)

    @property
    def has_contract(self) -> bool:
        own = self.evaluation
        return any((own.schema, own.disclaimers, own.forbid, own.answer_pattern, own.correct, own.length != Length()))

    @property
    def template_file(self) -> Path | None:
        """The chat template that replaces the model's own, if there is one: a shipped one or a file."""
        if self.model.template in SHIPPED_TEMPLATES:
            return SHIPPED_TEMPLATES[self.model.template]
        return self.path(self.model.template) if self.model.template else None

    @property
    def schema_file(self) -> Path | None:
        return self.path(self.evaluation.schema) if self.evaluation.schema else None

    @property
    def prompt_file(self) -> Path | None:
        """The file with the system prompt of the arms that end with ``+prompt``, if it is a file."""
        return self.path(self.evaluation.prompt) if self.evaluation.prompt.endswith((".txt", ".md")) else None


@cache
def key_types(section: type) -> dict[str, Any]:
    return get_type_hints(section, include_extras=True)
