"""The recipe keys that the app's form shows, and how their values are incremented and decremented."""

import dataclasses
import math
import tomllib
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mlxtune.core.text import one_line, safe_text
from mlxtune.recipe.edit import toml_literal
from mlxtune.recipe.schema import AUTO, Key, Recipe, Stepping, key_types

_DECADE = (1, 2, 5)  # steps within each power of ten
_MAX_LAYERS = 32  # any higher number becomes "all"
_MIN_TOKENS = 32  # any lower number becomes "auto"


@dataclass(frozen=True)
class RecipeKey:
    """A key, such as ``training.epochs``. The default is ``dataclasses.MISSING`` if the key is required."""

    section: str
    name: str
    value_type: Any
    default: Any
    about: Key

    @property
    def path(self) -> str:
        return f"{self.section}.{self.name}"

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """All possible values. Empty if they cannot be listed."""
        return _listed(self.value_type)

    @cached_property
    def item_choices(self) -> tuple[Any, ...]:
        """All possible items of a list. Empty if they cannot be listed."""
        return _listed(_element(self.value_type))

    def value_in(self, recipe: Recipe) -> Any:
        """Return the key's value in ``recipe``; of a table, a mapping with the fields that are set."""
        return value_at(recipe, self.path)

    def unused_reason(self, recipe: Recipe) -> str:
        """Return why ``recipe`` ignores the key. Empty if it uses the key."""
        if self.about.inherited and recipe.adapter.parent:
            return "set by the parent"
        other = self.about.overridden_by
        value = getattr(getattr(recipe, self.section), other) if other else None
        return f"{other} = {format_value(value)} takes precedence" if value else ""

    def parse(self, text: str) -> Any:
        """Parse the user's input: TOML, plain text, comma-separated items for a list, or fields such as ``max = 40`` for a table."""
        text = text.strip()
        if dataclasses.is_dataclass(self.value_type):
            table = _value(text if text.startswith("{") else f"{{{text}}}")
            return table if isinstance(table, dict) else text
        if self.value_type is str:
            return _value(text) if text.startswith('"') else text
        element = _element(self.value_type)
        if element is None or text.startswith("["):
            return _value(text)
        if text in _choices(self.value_type):
            return text
        if text.startswith('"'):
            return _value(f"[{text}]")
        return [_value(word) if element is float else word.strip() for word in text.split(",") if word.strip()]

    def next_value(self, value: Any, by: int) -> Any:
        """Return the choice or number after ``value``, or before it if ``by`` is -1. If there is none, return ``value``."""
        if self.choices:
            index = self.choices.index(value) if value in self.choices else 0
            return self.choices[(index + by) % len(self.choices)]
        words = [word for word in _choices(self.value_type) if isinstance(word, str)]
        if value == AUTO:  # below every number
            return _MIN_TOKENS if by > 0 else value
        if value in words and "all" not in words:
            return words[(words.index(value) + by) % len(words)]
        if value in words:  # "all" is above every number
            return value if by > 0 else _MAX_LAYERS // 2
        if not isinstance(value, int | float):
            return value
        number = _step(value, self.about.by, by)
        if AUTO in words and number < _MIN_TOKENS:
            return AUTO
        return words[0] if "all" in words and number > _MAX_LAYERS else int(number) if isinstance(value, int) else number


def _plain(value: Any) -> Any:
    """Return the fields of a table that are not at their defaults, or any other value itself."""
    if not dataclasses.is_dataclass(value):
        return value
    fields = ((field.name, getattr(value, field.name), field.default) for field in dataclasses.fields(value))
    return {name: own for name, own, default in fields if own != default}


def value_at(recipe: Recipe, path: str) -> Any:
    """Return the value of a key, such as ``training.epochs``; of a table, a mapping with the fields that are set."""
    section, _, name = path.partition(".")
    return _plain(getattr(getattr(recipe, section), name))


def _form_keys() -> Iterator[RecipeKey]:
    for section, kind in get_type_hints(Recipe).items():
        for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
            about = field.metadata["about"]
            if about.in_form:
                default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
                yield RecipeKey(section, field.name, key_types(kind)[field.name], _plain(default), about)


KEYS = tuple(_form_keys())


def keys(recipe: Recipe) -> tuple[RecipeKey, ...]:
    """Return the keys that the training method of ``recipe`` uses."""
    return tuple(key for key in KEYS if not key.about.methods or recipe.method.kind in key.about.methods)


def format_value(value: Any) -> str:
    """Format a value so that :meth:`RecipeKey.parse` can read it back, with few quotes and escaped control characters."""
    if isinstance(value, str):
        return value if _bare(value, '"') or not value else _quoted(value)
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        bare = all(_bare(item, '",[ ') for item in value)  # a phrase is quoted, so that the commas between two are seen
        return ", ".join(value) if bare else f"[{', '.join(map(_quoted, value))}]"
    if isinstance(value, dict):
        return toml_literal(value)[2:-2] if value else ""  # without braces
    return toml_literal(value)


def _bare(text: str, special: str) -> bool:
    """Return whether ``text`` needs no quotes because it is one safe line without any ``special`` characters."""
    return bool(text) and text == text.strip() == one_line(text) and not set(text) & set(special)


def _quoted(text: str) -> str:
    """Return a TOML string with every unsafe character escaped."""
    characters = (char if char not in '"\\\n\t' and safe_text(char) == char else f"\\U{ord(char):08x}" for char in text)
    return '"' + "".join(characters).replace("\\U0000", "\\u") + '"'


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _choices(kind: Any) -> Iterator[Any]:
    """Yield a type's values, or ``None`` for values that cannot be listed."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    elif kind is bool:
        yield from (True, False)
    elif get_origin(kind) in (Union, types.UnionType):
        for option in get_args(kind):
            yield from _choices(option)
    else:
        yield None


def _listed(kind: Any) -> tuple[Any, ...]:
    choices = tuple(_choices(kind))
    return () if None in choices else choices


def _element(kind: Any) -> Any:
    """Return the element type of a list type, or ``None`` for other types."""
    if get_origin(kind) is list:
        return get_args(kind)[0]
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else ()
    return next((element for option in options if (element := _element(option)) is not None), None)


def _step(value: float, stepping: Stepping, by: int) -> float:
    """Return the number after or before ``value``, but never less than zero."""

    def whole(number: float) -> int:
        return math.floor(number + 1e-9) + 1 if by > 0 else math.ceil(number - 1e-9) - 1

    match stepping:
        case "ones":
            return max(0, value + by)
        case "tens":
            return max(0, 10 * whole(value / 10))
        case "twentieths":
            return max(0.0, whole(20 * value) / 20)
        case "doubles" if value < 1 or (value == 1 and by < 0):
            return int(by > 0)
        case "doubles":
            return int(2 ** whole(math.log2(value)))
        case "decade" if value <= 0:
            return 1e-5 if by > 0 else 0.0
        case "decade":
            exponent = math.floor(math.log10(value))
            numbers = [float(f"{digit}e{power}") for power in (exponent - 1, exponent, exponent + 1) for digit in _DECADE]
            if by > 0:
                return min(number for number in numbers if number > value * (1 + 1e-9))
            return max(number for number in numbers if number < value * (1 - 1e-9))
    return value
