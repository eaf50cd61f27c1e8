"""Free buffers that MLX keeps at several limits, against the time of a training step: the basis of ``CACHE_LIMIT``.

    python benchmarks/cache_limit.py [--json] [--rows 120] [--epochs 2] [--limits 16,64,256,1024,8192]

The compiled 16-bit path trains a small model with the layers of a 3B Llama on rows of log-normal lengths, once per limit (MiB), each time in
its own process. Compare the limits with the *working* memory of a step, because a limit beyond it only retains memory. CPU time is given
because it does not depend on what else the machine does. On a CPU, a new buffer costs page faults; on Metal, it is a driver call and, in a
wired model, wiring, so this cannot tell how much a limit that is too small costs there. What is retained is the same on every backend,
because the allocators share their cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import call, environment, heading
from native import MODELS, build, write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--rows", type=int, default=120)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limits", default="16,64,256,1024,8192", help="limits in MiB")
    options = parser.parse_args()
    lines = {}
    with tempfile.TemporaryDirectory() as scratch:
        file = write_rows(Path(scratch) / "rows.jsonl", options.rows)
        arguments = ["--model", str(build(MODELS["3B"], Path(scratch) / "3B")), "--train", str(file), "--shapes", "padded"]
        for limit in map(int, options.limits.split(",")):
            arguments_at_limit = [*arguments, "--epochs", str(options.epochs), "--cache-limit", str(limit)]
            lines[limit] = call("own_native.py", *arguments_at_limit, note=f"{limit} MiB")
    data = {"file": "random words, log-normal lengths", "rows": options.rows}
    result = {**environment(), "data": data, "lines": lines}
    print(json.dumps(result, indent=2) if options.json else table(result))


def table(result: dict[str, Any]) -> str:
    text = [heading(result), "limit MiB  CPU s/step  free buffers MiB  working MiB  largest footprint MiB"]
    for limit, line in result["lines"].items():
        sizes = (line["free_buffers"], line["peak"] - line["rest"], line["largest_footprint"])
        free, working, footprint = (size / 2**20 for size in sizes)
        text.append(f"{limit:9,}  {line['cpu_seconds_per_step']:10.3f}  {free:16,.0f}  {working:11,.0f}  {footprint:21,.0f}")
    return "\n".join(text)


if __name__ == "__main__":
    main()
