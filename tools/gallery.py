"""Writes the gallery again: ``recipes/mac/BASE/TASK.toml`` from ``recipes/TASK.toml`` and the catalogue, and what memory each takes.

    python tools/gallery.py

The recipes for the bundled model are written by hand, and so is all above the line that begins with ``# Memory``. A test holds every
file to what this would write.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import tomlkit

from mlxtune.core.text import size
from mlxtune.models import blas, bundled, catalog
from mlxtune.models.catalog import Base
from mlxtune.models.outline import measured
from mlxtune.planning.machine import mac
from mlxtune.planning.plan import Planner, word
from mlxtune.planning.workload import Lengths
from mlxtune.recipe import Recipe, dump, load, parse

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
SIZES = (8, 16, 32, 64)  # gigabytes of a Mac
TASKS = ("support-json", "brand-voice", "tool-calling", "classification", "style")
RATE = {"sft": 1e-4, "dpo": 5e-6}  # a tenth of what suits the bundled model, which is fifty times smaller
COMMERCIAL = {"yes": "allowed", "conditions": "allowed on conditions", "no": "not allowed"}
NOTES = {  # what is said of a task, above its recipe
    "support-json": "A support desk that answers in strict JSON, with the right disclaimer.\n# For: format and contract.",
    "brand-voice": "The shop's voice on top of the format, from pairs (DPO): the second of two in sequence.\n# For: tone. Train support-json of this folder first.",
    "tool-calling": "Messages become calls of the shop's functions. The functions stand in the prompt and a call is plain JSON,\n# so it trains alike on every base. For: which function, with which arguments.",
    "classification": "Reviews are sorted by topic and mood. For: labels of your own.",
    "style": "Notes become catalogue texts in one voice. For: how something is said.",
}


def main() -> int:
    """Write every file that is not as it should be, and say which."""
    blas.preload()
    for path, text in written():
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path.relative_to(ROOT))
    return 0


def written() -> Iterator[tuple[Path, str]]:
    """Every recipe of the gallery, and what should be in it."""
    here = catalog.find(bundled.ALIAS)
    assert here
    for task in TASKS:
        path = RECIPES / f"{task}.toml"
        yield path, re.sub(r"^# Memory.*$", memory(load(path), here, task), path.read_text(), count=1, flags=re.MULTILINE)
    for base in catalog.bases():
        for task in TASKS if base.recipes else ():
            yield RECIPES / "mac" / base.recipes / f"{task}.toml", _recipe(base, task)


def _recipe(base: Base, task: str) -> str:
    """``recipes/TASK.toml`` for another base."""
    document = tomlkit.parse((RECIPES / f"{task}.toml").read_text())
    text = "\n".join(line for line in tomlkit.dumps(document).splitlines() if not line.startswith("#")).lstrip("\n")
    text = re.sub(r" +#(?=[^\"\]]*$)[^\n]*", "", text, flags=re.MULTILINE)
    text = text.replace('"../data/', '"../../../data/')
    document = tomlkit.parse(text)
    document["name"] = f"{base.recipes}-{task}"
    document["model"]["base"] = base.id  # type: ignore[index]
    if "parent" in document["adapter"]:  # type: ignore[operator]
        document["adapter"]["parent"] = f"{base.recipes}-support-json"  # type: ignore[index]
        document["training"]["learning_rate"] = RATE["dpo"]  # type: ignore[index]
    else:
        document["adapter"]["alpha"] = 16  # type: ignore[index]
        document["training"]["learning_rate"] = RATE["sft"]  # type: ignore[index]
    body = tomlkit.dumps(document)
    folder = f"recipes/mac/{base.recipes}"
    licence = f"{base.licence}, commercial use {COMMERCIAL[base.commercial]}"
    recipe = parse(body, folder=RECIPES / "mac" / base.recipes)
    ahead = "" if recipe.adapter.parent else f"\n# Plan it before anything is downloaded: mlxtune plan {folder}/{task}.toml"
    return (
        f"# {base.name}. {NOTES[task]}\n"
        f"# Run: mlxtune train {folder}/{task}.toml{ahead}\n"
        "# Expect: not measured on this base. Its rates are a first try; mlxtune eval says what came of them.\n"
        f"# Licence: {licence}; {base.terms}\n"
        f"# Context: {base.context // 1024}k tokens. Download: {size(base.size)}.\n"
        f"{memory(recipe, base, task)}\n"
        f"{body}"
    )


def memory(recipe: Recipe, base: Base, task: str) -> str:
    """The planner's verdict for Macs of four sizes, as a line of a recipe's header."""
    told = " · ".join(
        f"{gigabytes} GB {verdict}, {size(need)}" for gigabytes, (verdict, need) in planned(recipe, base, task).items()
    )
    return f"# Memory on a Mac, by the planner: {told}"


def planned(recipe: Recipe, base: Base, task: str) -> dict[int, tuple[str, int]]:
    """What the planner says of ``recipe`` on Macs of each size: the word, and bytes."""
    if recipe.adapter.parent:  # it goes on with the adapter of support-json, whatever that is
        parent = load(RECIPES / "support-json.toml").adapter
        recipe = replace(recipe, adapter=replace(parent, parent=""))
    found = {}
    for gigabytes in SIZES:
        machine = mac(gigabytes)
        need = Planner(machine, base.shapes, measured(lengths(task), base)).estimate(recipe).total
        found[gigabytes] = (word(need, machine.limit), need)
    return found


@cache
def lengths(task: str) -> Lengths:
    """How long the rows of a task are, as the bundled model's tokenizer counts."""
    from mlxtune.planning.ask import as_lengths
    from mlxtune.training import probe

    recipe = load(RECIPES / f"{task}.toml")
    return as_lengths(probe.lengths({"recipe": dump(replace(recipe, adapter=replace(recipe.adapter, parent="")))}))


if __name__ == "__main__":
    sys.exit(main())
