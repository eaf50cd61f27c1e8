"""``data check``: how fast, how much memory, and whether its near-duplicates are all there and no others.

    python benchmarks/data.py [--json] [--rows 10000 100000] [--data FILE …]

Rows are made: one system prompt, questions and answers of random words, every tenth question a near twin of another. Each size runs in
a process of its own. *Exhaustive* is the join that compares every pair of a file's prompts, set by set. Progress goes to stderr, the
result to stdout.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mlxtune.data import similar
from mlxtune.data.groups import asked
from mlxtune.data.source import read_file
from mlxtune.planning.machine import machine

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"
SYSTEM = "You are the support desk of an outdoor shop. " * 12
CHILD = """
import json, resource, sys, time
from pathlib import Path
from mlxtune.data.checks import check
start = time.perf_counter()
report = check(Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
found = sum(one.check in ("near-duplicate", "duplicate", "conflict") for one in report.findings)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak, "groups": report.facts.groups, "repeats": found}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes, ascending")
    parser.add_argument("--data", type=Path, nargs="*", default=[SAMPLES / "support.jsonl"], help="files for the exhaustive join")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = [measure(Path(folder) / f"{count}.jsonl", count) for count in options.rows]
    joins = [join(file) for file in options.data]
    result = {
        "machine": {"chip": machine().chip, "cores": machine().cores, "system": machine().system},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "mlxtune")},
        "check": checks, "join": joins, "ratio": ratios(checks, joins),
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else table(result))


def measure(file: Path, count: int) -> dict[str, Any]:
    """``data check`` of ``count`` made rows: seconds by the clock and of CPU, bytes of the file and at the peak, what was found."""
    print(f"· {count:,} rows", file=sys.stderr, flush=True)
    write(file, count)
    done = subprocess.run([sys.executable, "-c", CHILD, str(file)], stdout=subprocess.PIPE, text=True, check=True)
    return {"rows": count, "bytes": file.stat().st_size, **json.loads(done.stdout)}


def write(file: Path, count: int) -> None:
    """Rows of random sentences over a vocabulary as uneven as a language's; every tenth is another one with a word changed."""
    dice = random.Random(count)
    letters = "etaoinshrdlcumwfgypbvk"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    drawn = iter(dice.choices(words, weights, k=count * 72))
    questions: list[list[str]] = []
    with file.open("w") as out:
        for at in range(count):
            question = [next(drawn) for _ in range(28)]
            if at % 10 == 9:
                question = list(dice.choice(questions))
                question[dice.randrange(len(question))] = next(drawn)
            questions.append(question)
            answer = " ".join(next(drawn) for _ in range(42))
            turns = [("system", SYSTEM), ("user", " ".join(question) + "?"), ("assistant", answer + ".")]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")


def join(file: Path) -> dict[str, Any]:
    """The near twins of ``file``'s prompts, and those that comparing all pairs finds."""
    print(f"· {file.name}, exhaustively", file=sys.stderr, flush=True)
    texts = [asked(row) for row in read_file(file)]
    start = time.perf_counter()
    found = similar.twins(texts)
    own, start = time.perf_counter() - start, time.perf_counter()
    every = exhaustive(texts)
    peer = time.perf_counter() - start
    pairs, right = {(i, j) for i, j, _ in found}, {(i, j) for i, j, _ in every}
    return {
        "file": file.name, "texts": len(texts), "twins": len(right), "missed": len(right - pairs), "false": len(pairs - right),
        "seconds": own, "exhaustive": peer,
    }  # fmt: skip


def exhaustive(texts: Sequence[str], threshold: float = 0.8) -> list[similar.Pair]:
    """Every pair of ``texts`` whose sets of five characters are ``threshold`` alike, by comparing all of them."""
    folded = [" ".join(text.casefold().split()) for text in texts]
    sets = [{text[at : at + 5] for at in range(max(1, len(text) - 4))} for text in folded]
    found = []
    for i, j in combinations(range(len(sets)), 2):
        shared = len(sets[i] & sets[j])
        alike = shared / (len(sets[i]) + len(sets[j]) - shared)
        if alike >= threshold:
            found.append((i, j, alike))
    return found


def ratios(checks: Sequence[dict[str, Any]], joins: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Memory against the file as both grow: below 1 is bounded. The join against the exhaustive one: above 1 is faster."""
    first, last = checks[0], checks[-1]
    grown = (last["peak"] - first["peak"]) / max(1, last["bytes"] - first["bytes"])
    return {"memory growth / file growth": grown} | {
        f"join speed / exhaustive, {one['file']}": one["exhaustive"] / one["seconds"] for one in joins
    }


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    lines = [
        f"{result['machine']['chip']}, {result['machine']['cores']} cores",
        "",
        f"{'rows':>9}{'file MB':>10}{'seconds':>10}{'of CPU':>10}{'peak MB':>10}",
    ]
    for one in result["check"]:
        lines.append(
            f"{one['rows']:>9,}{one['bytes'] / 2**20:>10.0f}{one['seconds']:>10.1f}{one['cpu']:>10.1f}{one['peak'] / 2**20:>10.0f}"
        )
    lines += ["", f"{'file':<24}{'texts':>8}{'twins':>8}{'missed':>8}{'false':>8}"]
    lines += [f"{one['file']:<24}{one['texts']:>8,}{one['twins']:>8,}{one['missed']:>8}{one['false']:>8}" for one in result["join"]]
    return "\n".join([*lines, "", *(f"{name:<48}{value:>8.2f}" for name, value in result["ratio"].items())])


if __name__ == "__main__":
    main()
