"""Convert between TOML and a typed :class:`Recipe`. Every error names the key, its line, and what to do."""

import dataclasses
import json
import re
import shlex
import tomllib
import types
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

import tomlkit

from mlxtune.core.errors import RecipeError
from mlxtune.core.files import read_errors, read_failure, read_text, similar_file
from mlxtune.core.text import nearest, one_line, suggest
from mlxtune.recipe.schema import SHIPPED_TEMPLATES, Disclaimer, Phrase, Recipe, Rule, key_types

_SENTENCES = {Disclaimer: "a sentence or { text, when }", Phrase: "a sentence or { text, match }"}  # may also be a plain string
_ROW_FILES = (".json", ".jsonl", ".csv", ".parquet")
_PLURALS = {str: "strings", float: "numbers"}


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``key.path=value`` overrides (``training.epochs=3``).

    Raise ``RecipeError`` for a missing file, invalid TOML, an unknown key, a wrong type, or an invalid value.
    """
    if path.suffix in _ROW_FILES and path.is_file():
        hint = f"Write a recipe for them with: mlxtune init . --from {shlex.quote(str(path))}"
        raise RecipeError(f"{path} contains rows, not a recipe.", hint=hint)
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        hint = similar_file(path, Path("recipes")) or "Check the path, or create a workspace with: mlxtune init DIR"
        raise RecipeError(f"There is no recipe at {path}.", hint=hint) from error
    except IsADirectoryError as error:
        raise RecipeError(f"{path} is a folder, not a recipe.", hint="Use the path of a .toml file in it.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {read_failure(error)}.") from error
    return parse(text, folder=path.parent, overrides=overrides, where=str(path))


def parse(text: str, *, folder: Path = Path(), overrides: Sequence[str] = (), where: str = "recipe") -> Recipe:
    """Parse a recipe's text, as :func:`load` does. ``where`` is the recipe's name in errors; if it is empty, they name no place."""
    try:
        document: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for a number with thousands of digits, and for deep nesting
        raise RecipeError(f"{where} is not valid TOML: {one_line(str(error), 200).rstrip('.')}.") from error
    for override in overrides:
        key, value = parse_override(override)
        *tables, last = key.split(".")
        table = document
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                raise RecipeError(f"--set {override}: {name} is not a section.")
        table[last] = value
    locations = _KeyLocations(text, where, overrides)
    recipe: Recipe = dataclasses.replace(_build(Recipe, document, (), locations), folder=folder.resolve())
    _check_combinations(recipe, locations)
    return recipe


def dump(recipe: Recipe) -> str:
    """Return the whole recipe as TOML with defaults and absolute paths, as stored in a run."""
    document = dataclasses.asdict(recipe)
    del document["folder"]
    base = recipe.path(recipe.model.base)
    paths = {
        ("model", "base"): base if base.is_dir() else None,
        ("model", "template"): recipe.template_file if recipe.model.template not in SHIPPED_TEMPLATES else None,
        ("data", "source"): recipe.source,
        ("data", "replay_prompts"): _prompts_file(recipe, recipe.data.replay_prompts),
        ("evaluation", "schema"): recipe.schema_file,
        ("evaluation", "prompt"): recipe.prompt_file,
        ("evaluation", "regression"): _prompts_file(recipe, recipe.evaluation.regression),
    }
    for (section, key), path in paths.items():
        if path:
            document[section][key] = str(path)
    return tomlkit.dumps(document)


def _prompts_file(recipe: Recipe, setting: str) -> Path | None:
    return None if setting in ("", "shipped") else recipe.path(setting)


def files_read(recipe: Recipe) -> list[Path]:
    """Return the user's files of rows, prompts, schemas, and templates that a recipe reads, outside of its model and its parent."""
    template = None if recipe.model.template in SHIPPED_TEMPLATES else recipe.template_file
    replayed = recipe.data.replay_prompts if recipe.data.replay else ""
    prompts = (_prompts_file(recipe, setting) for setting in (recipe.evaluation.regression, replayed))
    return [file for file in (recipe.source, template, recipe.schema_file, recipe.prompt_file, *prompts) if file]


def read_template(recipe: Recipe) -> str:
    """Return the chat template that replaces the model's own; empty if there is none. Raise ``RecipeError`` if it cannot be read."""
    file = recipe.template_file
    with read_errors(f"the chat template {file}", RecipeError, "Fix model.template."):
        return read_text(file) if file else ""


def parse_override(text: str) -> tuple[str, Any]:
    """Split ``key.path=value``. A value that is not TOML is a string: ``model.base=smollm2-135m``. Raise ``RecipeError``."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip().rpartition(".")[2]:
        raise RecipeError(f"--set {text} must have the form key=value.", hint="For example: --set training.epochs=3")
    try:
        return key.strip(), tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), raw
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"--set {one_line(key, 60)}: {one_line(str(error), 200).rstrip('.')}.") from error


class _KeyLocations:
    """The line of every key in the text, or the override that set the key, for error messages."""

    _HEADER = re.compile(r"\s*\[+\s*([\w.-]+)\s*\]+")

    def __init__(self, text: str, where: str, overrides: Sequence[str]) -> None:
        self.where = where
        self.overrides = {tuple(parse_override(override)[0].split(".")): override for override in overrides}
        self.lines: dict[tuple[str, ...], int] = {}
        section: tuple[str, ...] = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := self._HEADER.match(line):
                section = tuple(header[1].split("."))
                self.lines.setdefault(section, number)
            elif key := re.match(r"\s*([\w-]+)\s*=", line):
                self.lines.setdefault((*section, key[1]), number)

    def __call__(self, path: tuple[str, ...], *others: tuple[str, ...]) -> str:
        """Return where ``path`` was set, or the override that set it or a related key in ``others``, as the start of a message."""
        for key in (path, *others):
            for end in range(len(key), 0, -1):
                if key[:end] in self.overrides:
                    return f"--set {one_line(self.overrides[key[:end]], 80)}: "
        line = self.lines.get(path)
        below = next((text for key, text in self.overrides.items() if key[: len(path)] == path), "") if path and not line else ""
        if below:
            return f"--set {one_line(below, 80)}: "
        return f"{self.where}{f', line {line}' if line else ''}: " if self.where else ""


def _build(kind: type, values: Any, path: tuple[str, ...], locate: _KeyLocations) -> Any:
    name = ".".join(path)
    if not isinstance(values, Mapping):
        keys = [item.name for item in dataclasses.fields(kind)]
        form, hint = "section", f"Set its keys: {', '.join(f'{name}.{key}' for key in keys)}."
        if len(path) > 1:
            form, hint = "table", f"{hint} Or write it in braces: {{ {keys[0]} = … }}."
        raise RecipeError(f"{locate(path)}{name} must be a {form}, but is {_shown(values)}.", hint=hint)
    hints = key_types(kind)
    fields = {item.name: item for item in dataclasses.fields(kind) if item.name != "folder"}
    for key in values:
        if key not in fields:
            unknown = f"unknown key {one_line(key, 60)}{f' in [{name}]' if name else ''}"
            raise RecipeError(f"{locate((*path, key))}{unknown}.", hint=_known(key, values[key], path, fields))
    for key, item in fields.items():
        if key not in values and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            what = f"the section [{key}]" if dataclasses.is_dataclass(hints[key]) else f"the key {'.'.join((*path, key))}"
            raise RecipeError(f"{locate(path)}{what} is missing.")
    given = {key: _value(hints[key], value, (*path, key), locate) for key, value in values.items()}
    for key, value in given.items():
        _check_rules(fields[key].metadata["about"].rules if fields[key].metadata else (), value, (*path, key), locate)
    return kind(**given)


def _check_rules(rules: Sequence[Rule], value: Any, path: tuple[str, ...], locate: _KeyLocations) -> None:
    for rule in rules:
        if not rule.is_valid(value):
            raise RecipeError(f"{locate(path)}{'.'.join(path)} must be {rule.expected}, but is {_shown(value)}.")


_PEER_KEYS = {  # names of mlx-lm and TRL
    "iters": "training.steps", "max_steps": "training.steps", "num_train_epochs": "training.epochs",
    "lr": "training.learning_rate", "per_device_train_batch_size": "training.batch_size",
    "grad_accumulation_steps": "training.accumulate", "gradient_accumulation_steps": "training.accumulate",
    "num_layers": "adapter.layers", "lora_rank": "adapter.rank", "lora_alpha": "adapter.alpha", "max_seq_length": "data.max_tokens",
    "steps_per_eval": "training.validate_every",
}  # fmt: skip


def _known(key: str, value: Any, path: tuple[str, ...], fields: Mapping[str, Any]) -> str:
    """Suggest a known key for an unknown one. A key that belongs to a section is often written without it."""
    if not path and not (isinstance(value, Mapping) and nearest(key, fields)):
        sections = {name: kind for name, kind in key_types(Recipe).items() if dataclasses.is_dataclass(kind)}
        keys = list(value) if isinstance(value, Mapping) else [key]
        full = [f"{name}.{key}" for key in keys for name, kind in sections.items() if key in key_types(kind)]  # type: ignore[arg-type]
        full += [_PEER_KEYS[key] for key in keys if key in _PEER_KEYS]
        if full:
            return f"Did you mean {' or '.join(full)}?"
    return suggest(key, fields, "Known keys:")


def _value(kind: Any, value: Any, path: tuple[str, ...], locate: _KeyLocations) -> Any:
    """Convert ``value`` to the type ``kind``. Raise ``RecipeError`` with the expected type if that fails."""
    if kind in _SENTENCES and isinstance(value, str):
        return kind(value)
    if dataclasses.is_dataclass(kind) and (kind not in _SENTENCES or isinstance(value, Mapping)):
        return _build(kind, value, path, locate)  # type: ignore[arg-type]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        result = _value(arguments[0], value, path, locate)
        _check_rules(arguments[1:], result, path, locate)
        return result
    if origin is list and isinstance(value, list):
        return [_value(arguments[0], item, path, locate) for item in value]
    if origin is dict and isinstance(value, Mapping):
        if dataclasses.is_dataclass(arguments[1]):
            return {key: _build(arguments[1], item, (*path, key), locate) for key, item in value.items()}  # type: ignore[arg-type]
        return dict(value)
    if origin is Literal and not isinstance(value, bool | list | dict) and value in arguments:
        return value
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _value(option, value, path, locate)
            except RecipeError:
                continue
    if kind is str and type(value) is date:
        return value.isoformat()
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise RecipeError(f"{locate(path)}{'.'.join(path)} must be a 64-bit integer, but is {_shown(value)}.")
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    match = nearest(value, _literals(kind)) if isinstance(value, str) else None
    hint = f"Did you mean {match}?" if match else ""
    if origin is list and isinstance(value, str):
        items = [part.strip(' "[]') for part in value.split(",")]
        is_number = arguments[0] in (int, float)
        listed = one_line(f"[{', '.join(items)}]" if is_number else json.dumps(items, ensure_ascii=False), 60)
        hint = f"""Use brackets: {path[-1]} = {listed}, or --set '{".".join(path)}={listed}'"""
    raise RecipeError(f"{locate(path)}{'.'.join(path)} must be {_expected(kind)}, but is {_shown(value)}.", hint=hint)


def _literals(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [word for word in get_args(kind) if isinstance(word, str)]
    return [word for option in get_args(kind) for word in _literals(option)]


def _expected(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(f'"{word}"' if isinstance(word, str) else str(word) for word in arguments)
    if origin is Annotated:
        return " ".join(rule.expected for rule in arguments[1:])
    if origin is list:
        return f"a list of {_PLURALS.get(arguments[0]) or f'values, each {_expected(arguments[0])}'}"
    if origin in (Union, types.UnionType):
        return " or ".join(map(_expected, arguments))
    if kind in _SENTENCES:
        return _SENTENCES[kind]
    return {str: "a string", int: "an integer", float: "a number", bool: "true or false"}.get(kind, "a table")


def _shown(value: Any) -> str:
    return one_line(f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value), 60)


def _check_combinations(recipe: Recipe, locate: _KeyLocations) -> None:
    """Raise ``RecipeError`` if values contradict each other."""

    def fail(first: str, second: str, problem: str) -> NoReturn:
        raise RecipeError(f"{locate(tuple(first.split('.')), tuple(second.split('.')))}{problem}")

    data, method, evaluation = recipe.data, recipe.method, recipe.evaluation
    if data.holdout + data.validation >= 1:
        fail("data.holdout", "data.validation", "data.holdout and data.validation leave no rows for training.")
    if method.weights and len(method.weights) != len(method.loss):
        counts = f"{len(method.weights)} numbers for {len(method.loss)} losses"
        fail("method.weights", "method.loss", f"method.weights has {counts}.")
    if method.pairs == "wrong" and method.kind != "dpo":
        fail("method.pairs", "method.kind", 'method.pairs = "wrong" requires method.kind = "dpo".')
    if (name := evaluation.optimizer) and name not in evaluation.endpoints:
        fail("evaluation.optimizer", "evaluation.endpoints", f"evaluation.optimizer requires evaluation.endpoints.{name}.")
    for arm in evaluation.arms:
        if arm.startswith("tuned+") and "tuned" not in evaluation.arms:
            fail("evaluation.arms", "evaluation.arms", f"The arm {arm} requires the arm tuned.")
        name = arm.partition(":")[2]
        if name and name not in evaluation.endpoints:
            fail("evaluation.arms", "evaluation.endpoints", f"The arm {arm} requires evaluation.endpoints.{name}.")
        if name and method.kind == "dpo":
            fail("evaluation.arms", "method.kind", f"The arm {arm} has no likelihoods, which dpo compares.")
        for part, key in {"prompt": "prompt", "grammar": "schema"}.items():
            if part in arm.split("+") and not getattr(evaluation, key).strip():
                fail("evaluation.arms", f"evaluation.{key}", f"The arm {arm} requires evaluation.{key}.")
