"""A finished evaluation on disk: a recipe, its source, and the answers of two arms."""

import json
from pathlib import Path

from mlxtune.data.source import read_file
from mlxtune.evaluation import evidence
from mlxtune.evaluation.answers import Answer, ArmAnswers
from mlxtune.recipe import dump, load, parse

ID = "20261124-1412-shop"
CANARY = "sk-canary-7f3a9d"


_ITEMS = ("a red kayak", "boots for my mother", "the spare lamp", "a voucher")
_TIMES = ("on Monday", "before the storm", "by your new courier", "weeks ago")  # no two rows are near-duplicates


def write_unscored_evaluation(workspace: Path, rows: int = 16, **answers: str) -> Path:
    """Create the folder ``evals/ID`` in ``workspace``. ``answers`` maps an arm to its answer, with ``{at}`` for the row number."""
    answers = answers or {"base": "plain {at}", "tuned": "Thank you for writing. Warmly, {at}"}
    source = workspace / "d.jsonl"
    with source.open("w") as file:
        for index in range(rows):
            turns = [
                ("system", "Be kind."),
                ("user", f"Where is parcel {index}? It is {_ITEMS[index % 4]}, sent {_TIMES[index // 4 % 4]}."),
                ("assistant", f"Dear customer, parcel {index} is near."),
            ]
            file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
    folder = workspace / "evals" / ID
    folder.mkdir(parents=True)
    recipe = dump(parse(f'name = "shop"\n[model]\nbase = "m"\n[data]\nsource = "{source}"\n'))
    (folder / "recipe.toml").write_text(recipe)
    rows = read_file(source)
    evidence.save_evidence(folder, load(folder / "recipe.toml"), rows, rows)
    measured = [
        ArmAnswers(arm, tuple(Answer(row.id, answer.format(at=index), "stop") for index, row in enumerate(rows)), False, 1.0)
        for arm, answer in answers.items()
    ]
    evidence.save_outputs(folder, ((arm.name, arm.answers) for arm in measured))
    return folder
