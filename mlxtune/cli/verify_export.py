"""``verify-export``: send the held-out rows to an installed program, and compare its answers with the adapter's."""

from pathlib import Path
from typing import Annotated

import typer

from mlxtune.adapters import library
from mlxtune.adapters.export import fidelity
from mlxtune.adapters.export import start as exports
from mlxtune.adapters.export.endpoint_prompts import api_url, served_model
from mlxtune.adapters.export.tried import find_export, tried_exports
from mlxtune.cli.adapters import Which
from mlxtune.cli.export import Rows, compared_recipe
from mlxtune.cli.follow import follow_answers
from mlxtune.cli.options import Json, Overrides
from mlxtune.cli.output import draw, show_json
from mlxtune.cli.train import fetch
from mlxtune.core.errors import GateError
from mlxtune.core.json_fields import to_json
from mlxtune.present.export import form_label, verification_document


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
    result = fidelity.load_verification(run.folder)
    if json:
        show_json({"run": run.id, "failure": result.failure, **to_json(result)})
    else:
        draw(verification_document(result, form_label(found.form, found.precision, found.program) if found else ""))
    if result.failure == "prompts":
        raise GateError(
            "The program renders prompts differently than in training.",
            hint="Export the adapter again, and let the program use the exported template.",
        )
    if result.failure:
        raise GateError(
            "The program's answers are worse than the adapter's.",
            hint="If the program's file is quantized, use one in 16 bits: mlxtune export llamacpp --precision f16",
        )
