"""A complete generation in a tenth of a second: the real worker, filters and files, with a teacher whose replies depend on the question."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from operations import leftovers
from scenario import Scenario

from mlxtune.core.files import write_json, write_text
from mlxtune.core.hashing import sha256_json
from mlxtune.core.journal import read
from mlxtune.core.json_fields import to_json
from mlxtune.data.generate import worker as generation_worker
from mlxtune.data.generate.request import GenerationRequest, TeacherSpec
from mlxtune.data.source_files import generated_path
from mlxtune.evaluation.judge.endpoint import CostMeter
from mlxtune.recipe import dump, parse
from mlxtune.runs import events, registry
from mlxtune.runs.registry import Run

THINGS = ("tent", "stove", "rope", "lamp", "jacket", "kayak", "helmet", "boots", "tarp", "sled", "compass", "axe")
VERBS = ("repair", "return", "wash", "store", "borrow", "insure", "resell", "measure")
RECIPE = """
name = "small"
[model]
base = "small"
[data]
source = "{source}"
holdout = 0.2
validation = 0.1
"""


def prepare(folder: Path) -> None:
    source = folder.parent.parent / "rows.jsonl"
    rows = [
        [
            {"role": "user", "content": f"How do I {verb} my {thing}?"},
            {"role": "assistant", "content": f"The {thing}: see page {at}."},
        ]
        for at, (thing, verb) in enumerate(zip(THINGS * 2, VERBS * 3, strict=True))
    ]
    write_text(source, "".join(json.dumps({"messages": messages}) + "\n" for messages in rows))
    write_text(folder / "recipe.toml", dump(parse(RECIPE.format(source=source))))
    request = GenerationRequest("variations", TeacherSpec(base="small"), count=6, candidates=2)
    write_json(folder / registry.LAUNCH_FILE, {"v": 1, "kind": "generate", "request": to_json(request)})


class Teacher:
    """Writes prompts and answers that depend on the question only."""

    name, host, batch_size, workers, uses_examples = "small", "", 2, 1, True

    def __init__(self) -> None:
        self.meter = CostMeter()

    def ask(self, questions: Any, progress: Any) -> dict[str, Any]:
        return {"replies": [{"text": self.reply(one), "ended": "stop", "seed": one.seed} for one in questions]}

    def reply(self, question: Any) -> str:
        digits = [int(digit, 16) for digit in sha256_json([question.messages, question.seed])]
        words = [
            f"{VERBS[a % 8]} {THINGS[b % 12]} {a}{b}{c}" for a, b, c in zip(digits[::3], digits[1::3], digits[2::3], strict=False)
        ]
        if question.is_answer:
            return f"Bring it with {words[0]} and {words[1]}, then {words[2]}."
        return json.dumps([f"May I {words[at]} after {words[at + 5]}?" for at in range(5)])


def install() -> Any:
    generation_worker._open_teacher = lambda worker, recipe, spec, context: (Teacher(), lambda row: None)
    return generation_worker.generate_rows


def check(generation: Path) -> None:
    """Assert that a summary that was reported is stored, and that the source was not changed."""
    if any(event["type"] == "rows.proposed" for event in events.read_all(generation)):
        assert generated_path(_source(generation)).exists()
    assert len(_source(generation).read_text().splitlines()) == 24


def end(generation: Path) -> dict[str, Any]:
    """Return all files of the generation. No question whose reply was saved may have been asked again."""
    calls = list(read(generation / generation_worker.CALLS))
    replies = Counter(call["key"] for call in calls if "reply" in call)
    assert set(replies.values()) == {1}, replies
    report = json.loads((generation / generation_worker.REPORT).read_text())
    assert report["proposed"] > 0
    return {
        "replies": sorted(replies),
        "generated": generated_path(_source(generation)).read_text(),
        "report": {key: value for key, value in report.items() if key != "new"},  # 0 if the rows were there before the crash
        "refused": (generation / generation_worker.REFUSED).read_text(),
        "status": Run(generation).status(),
        "half-written": leftovers(generation),
    }


def _source(generation: Path) -> Path:
    return generation.parent.parent / "rows.jsonl"


SCENARIO = Scenario("generations", prepare, install, check, end)
