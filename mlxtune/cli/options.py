"""Arguments and options that several commands share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from mlxtune.core.errors import InputError
from mlxtune.evaluation.judge.endpoint import KEY, OFFICIAL, OFFICIAL_KEY


def option(*names_and_help: str, **settings: Any) -> Any:
    """Return an option with these names. The last text is its help."""
    *names, help = names_and_help
    return typer.Option(*names, help=help, **settings)


def argument(help: str, **settings: Any) -> Any:
    return typer.Argument(help=help, **settings)


RecipeFile = Annotated[Path, argument("The recipe (.toml).")]
Overrides = Annotated[list[str] | None, option("--set", "Override a key: --set training.epochs=3.", metavar="KEY=VALUE")]
ReportName = Annotated[str, argument("A report.json, an evaluation's folder or ID, or last.", metavar="REPORT")]
EvaluationName = Annotated[str, argument("An evaluation's folder or ID, or last.", metavar="EVALUATION")]
FirstArm = Annotated[str, argument("The first arm.")]
SecondArm = Annotated[str, argument("The candidate arm.")]
Online = Annotated[bool, option("--online", "Also send the metrics to the tracker's server, with the key that you set.")]
Detach = Annotated[bool, option("--detach", "Return immediately.")]
Yes = Annotated[bool, option("--yes", "Do not ask.")]
Json = Annotated[bool, option("--json", "Print JSON.")]


def exclusive(**given: object) -> None:
    """Raise ``InputError`` if several of the options are given."""
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value]
    if len(names) > 1:
        raise InputError(f"{' and '.join(names)} cannot be combined.")


@dataclass(frozen=True)
class ModelOptions:
    """A model on this machine or at an endpoint, and what it may cost."""

    local: Annotated[str, option("--local", "A model on this machine: an alias, a Hub ID, or a folder.")] = ""
    model: Annotated[str, option("--model", "The endpoint's model.")] = ""
    url: Annotated[str, option("--url", "An OpenAI-compatible endpoint.")] = OFFICIAL
    key_env: Annotated[
        str, option("--key-env", "The environment variable with the API key.", show_default=f"{OFFICIAL_KEY} or {KEY}")
    ] = ""
    price_in: Annotated[float, option("--price-in", "$ per 1M prompt tokens.", min=0)] = 0.0
    price_out: Annotated[float, option("--price-out", "$ per 1M reply tokens.", min=0)] = 0.0
    cap: Annotated[float | None, option("--cap", "Maximum dollars.", min=0)] = None
    send: Annotated[bool, option("--send", "Consent to sending rows.")] = False


def with_option_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take several options as one parameter: a dataclass whose fields are annotated like parameters of a command."""
    groups: dict[str, Any] = {}
    options: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        own = [parameter]
        if is_dataclass(kind := parameter.annotation):
            groups[parameter.name] = kind
            own = list(inspect.signature(cast(Any, kind), eval_str=True).parameters.values())
        options += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, group in groups.items():
            own = [field.name for field in fields(group) if field.name in values]
            values[name] = group(**{field: values.pop(field) for field in own})
        function(**values)

    command.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command
