"""``data``: look at the rows before anything is trained on them. ``check`` and ``stats`` stand here."""

from __future__ import annotations

import typer

app = typer.Typer(help="Data: check, stats, split, review, import, export.", no_args_is_help=True)


@app.callback()
def data() -> None:
    """Look at the rows before anything is trained on them."""
