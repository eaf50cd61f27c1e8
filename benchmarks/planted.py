"""Check the verdicts on two planted tasks: one that the rows teach, and one where they can teach nothing but the form of the answers.

    python benchmarks/planted.py FOLDER [TASK…]

Each message names a person, an item, and a city. In ``taught``, the answer is the person's desk, the item's shelf, and the city's van, by
tables that only the training rows show, so that neither one answer for all messages nor another message's answer is right. In ``noise``, the
answer is a color that was chosen at random.
"""

import argparse
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

from mlxtune.api import load_report
from mlxtune.core.child_process import python_command, python_environment

ROWS = 300
_PEOPLE = ("Ada", "Bo", "Cleo", "Dan", "Eve", "Finn", "Gus", "Hana", "Ivo", "June")
_ITEMS = ("tent", "stove", "lamp", "rope", "kayak", "saddle", "drum", "kettle", "ladder", "globe")
_CITIES = ("Oslo", "Bergen", "Malmö", "Turku", "Riga", "Gdansk", "Kiel", "Lund", "Narvik", "Vaasa")
_MESSAGES = (
    "{person} in {city} has bought a {item}.",
    "Please send a {item} to {person}, who lives in {city}.",
    "One {item} for {person}. The address is in {city}.",
    "From {city}: {person} is waiting for a {item}.",
)
_OVERRIDES = ("data.holdout=0.2", "evaluation.regression=", "evaluation.extras=false", "training.samples=0")

Answer = Callable[[str, str, str], dict[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Check the verdicts on two planted tasks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks", nargs="*", default=["taught", "noise"])
    options = parser.parse_args()
    chance = random.Random(5)
    desks, shelves, vans = (dict(zip(names, _codes(chance), strict=True)) for names in (_PEOPLE, _ITEMS, _CITIES))
    tasks: dict[str, Answer] = {
        "taught": lambda person, item, city: {"desk": desks[person], "shelf": shelves[item], "van": vans[city]},
        "noise": lambda *_: {"color": chance.choice(("blue", "green"))},
    }
    for name in options.tasks:
        workspace, answer = options.folder / name, tasks[name]
        workspace.mkdir(parents=True)
        _write(workspace / f"{name}.jsonl", answer, chance)
        _mlxtune(workspace, "init", ".", "--from", f"{name}.jsonl")
        for command, subject in (("train", f"recipes/{name}.toml"), ("eval", "last")):
            _mlxtune(workspace, command, subject, *(part for value in _OVERRIDES for part in ("--set", value)))
        report = load_report(workspace=workspace)
        rates = {arm.name: round(100 * arm.rate(report.headline_metric).share, 1) for arm in report.arms}
        print(f"{name}: {report.outcome}, % correct: {rates}", flush=True)


def _codes(chance: random.Random) -> list[str]:
    return [f"{chance.choice('ABCDEFGHJK')}{number}" for number in chance.sample(range(10, 99), 10)]


def _write(file: Path, answer: Answer, chance: random.Random) -> None:
    with file.open("w") as lines:
        for _ in range(ROWS):
            person, item, city = (chance.choice(names) for names in (_PEOPLE, _ITEMS, _CITIES))
            prompt = chance.choice(_MESSAGES).format(person=person, item=item, city=city)
            lines.write(json.dumps({"prompt": prompt, "completion": json.dumps(answer(person, item, city))}) + "\n")


def _mlxtune(workspace: Path, *arguments: str) -> None:
    subprocess.run(python_command("mlxtune", *arguments), cwd=workspace, env=python_environment(), check=True)


if __name__ == "__main__":
    main()
