"""``docs``: read the documentation of this version in the terminal."""

import os
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.markdown import Markdown

import mlxtune
from mlxtune.cli.options import argument
from mlxtune.cli.output import info, out, show
from mlxtune.core.errors import InputError
from mlxtune.core.text import one_line, suggest


def docs(page: Annotated[str, argument("The page, for example evaluation. Without it, the pages are listed.")] = "") -> None:
    """Read the documentation in the terminal, or print a page as Markdown into a pipe or file."""
    pages = documentation()
    name = page.lower().removeprefix("docs/").removesuffix(".md")
    if not page:
        width = max(map(len, pages))
        for stem, path in pages.items():
            titles = (line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# "))
            show(f"{stem:{width}}  ", (next(titles, "").removeprefix("# "), "muted"))
        info("Read a page: mlxtune docs PAGE")
    elif name not in pages:
        raise InputError(f"There is no page named {one_line(page, 40)}.", hint=suggest(name, pages))
    elif out.is_terminal:
        os.environ.setdefault("LESS", "-FR")  # show colors, and do not page what fits on the screen
        console = Console()
        with console.pager(styles=True):
            console.print(Markdown(pages[name].read_text(encoding="utf-8")))
    else:
        print(pages[name].read_text(encoding="utf-8"), end="")


def documentation() -> dict[str, Path]:
    """Return the pages by name. They are in the package, or next to it in a clone."""
    package = Path(mlxtune.__file__).parent
    folder = next(folder for folder in (package / "docs", package.parent / "docs") if folder.is_dir())
    return {path.stem: path for path in sorted(folder.glob("*.md"))}
