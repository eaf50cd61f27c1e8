"""TOML in, a typed :class:`Recipe` out, and back. Every refusal names the key, its line and the way out."""

from __future__ import annotations

import dataclasses
import math
import re
import tomllib
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomlkit

from mlxtune.core.errors import RecipeError
from mlxtune.core.text import nearest, one_line
from mlxtune.recipe.schema import Disclaimer, Phrase, Recipe

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SENTENCES = {Disclaimer: "a sentence or { text, when }", Phrase: "a sentence or { text, match }"}  # a bare string will do


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``key.path=value`` overrides (``training.epochs=3``).

    Raises ``RecipeError`` for a missing file, broken TOML, an unknown key, a wrong type or an impossible value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        mend = _meant(path) or "Check the path, or make a workspace with: mlxtune init DIR"
        raise RecipeError(f"There is no recipe at {path}.", mend=mend) from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder, not a recipe.", mend="Name the .toml file in it.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}.") from error
    return parse(text, folder=path.parent, overrides=overrides, where=str(path))


def _meant(path: Path) -> str:
    """Which recipe of the working folder ``path`` was most likely meant to be, as a question; empty when none is near."""
    stems = {found.stem: found for found in sorted(Path("recipes").glob("*.toml"))}
    hint = nearest(path.name.removesuffix(".toml"), stems)
    return f"Did you mean {stems[hint]}?" if hint else ""


def parse(text: str, *, folder: Path = Path(), overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """Like :func:`load`, for the text of a recipe."""
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{where} is not valid TOML: {error}.") from error
    for override in overrides:
        _override(document, override)
    place = _Places(text, where, overrides)
    recipe: Recipe = dataclasses.replace(_build(Recipe, document, (), place), folder=folder.resolve())
    _check_values(recipe, place)
    return recipe


def dump(recipe: Recipe) -> str:
    """The whole recipe as TOML, defaults and absolute paths included: what a run keeps of it."""
    document = dataclasses.asdict(recipe)
    del document["folder"]
    places = {("data", "source"): recipe.source, ("evaluation", "schema"): recipe.schema or ""}
    if recipe.prompt_file:
        places["evaluation", "prompt"] = recipe.prompt_file
    if recipe.evaluation.regression not in ("", "shipped"):
        places["evaluation", "regression"] = recipe.path(recipe.evaluation.regression)
    if recipe.path(recipe.model.base).is_dir():
        places["model", "base"] = recipe.path(recipe.model.base)
    for (section, key), place in places.items():
        document[section][key] = str(place)
    return tomlkit.dumps(document)


def setting(text: str) -> tuple[str, Any]:
    """The key and the value of ``key.path=value``; a bare word is a string: ``model.base=smollm2-135m``. Raises ``RecipeError``."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip().rpartition(".")[2]:
        raise RecipeError(f"--set {text} is not of the form key=value.", mend="For example: --set training.epochs=3")
    try:
        return key.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), raw


def _override(document: dict[str, Any], override: str) -> None:
    key, value = setting(override)
    *tables, last = key.split(".")
    for table in tables:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            raise RecipeError(f"--set {override}: {table} is a value, not a section.")
    document[last] = value


class _Places:
    """Says where a key stands in the text, or which override set it, so that messages can point at it."""

    _HEADER = re.compile(r"\s*\[+\s*([\w.-]+)\s*\]+")

    def __init__(self, text: str, where: str, overrides: Sequence[str]) -> None:
        self.where = where
        self.overrides = {tuple(setting(override)[0].split(".")): override for override in overrides}
        self.lines: dict[tuple[str, ...], int] = {}
        section: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := self._HEADER.match(line):
                section = tuple(header[1].split("."))
                self.lines.setdefault(section, number)
            elif key := re.match(r"\s*([\w-]+)\s*=", line):
                self.lines.setdefault((*section, key[1]), number)

    def __call__(self, path: tuple[str, ...], *others: tuple[str, ...]) -> str:
        """Where ``path`` was set; where one of ``others`` was, which matter as much, if only that one was overridden."""
        for one in (path, *others):
            for end in range(len(one), 0, -1):
                if one[:end] in self.overrides:
                    return f"--set {one_line(self.overrides[one[:end]], 80)}"
        line = self.lines.get(path)
        return f"{self.where}, line {line}" if line else self.where


def _build(kind: type, values: Any, path: tuple[str, ...], place: _Places) -> Any:
    """``values`` as an instance of the dataclass ``kind``."""
    name = ".".join(path)
    if not isinstance(values, Mapping):
        raise RecipeError(f"{place(path)}: {name} must be a section with keys, not {_shown(values)}.")
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind) if item.name != "folder"}
    for key in values:
        if key not in fields:
            hint = nearest(key, fields)
            mend = f"Did you mean {hint}?" if hint else f"It takes: {', '.join(fields)}."
            raise RecipeError(
                f"{place((*path, key))}: unknown key {one_line(key, 60)}{f' in [{name}]' if name else ''}.", mend=mend
            )
    for key, item in fields.items():
        if key not in values and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            what = f"the section [{key}]" if dataclasses.is_dataclass(hints[key]) else f"the key {'.'.join((*path, key))}"
            raise RecipeError(f"{place(path)}: {what} is missing.")
    return kind(**{key: _value(hints[key], value, (*path, key), place) for key, value in values.items()})


def _value(kind: Any, value: Any, path: tuple[str, ...], place: _Places) -> Any:
    """``value`` as ``kind``, or a ``RecipeError`` that says what was expected."""
    if kind in _SENTENCES and isinstance(value, str):
        return kind(value)
    if dataclasses.is_dataclass(kind) and (kind not in _SENTENCES or isinstance(value, Mapping)):
        return _build(kind, value, path, place)  # type: ignore[arg-type]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, path, place) for item in value]
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if origin is Literal and not isinstance(value, bool | list | dict) and value in arguments:
        return value
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _value(option, value, path, place)
            except RecipeError:
                continue
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    hint = nearest(value, list(_literals(kind))) if isinstance(value, str) else None
    raise RecipeError(
        f"{place(path)}: {'.'.join(path)} must be {_expected(kind)}, not {_shown(value)}.",
        mend=f"Did you mean {hint}?" if hint else "",
    )


def _literals(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for option in get_args(kind) for word in _literals(option)]


def _expected(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'"{word}"' if isinstance(word, str) else str(word) for word in arguments)
    if origin is list:
        return f"a list, each {_expected(arguments[0])}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_expected, arguments))
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a table")


def _shown(value: Any) -> str:
    return one_line(f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value), 60)


def _check_values(recipe: Recipe, place: _Places) -> None:
    """Refuse values of the right type that cannot mean anything."""

    def require(path: str, good: Callable[[Any], bool], what: str) -> None:
        value: Any = recipe
        for name in path.split("."):
            value = getattr(value, name)
        if not good(value):
            raise RecipeError(f"{place(tuple(path.split('.')))}: {path} must be {what}, not {_shown(value)}.")

    require("name", lambda text: bool(_NAME.fullmatch(text)), "1 to 64 letters, digits, dots, dashes or underscores")
    require("model.base", bool, "an alias, a hub id or a folder")
    require("data.source", bool, "a file or a folder")
    require("data.holdout", lambda share: 0 <= share < 1, "a share from 0 up to 1")
    require("data.validation", lambda share: 0 <= share < 1, "a share from 0 up to 1")
    if recipe.data.holdout + recipe.data.validation >= 1:
        raise RecipeError(
            f"{place(('data', 'holdout'), ('data', 'validation'))}: holdout and validation together leave nothing to train on."
        )
    for path in ("data.max_tokens", "adapter.rank", "training.accumulate", "training.batch_tokens", "training.keep",
                 "training.validate_every", "training.save_every", "evaluation.max_tokens", "evaluation.batch_size"):  # fmt: skip
        require(path, lambda number: number >= 1, "at least 1")
    require("method.loss", lambda names: names and len(set(names)) == len(names), "losses, at least one and none of them twice")
    require(
        "method.weights", lambda weights: all(0 < weight < math.inf for weight in weights), "above 0: leave out the loss instead"
    )
    if recipe.method.weights and len(recipe.method.weights) != len(recipe.method.loss):
        counts = f"{len(recipe.method.weights)} numbers for {len(recipe.method.loss)} losses"
        raise RecipeError(f"{place(('method', 'weights'), ('method', 'loss'))}: method.weights has {counts}.")
    require("method.beta", lambda beta: 0 < beta < math.inf, "above 0")
    if recipe.method.pairs == "wrong" and recipe.method.kind != "dpo":
        raise RecipeError(
            f'{place(("method", "pairs"), ("method", "kind"))}: method.pairs = "wrong" needs pairs: method.kind = "dpo".'
        )
    require("method.desirable", lambda weight: 0 < weight < math.inf, "above 0")
    require("method.undesirable", lambda weight: 0 < weight < math.inf, "above 0")
    require("method.gamma", lambda gamma: 0 <= gamma < math.inf, "0 or more")
    require("method.label_smoothing", lambda share: 0 <= share < 0.5, "a share of the pairs, from 0 up to 0.5")
    require("adapter.layers", lambda layers: layers == "all" or layers >= 1, '"all" or at least 1')
    for path in (
        "training.steps",
        "training.epochs",
        "training.batch_size",
        "training.weight_decay",
        "training.clip",
        "training.samples",
        "training.early_stop",
    ):
        require(path, lambda number: number >= 0, "0 or more")
    require("training.learning_rate", lambda rate: 0 < rate < 1, "between 0 and 1")
    require("training.warmup", lambda share: 0 <= share < 1, "a share of the steps, from 0 up to 1")
    require("training.decay", lambda share: 0 < share <= 1, "a share of the steps, above 0 up to 1")
    require("adapter.lora_plus", lambda ratio: 0 < ratio <= 1000, "above 0, up to 1000")
    require("adapter.dropout", lambda share: 0 <= share < 1, "a share from 0 up to 1")
    require("adapter.alpha", lambda alpha: 0 < alpha < math.inf, "above 0")
    if not recipe.training.steps and not recipe.training.epochs:
        raise RecipeError(f"{place(('training', 'epochs'), ('training', 'steps'))}: training needs epochs or steps.")
    require(
        "evaluation.disclaimers",
        lambda rules: all(rule.phrases and all(phrase.text.strip() for phrase in rule.phrases) for rule in rules),
        "sentences, none of them empty",
    )
    require(
        "evaluation.disclaimers",
        lambda rules: all(0 < phrase.threshold <= 100 for rule in rules for phrase in rule.phrases),
        "with a threshold above 0, up to 100",
    )
    require(
        "evaluation.disclaimers",
        lambda rules: all(rule.at in ("anywhere", "last paragraph") or rule.at.startswith("/") for rule in rules),
        'with at = "anywhere", "last paragraph" or the pointer of a field, such as "/reply"',
    )
    require(
        "evaluation.length", lambda limit: limit.min >= 0 and (limit.max == 0 or limit.max >= limit.min), "a range of 0 or more"
    )
    require("evaluation.length", lambda limit: not limit.at or limit.at.startswith("/"), 'at a field such as "/reply"')
    require(
        "evaluation.fields", lambda paths: all(path.startswith("/") for path in paths), 'pointers of fields, such as "/category"'
    )
    require("evaluation.forbid", lambda phrases: all(phrase.strip() for phrase in phrases), "phrases, none of them empty")
    require("evaluation.arms", lambda arms: "base" in arms, 'a list with "base" in it: the base model is measured first')
    require("evaluation.arms", lambda arms: len(set(arms)) == len(arms), "a list without any arm twice")
    require("evaluation.shots", lambda count: count >= 1, "at least 1")
    require("evaluation.rows", lambda count: count >= 0, "0 or more")
    for arm, key in (("base+prompt", "prompt"), ("base+grammar", "schema")):
        if arm in recipe.evaluation.arms and not getattr(recipe.evaluation, key).strip():
            raise RecipeError(
                f"{place(('evaluation', 'arms'), ('evaluation', key))}: {arm} needs evaluation.{key}.",
                mend="Give it, or leave the arm out.",
            )
