"""The keys of a recipe that a person sets, in the order of a form: what each means, and which values come next."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlxtune.core.text import one_line, safe_text
from mlxtune.recipe.edit import literal
from mlxtune.recipe.schema import Recipe

Ladder = Literal["", "ones", "tens", "doubles", "twentieths", "decade"]

_DECADE = (1, 2, 5)  # the rungs of each power of ten
_MANY = 32  # layers; more than that are "all"


@dataclass(frozen=True)
class Key:
    """``path`` is what ``--set`` calls it. ``ladder`` says how its number steps; ``yields`` names the key that decides in its place.

    ``kinds`` are the methods that look at it, all when empty; with ``inherited``, a parent adapter decides.
    """

    path: str
    about: str
    ladder: Ladder = ""
    yields: str = ""
    kinds: tuple[str, ...] = ()
    inherited: bool = False

    @property
    def section(self) -> str:
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        return self.path.partition(".")[2]

    @cached_property
    def kind(self) -> Any:
        """The type of its value."""
        return get_type_hints(get_type_hints(Recipe)[self.section])[self.name]

    @cached_property
    def default(self) -> Any:
        """What holds where a recipe leaves it out; ``dataclasses.MISSING`` where none may."""
        field = next(item for item in dataclasses.fields(get_type_hints(Recipe)[self.section]) if item.name == self.name)
        return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """Every value it can have, where those are few and known; empty where it takes a number or words as well."""
        found = list(_choices(self.kind))
        return () if None in found else tuple(found)

    def of(self, recipe: Recipe) -> Any:
        """Its value in ``recipe``."""
        return getattr(getattr(recipe, self.section), self.name)

    def idle(self, recipe: Recipe) -> str:
        """Why ``recipe`` does not look at it, in a few words; empty when it does."""
        if self.inherited and recipe.adapter.parent:
            return "the parent decides"
        if self.yields and (other := Key(self.yields, "").of(recipe)):
            return f"{self.yields.partition('.')[2]} = {shown(other)} decides"
        return ""

    def typed(self, text: str) -> Any:
        """What ``text``, as somebody typed it, stands for: TOML, else words; words with commas between them where a list may stand."""
        text = text.strip()
        if self.kind is str:
            return _value(text) if text.startswith('"') else text
        element = _element(self.kind)
        if element is None or text.startswith("["):
            return _value(text)
        if text in _choices(self.kind):
            return text
        return [_value(word) if element is float else word.strip() for word in text.split(",") if word.strip()]

    def next(self, value: Any, by: int) -> Any:
        """The choice after ``value``, or the one before it for a ``by`` of -1; a number's next rung. ``value`` where there is none."""
        if self.choices:
            at = self.choices.index(value) if value in self.choices else 0
            return self.choices[(at + by) % len(self.choices)]
        words = [word for word in _choices(self.kind) if isinstance(word, str)]
        if value in words:  # "all", which is more than any number
            return value if by > 0 else _MANY // 2
        if not isinstance(value, int | float):
            return value
        found = _step(value, self.ladder, by)
        return words[0] if words and found > _MANY else int(found) if isinstance(value, int) else found


KEYS = (
    Key("model.base", "the model to start from: an alias, a hub id or a folder"),
    Key("model.quantize", "bits for weights that are not quantised yet; 0 leaves them"),
    Key("data.source", "the rows: a file or a folder, seen from the recipe"),
    Key("data.format", "how the rows are written"),
    Key("data.holdout", "share that never trains, for the evaluation", "twentieths"),
    Key("data.validation", "share that is watched while it trains", "twentieths"),
    Key("data.group_by", "a metadata key whose rows stay together"),
    Key("data.max_tokens", "longer rows are cut at their end", "doubles"),
    Key("data.too_long", "rows of which the cut leaves nothing to train"),
    Key("method.kind", "learn answers (sft), to prefer (dpo), or good from bad (kto)"),
    Key("method.loss", "preference losses, added up", kinds=("dpo",)),
    Key("method.weights", "weight of each loss; all 1 when empty", kinds=("dpo",)),
    Key("method.beta", "how firmly it is held to the reference", "decade", kinds=("dpo", "kto")),
    Key("method.label_smoothing", "share of pairs that are the wrong way round", "twentieths", kinds=("dpo",)),
    Key("method.reference", "the start, its parent included, or the bare base", kinds=("dpo", "kto")),
    Key("method.pairs", "all, or those that the reference ranks wrongly", kinds=("dpo",)),
    Key("method.desirable", "weight of wanted answers", "decade", kinds=("kto",)),
    Key("method.undesirable", "weight of the others", "decade", kinds=("kto",)),
    Key("adapter.parent", "an adapter to start from: a run, a recipe or a folder"),
    Key("adapter.kind", "LoRA, or DoRA with a magnitude of its own", inherited=True),
    Key("adapter.rank", "how much it can learn", "doubles", inherited=True),
    Key("adapter.alpha", "how loud it is: scale = alpha / rank", "doubles", inherited=True),
    Key("adapter.layers", "layers that learn, counted from the last", "doubles", inherited=True),
    Key("adapter.targets", "matrices that learn", inherited=True),
    Key("adapter.dropout", "share of its input that is dropped", "twentieths"),
    Key("adapter.rslora", "scale by the root of the rank", inherited=True),
    Key("training.epochs", "times over the rows", "ones", yields="training.steps"),
    Key("training.steps", "optimizer steps; 0 leaves it to epochs", "tens"),
    Key("training.batch_size", "rows of a batch; 0 leaves it to batch_tokens", "doubles"),
    Key("training.batch_tokens", "tokens of a batch", "doubles", yields="training.batch_size"),
    Key("training.accumulate", "batches of one step", "doubles"),
    Key("training.learning_rate", "how fast it learns", "decade"),
    Key("training.schedule", "how the rate falls"),
    Key("training.warmup", "share of the steps in which the rate rises", "twentieths"),
    Key("training.optimizer", "what makes a step of a gradient"),
    Key("training.grad_checkpoint", "compute layers twice to keep less; auto: where it must"),
    Key("training.validate_every", "steps between validations", "doubles"),
    Key("training.save_every", "steps between checkpoints", "doubles"),
    Key("training.early_stop", "validations without a better one that end it; 0 = off", "ones"),
    Key("training.samples", "rows answered at each validation, to be read", "ones"),
    Key("training.seed", "of the order and the adapter's first values", "ones"),
    Key("evaluation.schema", "JSON Schema that answers must fit"),
    Key("evaluation.forbid", "phrases that no answer may have"),
    Key("evaluation.arms", "who answers the held-out rows"),
    Key("evaluation.prompt", "your best prompt, or its file, for base+prompt"),
    Key("evaluation.shots", "examples for base+kshot", "ones"),
    Key("evaluation.regression", "off-task prompts: shipped, a file, or none"),
    Key("evaluation.max_tokens", "longest answer", "doubles"),
)  # fmt: skip


def keys(recipe: Recipe) -> tuple[Key, ...]:
    """Those of :data:`KEYS` that the method of ``recipe`` looks at."""
    return tuple(key for key in KEYS if not key.kinds or recipe.method.kind in key.kinds)


def shown(value: Any) -> str:
    """A value as :meth:`Key.typed` takes it, as bare as can be; what a terminal would obey is escaped."""
    if isinstance(value, str):
        return value if _bare(value, '"') or not value else _quoted(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        bare = all(_bare(item, '",[') for item in value)
        return ", ".join(value) if bare else f"[{', '.join(map(_quoted, value))}]"
    return literal(value)


def _bare(text: str, signs: str) -> bool:
    """Whether ``text`` can stand without quotes: it is one safe line that has none of ``signs``."""
    return bool(text) and text == text.strip() == one_line(text) and not set(text) & set(signs)


def _quoted(text: str) -> str:
    """``text`` as a TOML string in which every sign that is not safe to show is an escape."""
    signs = (sign if sign not in '"\\\n\t' and safe_text(sign) == sign else f"\\U{ord(sign):08x}" for sign in text)
    return '"' + "".join(signs).replace("\\U0000", "\\u") + '"'


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _choices(kind: Any) -> Iterator[Any]:
    """The known values of a type; ``None`` stands for others."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif kind is bool:
        yield from (True, False)
    elif get_origin(kind) in (Union, types.UnionType):
        for option in get_args(kind):
            yield from _choices(option)
    else:
        yield None


def _element(kind: Any) -> Any:
    """What a list of the type holds; ``None`` where no list may stand."""
    if get_origin(kind) is list:
        return get_args(kind)[0]
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()
    return next((found for option in options if (found := _element(option)) is not None), None)


def _step(value: float, ladder: Ladder, by: int) -> float:
    """The next rung from ``value``, up or down; never below zero."""
    match ladder:
        case "ones":
            return max(0, value + by)
        case "tens":
            return max(0, (math.floor(value / 10) + 1 if by > 0 else math.ceil(value / 10) - 1) * 10)
        case "twentieths":
            rung = math.floor(value * 20 + 1e-9) + 1 if by > 0 else math.ceil(value * 20 - 1e-9) - 1
            return max(0.0, rung / 20)
        case "doubles":
            if by > 0:
                return 2 ** (math.floor(math.log2(value)) + 1) if value >= 1 else 1
            return 2 ** (math.ceil(math.log2(value)) - 1) if value > 1 else 0
        case "decade" if value > 0:
            exponent = math.floor(math.log10(value))
            rungs = [float(f"{rung}e{power}") for power in (exponent - 1, exponent, exponent + 1) for rung in _DECADE]
            near = [rung for rung in rungs if (rung > value * (1 + 1e-9) if by > 0 else rung < value * (1 - 1e-9))]
            return min(near) if by > 0 else max(near)
    return value
