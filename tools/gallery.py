"""Generate ``recipes/mac/BASE/TASK.toml`` from ``recipes/TASK.toml`` and the catalog, and update every recipe's memory line.

    python tools/gallery.py

The recipes for the bundled model are written by hand, except for the line that begins with ``# Memory``. A test compares every file
with this script's output.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import tomlkit

from mlxtune.core.text import plural, size
from mlxtune.data.split import recipe_splits
from mlxtune.models import bundled, catalog
from mlxtune.models.catalog import CatalogModel
from mlxtune.models.cpu import blas
from mlxtune.planning.machine import mac_with
from mlxtune.planning.plan import Planner, outcome_for
from mlxtune.planning.training_rule import apply_rule, training_rule
from mlxtune.planning.workload import DatasetLengths
from mlxtune.recipe import Recipe, load, parse

ROOT = Path(__file__).parent.parent
RECIPES = ROOT / "recipes"
SIZES = (8, 16, 32, 64)  # a Mac's memory in gigabytes
TASKS = ("desk", "support-json", "brand-voice", "tool-calling", "classification", "style")
COMMERCIAL = {"yes": "allowed", "conditions": "allowed with conditions", "no": "not allowed"}
FITS = {"go": "fits", "warn": "tight", "refuse": "too large"}
HEADERS = {  # the first lines of each task's recipe
    "desk": "Turn each message into an action with its arguments, and add the note that the shop must give.\n"
    "# Use for: routing and extraction with required sentences.",
    "support-json": "A support desk that sorts messages by written rules and answers in strict JSON.\n# Use for: classification and format together.",
    "brand-voice": "Teach the model the shop's voice from preference pairs (DPO), on top of the format.\n"
    "# Use for: tone. Train support-json in this folder first.",
    "tool-calling": "Turn messages into calls to the shop's functions. The functions are listed in the prompt and a call is plain\n"
    "# JSON, so the recipe works with every base.\n# Use for: routing and tool calling.",
    "classification": "Classify reviews by topic and sentiment.\n# Use for: classification with a small set of your own labels.",
    "style": "Turn notes into catalog descriptions in the house style.\n# Use for: writing style.",
}


def main() -> int:
    """Write every file that is out of date, and print its path."""
    blas.preload()
    for path, text in rendered():
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(path.relative_to(ROOT))
    return 0


def rendered() -> Iterator[tuple[Path, str]]:
    """Yield the path and expected content of every recipe in the gallery."""
    bundled_base = catalog.find(bundled.DEFAULT.alias)
    assert bundled_base
    for task in TASKS:
        path = RECIPES / f"{task}.toml"
        yield path, re.sub(r"^# Memory.*$", memory(load(path), bundled_base, task), path.read_text(), count=1, flags=re.MULTILINE)
    for base in catalog.models():
        for task in TASKS if base.recipes else ():
            yield RECIPES / "mac" / base.recipes / f"{task}.toml", _recipe(base, task)


def _recipe(base: CatalogModel, task: str) -> str:
    """Return ``recipes/TASK.toml`` adapted to another base."""
    document = tomlkit.parse((RECIPES / f"{task}.toml").read_text())
    text = "\n".join(line for line in tomlkit.dumps(document).splitlines() if not line.startswith("#")).lstrip("\n")
    text = re.sub(r" +#(?=[^\"\]]*$)[^\n]*", "", text, flags=re.MULTILINE)
    text = text.replace('"../data/', '"../../../data/')
    document = tomlkit.parse(text)
    if task == "tool-calling":  # not every base has tools
        document["data"].update(source="../../../data/samples/calls.jsonl", max_tokens=512)  # type: ignore[union-attr]
        del document["model"]["template"]  # type: ignore[union-attr]
    document["name"] = f"{base.recipes}-{task}"
    document["model"]["base"] = base.id  # type: ignore[index]
    if "parent" in document["adapter"]:  # type: ignore[operator]
        document["adapter"]["parent"] = f"{base.recipes}-support-json"  # type: ignore[index]
    else:
        del document["adapter"]
    document["evaluation"].pop("extras", None)  # type: ignore[union-attr]
    for key in ("steps", "epochs", "batch_size", "learning_rate"):  # they follow from the base and the rows
        document["training"].pop(key, None)  # type: ignore[union-attr]
    body = tomlkit.dumps(document)
    folder = f"recipes/mac/{base.recipes}"
    license = f"{base.license}, commercial use {COMMERCIAL[base.commercial]}"
    recipe = parse(body, folder=RECIPES / "mac" / base.recipes)
    plan = "" if recipe.adapter.parent else f"\n# Plan before downloading: mlxtune plan {folder}/{task}.toml"
    return (
        f"# {base.name}. {HEADERS[task]}\n"
        f"# Run: mlxtune train {folder}/{task}.toml{plan}\n"
        f"# Results: not measured on this base. By the rule: {rule(recipe, base)}.\n"
        f"# License: {license}; {base.terms}\n"
        f"# Context: {base.context // 1024}k tokens. Download: {size(base.hub_nbytes)}.\n"
        f"{memory(recipe, base, task)}\n"
        f"{body}"
    )


_train_rows: dict[str, int] = {}  # recipes for different bases have the same rows


def train_rows(recipe: Recipe) -> int:
    if (key := f"{recipe.source} {recipe.data}") not in _train_rows:
        _train_rows[key] = len(recipe_splits(recipe).train)
    return _train_rows[key]


def rule(recipe: Recipe, base: CatalogModel) -> str:
    """Describe the training settings that follow from the base and the rows, and the usual range of updates."""
    found = training_rule(recipe.method.kind, base.shapes.width, train_rows(recipe))
    epochs, updates = plural(found.epochs, "epoch"), f"{found.least} to {found.most} updates"
    return f"a rate of {found.learning_rate:g}, {epochs} in batches of {found.batch_size} rows; {updates} are usual"


def memory(recipe: Recipe, base: CatalogModel, task: str) -> str:
    """Return the header line with the planner's verdict for Macs with four memory sizes."""
    estimates = planned(recipe, base, task).items()
    return "# Memory (computed, never measured on a Mac): " + "; ".join(
        f"{gb} GB Mac: {size(need)}, {FITS[word]}" for gb, (word, need) in estimates
    )


def planned(recipe: Recipe, base: CatalogModel, task: str) -> dict[int, tuple[str, int]]:
    """Return the planner's verdict and the peak memory in bytes, keyed by the Mac's memory in gigabytes."""
    recipe = apply_rule(recipe, base.shapes.width, train_rows(recipe))
    if recipe.adapter.parent:  # it continues from support-json's adapter
        parent = load(recipe.folder / "support-json.toml").adapter
        recipe = replace(recipe, adapter=replace(parent, parent=""))
    rows = lengths(task, recipe.source, recipe.model.template)
    if not base.full_attention:  # prefixes cannot be shared
        rows = replace(rows, prefix=0, full_attention=False)
    estimates = {}
    for gigabytes in SIZES:
        machine = mac_with(gigabytes)
        need = Planner(machine, base.shapes, rows).estimate(recipe).total
        estimates[gigabytes] = (outcome_for(need, machine.limit), need)
    return estimates


@cache
def lengths(task: str, source: Path, template: str) -> DatasetLengths:
    """Return the lengths of the rows in ``source``, in tokens of the bundled model's tokenizer.

    Replayed rows are left out: their lengths are known only once the base has answered, and they are shorter than the task's rows.
    """
    from mlxtune.training import probe

    recipe = load(RECIPES / f"{task}.toml")
    data, model = replace(recipe.data, source=str(source), replay=0.0), replace(recipe.model, template=template)
    return probe.lengths(replace(recipe, data=data, model=model, adapter=replace(recipe.adapter, parent="")))


if __name__ == "__main__":
    sys.exit(main())
