"""Arguments and options that several commands share."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

RecipeFile = Annotated[Path, typer.Argument(help="The recipe (a .toml file).")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key, for example --set training.epochs=3.", metavar="KEY=VALUE")
]
ReportName = Annotated[str, typer.Argument(help="A report.json, an evaluation's folder or ID, or last.", metavar="REPORT")]
EndpointUrl = Annotated[str, typer.Option("--url", help="An OpenAI-compatible endpoint.")]
PromptPrice = Annotated[float, typer.Option("--price-in", min=0, help="Dollars per million prompt tokens.")]
ReplyPrice = Annotated[float, typer.Option("--price-out", min=0, help="Dollars per million reply tokens.")]
CostCap = Annotated[float | None, typer.Option("--cap", min=0, help="Maximum cost in dollars.")]
Seeds = Annotated[
    int, typer.Option("--seeds", min=1, help="Train the recipe with N seeds, those that are missing, and evaluate them together.")
]
Online = Annotated[bool, typer.Option("--online", help="Also send the metrics to the tracker's server, with the key that you set.")]
Json = Annotated[bool, typer.Option("--json", help="Print machine-readable output on stdout.")]


def with_option_groups(function: Callable[..., None]) -> Callable[..., None]:
    """Let a command take several options as one parameter: a dataclass whose fields are annotated like parameters of a command."""
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    options: dict[str, inspect.Parameter] = {}
    for parameter in inspect.signature(function).parameters.values():
        group = groups.get(parameter.name)
        own = get_type_hints(group, include_extras=True) if group else {parameter.name: hints[parameter.name]}
        defaults = {field.name: field.default for field in fields(group)} if group else {parameter.name: parameter.default}
        for name, hint in own.items():
            options[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=hint)

    @functools.wraps(function)
    def command(**values: Any) -> None:
        filled = {name: group(**{field.name: values.pop(field.name) for field in fields(group)}) for name, group in groups.items()}
        function(**values, **filled)

    command.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: option.annotation for name, option in options.items()}
    return command
