"""A finished evaluation on disk: a recipe, its source, and what two arms answered."""

from __future__ import annotations

import json
from pathlib import Path

from mlxtune.data.source import read_file
from mlxtune.evaluation import evidence
from mlxtune.recipe import dump, load, parse

ID = "20261124-1412-shop"
CANARY = "sk-canary-7f3a9d"


_WHAT = ("a red kayak", "boots for my mother", "the spare lamp", "a voucher")
_WHEN = ("on Monday", "before the storm", "by your new courier", "weeks ago")  # no two rows are near twins


def evaluated(place: Path, rows: int = 16, **answers: str) -> Path:
    """The folder ``evals/ID`` below ``place``. ``answers`` maps an arm to its answer, in which ``{at}`` is the row's number."""
    answers = answers or {"base": "plain {at}", "tuned": "Thank you for writing. Warmly, {at}"}
    source = place / "d.jsonl"
    with source.open("w") as file:
        for at in range(rows):
            turns = [
                ("system", "Be kind."),
                ("user", f"Where is parcel {at}? It is {_WHAT[at % 4]}, sent {_WHEN[at // 4 % 4]}."),
                ("assistant", f"Dear customer, parcel {at} is near."),
            ]
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    folder = place / "evals" / ID
    folder.mkdir(parents=True)
    recipe = dump(parse(f'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "{source}"\n'))
    (folder / "recipe.toml").write_text(recipe)
    evidence.keep(folder, load(folder / "recipe.toml"), read_file(source), {}, read_file(source))
    with (folder / "outputs.jsonl").open("w") as file:
        for arm, answer in answers.items():
            for at, row in enumerate(read_file(source)):
                record = {"id": row.id, "line": at + 1, "arm": arm, "output": answer.format(at=at), "ended": "stop", "failed": {}}
                file.write(json.dumps(record) + "\n")
    return folder
