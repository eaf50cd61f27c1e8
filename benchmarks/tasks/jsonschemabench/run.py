"""Ask a base model for a JSON document for each of many schemas, without and with the schema's grammar, and print how many are valid.

    python benchmarks/tasks/jsonschemabench/run.py --schemas 30

Each set of schemas is a folder of the repository, whose git tree ``task.toml`` names. A schema that cannot be converted to a grammar counts as
invalid with the grammar, and an answer that reaches the token limit is cut.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlxtune.core.errors import InputError
from mlxtune.data.rows import Message
from mlxtune.evaluation.scorers import ModelAnswer
from mlxtune.evaluation.scorers.schema_valid import SchemaValidator
from mlxtune.evaluation.statistics.intervals import wilson
from mlxtune.serving.client import Client, PendingAnswer
from mlxtune.serving.protocol import Done, Failed, Piece, Sampling

TASK = Path(__file__).with_name("task.toml")
SEED = 7
HEADER = ("schemas", "arm", "valid", "95%", "cut", "refused schemas", "seconds", "tokens")
EXAMPLES = (
    ({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city"]}, {"city": "Oslo", "days": 3}),
    ({"type": "object", "properties": {"tags": {"type": "array", "items": {"enum": ["new", "used"]}}}, "required": ["tags"]}, {"tags": ["used"]}),
)  # fmt: skip


def main() -> None:
    options = _options()
    task = tomllib.loads(TASK.read_text(encoding="utf-8"))
    clone = options.mirrors / task["repository"].replace("/", "+") / "repo" if options.mirrors else _fetched(task, options.work)
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}")
    with Client(options.model, queue=options.schemas) as client:
        client.ready()
        for name in options.sets:
            schemas = _schemas(clone, f"{task['commit']}:data/{name}", task["trees"][name], options.schemas)
            for arm in ("base", "base+grammar"):
                started = time.monotonic()
                sampling = Sampling(max_tokens=options.max_tokens)
                answers = [
                    client.ask(_prompt(schema), sampling=sampling, schema=schema if "+" in arm else None) for schema in schemas
                ]
                results = [_result(answer, schema) for answer, schema in zip(answers, schemas, strict=True)]
                cells = _cells(results, time.monotonic() - started)
                print(f"| {name} | {arm} | {' | '.join(cells)} |", flush=True)
    published = task["published"]
    print(f"\nPublished: {published['figure']} ({published['source']}; verified: {published['verified']})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--sets", nargs="+", default=["Glaiveai2K", "Github_easy"], metavar="SET")
    parser.add_argument("--schemas", type=int, default=30, help="of each set")
    parser.add_argument("--max-tokens", type=int, default=256, help="of an answer")
    parser.add_argument("--mirrors", type=Path, help="a folder with clones named OWNER+NAME/repo, instead of a download")
    parser.add_argument("--work", type=Path, default=Path("build/tasks"), help="folder for the download")
    return parser.parse_args()


def _fetched(task: Mapping[str, Any], work: Path) -> Path:
    """Download the task's commit to a bare repository, unless it is there, and return its folder."""
    clone = work / "jsonschemabench.git"
    if not clone.exists():
        subprocess.run(["git", "init", "-q", "--bare", str(clone)], check=True)
        _git(clone, "fetch", "-q", "--depth=1", f"https://github.com/{task['repository']}", task["commit"])
    return clone


def _schemas(clone: Path, folder: str, tree: str, count: int) -> list[Any]:
    """Return ``count`` of the schemas in ``folder``, the same in every run. Raise ``ValueError`` if its tree is another."""
    if _git(clone, "rev-parse", folder).strip() != tree:
        raise ValueError(f"{folder}: its tree is not {tree}.")
    names = _git(clone, "ls-tree", "--name-only", folder).splitlines()
    return [
        json.loads(_git(clone, "show", f"{folder}/{name}")) for name in random.Random(SEED).sample(names, min(count, len(names)))
    ]


def _git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(clone), *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def _prompt(schema: Any) -> list[Message]:
    turns = [Message("system", "Write a JSON document that is valid by the schema, and nothing else.")]
    for example, document in EXAMPLES:
        turns += [Message("user", json.dumps(example)), Message("assistant", json.dumps(document))]
    return [*turns, Message("user", json.dumps(schema))]


def _result(answer: PendingAnswer, schema: Any) -> tuple[bool, bool, bool, int]:
    """Wait for an answer. Return whether it is valid, whether it was cut, whether its schema was refused, and its tokens."""
    text = ""
    for event in answer:
        if isinstance(event, Failed):
            if isinstance(event.error, InputError):
                return False, False, True, 0
            raise event.error
        if isinstance(event, Piece):
            text += event.text
        if isinstance(event, Done):
            return _is_valid(text, schema), event.ended == "length", False, event.tokens
    raise AssertionError("an answer ends with Done or Failed")


def _is_valid(text: str, schema: Any) -> bool:
    try:
        return SchemaValidator(schema).score(ModelAnswer(text)).passed
    except InputError:  # the schema itself is invalid
        return False


def _cells(results: Sequence[tuple[bool, bool, bool, int]], seconds: float) -> list[str]:
    valid, cut, refused, tokens = (sum(column) for column in zip(*results, strict=True))
    low, high = wilson(valid, len(results))
    return [
        f"{valid / len(results):.1%} of {len(results)}",
        f"{low:.0%} to {high:.0%}",
        str(cut),
        str(refused),
        f"{seconds:.0f}",
        f"{tokens:,}",
    ]


if __name__ == "__main__":
    main()
