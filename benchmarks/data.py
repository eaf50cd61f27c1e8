"""``data check``: time, memory, and exactness of near-duplicates.

    python benchmarks/data.py [--json] [--rows 10000 100000] [--data FILE …]

Rows are synthetic: one system prompt, questions and answers of random words, every tenth question a near-duplicate of another. Each
size runs in its own process. *Exhaustive* compares every pair of a file's prompts. Progress goes to stderr, the
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

from mlxtune.data import duplicates
from mlxtune.data.rows import prompt_text
from mlxtune.data.source import read_file
from mlxtune.planning.machine import this_machine

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"
SYSTEM = "You are the support desk of an outdoor shop. " * 12
CHILD = """
import json, resource, sys, time
from pathlib import Path
from mlxtune.data.checks.run import check
start = time.perf_counter()
report = check(Path(sys.argv[1]))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
repeats = sum(finding.check in ("near-duplicate", "duplicate", "conflict") for finding in report.findings)
print(json.dumps({"seconds": time.perf_counter() - start, "cpu": time.process_time(), "peak": peak, "groups": report.statistics.groups, "repeats": repeats}))
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
        "machine": {"chip": this_machine().chip, "cores": this_machine().cores, "system": this_machine().system},
        "versions": {name: importlib.metadata.version(name) for name in ("numpy", "mlxtune")},
        "check": checks, "join": joins, "ratio": ratios(checks, joins),
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else table(result))


def measure(file: Path, count: int) -> dict[str, Any]:
    """Run ``data check`` on ``count`` synthetic rows: wall and CPU seconds, bytes of the file and at the peak, and findings."""
    print(f"· {count:,} rows", file=sys.stderr, flush=True)
    write(file, count)
    process = subprocess.run([sys.executable, "-c", CHILD, str(file)], stdout=subprocess.PIPE, text=True, check=True)
    return {"rows": count, "bytes": file.stat().st_size, **json.loads(process.stdout)}


def write(file: Path, count: int) -> None:
    """Write rows of random sentences with a natural word distribution; every tenth is another one with one word changed."""
    rng = random.Random(count)
    letters = "etaoinshrdlcumwfgypbvk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    random_words = iter(rng.choices(words, weights, k=count * 72))
    questions: list[list[str]] = []
    with file.open("w") as out:
        for index in range(count):
            question = [next(random_words) for _ in range(28)]
            if index % 10 == 9:
                question = list(rng.choice(questions))
                question[rng.randrange(len(question))] = next(random_words)
            questions.append(question)
            answer = " ".join(next(random_words) for _ in range(42))
            turns = [("system", SYSTEM), ("user", " ".join(question) + "?"), ("assistant", answer + ".")]
            out.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")


def join(file: Path) -> dict[str, Any]:
    """Compare the near-duplicates among ``file``'s prompts with those from comparing all pairs."""
    print(f"· {file.name}, exhaustively", file=sys.stderr, flush=True)
    texts = [prompt_text(row) for row in read_file(file)]
    start = time.perf_counter()
    links = duplicates.links(texts)
    own, start = time.perf_counter() - start, time.perf_counter()
    all_pairs = exhaustive(texts)
    peer = time.perf_counter() - start
    labels, expected = duplicates.components(len(texts), links), {(i, j) for i, j, _ in all_pairs}
    return {
        "file": file.name, "texts": len(texts), "duplicates": len(expected), "missed": sum(labels[i] != labels[j] for i, j in expected),
        "false": len({(i, j) for i, j, _ in links} - expected),
        "seconds": own, "exhaustive": peer,
    }  # fmt: skip


def exhaustive(texts: Sequence[str], threshold: float = 0.8) -> list[duplicates.Pair]:
    """Return every pair of ``texts`` whose 5-character sets have a similarity of ``threshold``, by comparing all pairs."""
    folded = [" ".join(text.casefold().split()) for text in texts]
    sets = [{text[index : index + 5] for index in range(max(1, len(text) - 4))} for text in folded]
    matches = []
    for i, j in combinations(range(len(sets)), 2):
        shared = len(sets[i] & sets[j])
        similarity = shared / (len(sets[i]) + len(sets[j]) - shared)
        if similarity >= threshold:
            matches.append((i, j, similarity))
    return matches


def ratios(checks: Sequence[dict[str, Any]], joins: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return memory growth relative to file growth (below 1 is bounded), and the speedup over the exhaustive join."""
    first, last = checks[0], checks[-1]
    memory_growth = (last["peak"] - first["peak"]) / max(1, last["bytes"] - first["bytes"])
    return {"memory growth / file growth": memory_growth} | {
        f"join speed / exhaustive, {item['file']}": item["exhaustive"] / item["seconds"] for item in joins
    }


def table(result: dict[str, Any]) -> str:
    """Print the result as text."""
    lines = [
        f"{result['machine']['chip']}, {result['machine']['cores']} cores",
        "",
        f"{'rows':>9}{'file MB':>10}{'seconds':>10}{'CPU s':>10}{'peak MB':>10}",
    ]
    for item in result["check"]:
        lines.append(
            f"{item['rows']:>9,}{item['bytes'] / 2**20:>10.0f}{item['seconds']:>10.1f}{item['cpu']:>10.1f}{item['peak'] / 2**20:>10.0f}"
        )
    lines += ["", f"{'file':<24}{'texts':>8}{'dups':>8}{'missed':>8}{'false':>8}"]
    lines += [
        f"{item['file']:<24}{item['texts']:>8,}{item['duplicates']:>8,}{item['missed']:>8}{item['false']:>8}"
        for item in result["join"]
    ]
    return "\n".join([*lines, "", *(f"{name:<48}{value:>8.2f}" for name, value in result["ratio"].items())])


if __name__ == "__main__":
    main()
