"""``verify-export``: send the held-out rows to an installed program, and compare its answers with the adapter's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export import verification
from mlxtune.adapters.export.endpoint_prompts import api_url, served_model
from mlxtune.adapters.export.tried import find_export, tried_exports
from mlxtune.adapters.export.verification import Verification
from mlxtune.cli.adapters import Which
from mlxtune.cli.export import Rows, compared_recipe
from mlxtune.cli.follow import follow_answers
from mlxtune.cli.options import Json, Overrides
from mlxtune.cli.output import out, show, show_json
from mlxtune.cli.tables import print_heading, print_table
from mlxtune.cli.train import fetch
from mlxtune.core.errors import GateError
from mlxtune.core.text import one_line
from mlxtune.evaluation.json_fields import to_json
from mlxtune.evaluation.render.comparison_table import comparison_table
from mlxtune.evaluation.scorers.registry import metric_label


def verify_export(
    which: Which,
    endpoint: Annotated[
        str,
        typer.Option("--endpoint", help="The URL of llama.cpp's server, Ollama, LM Studio, or a similar program on this machine."),
    ],
    model: Annotated[
        str, typer.Option("--model", help="The model's name at the endpoint. Default: its model, if it serves only one.")
    ] = "",
    export: Annotated[
        str, typer.Option("--export", help="The ID of the export that the endpoint serves, if the adapter has several.")
    ] = "",
    recipe: Rows = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Measure the quality lost by export and quantization: an installed program answers the held-out rows, and so does the adapter.

    Exits 1 if the program renders a prompt differently than in training, or if its answers are worse.
    """
    entry = library.find_usable(Path.cwd(), which)
    url = api_url(endpoint)
    served = served_model(url, model)
    found = find_export(tried_exports(entry), served.files, export)
    rows = compared_recipe(entry, recipe, overrides or [])
    run = exports.start_verification(Path.cwd(), entry, url, served.name, found.id if found else "", recipe=rows, prepare=fetch)
    if code := follow_answers(run):
        raise typer.Exit(code)
    result = verification.load(run.folder)
    if json:
        show_json({"run": run.id, "verdict": result.sentence, "failed": bool(result.failure), **to_json(result)})
    else:
        _print(result, found.form if found else "")
    if result.failure:
        raise GateError(result.failure, hint=_hint(result))


def _hint(result: Verification) -> str:
    if result.problem:
        return "Export the adapter again, and let the program use the exported template."
    return "If the program's file is quantized, use one in 16 bits: mlxtune export llamacpp --precision f16"


def _print(result: Verification, form: str) -> None:
    print_heading(out, "Verification", f"{form or 'the model'} at {one_line(result.url, 60)} versus the adapter, on held-out rows")
    if result.problem:
        show("  ", ("✗ ", "bold error"), (one_line(result.problem, 200), "bold"))
    show("  ", ("✗ ", "bold error") if result.failure else ("✓ ", "bold success"), (one_line(result.sentence, 300), "bold"))
    if result.rates:
        show("")
        print_table(
            comparison_table("Contract", "adapter, then program", [(metric_label(item.metric), item) for item in result.rates])
        )
