"""One base and many adapters against ``mlx_lm.server``'s way, which loads the model again for another adapter.

    python benchmarks/adapters.py [--json] [--data FILE] [--swaps 50] [--loads 8] [--requests 32] [--max-tokens 48]

*swap* changes between five adapters of random weights, of different ranks, targets and kinds, and the base; after each swap scores are
compared with those of a model that was loaded for that adapter alone. *reload* is ``mlx_lm.server``'s own ``ModelProvider`` on the
4-bit model as a user gets it. *serving* asks ``mlxtune serve`` over HTTP, for three of the adapters in turn: one request at a time,
then all at once, each on a server of its own, and compares the answers. Every side is a process of its own. Progress goes to stderr,
the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import HERE, call, heading, where

from mlxtune.data.rows import Conversation
from mlxtune.data.source import read_file
from mlxtune.models import bundled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=HERE.parent / "data" / "samples" / "support.jsonl")
    parser.add_argument("--swaps", type=int, default=50, help="random swaps of ours")
    parser.add_argument("--loads", type=int, default=8, help="random reloads of the peer's")
    parser.add_argument("--requests", type=int, default=32, help="requests of the serving part")
    parser.add_argument("--max-tokens", type=int, default=48, help="the longest answer")
    asked = parser.parse_args()
    asks = [[message.as_dict() for message in row.prompt] for row in read_file(asked.data) if isinstance(row, Conversation)]
    asks = asks[: asked.requests]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "asks.jsonl"
        file.write_text("".join(json.dumps(ask) + "\n" for ask in asks))
        adapters = ["--model", str(bundled.ensure()), "--adapters", str(Path(folder) / "adapters")]
        found = {
            "swap": call("own_adapters.py", *adapters, "--swaps", str(asked.swaps), told="swap"),
            "reload": call("peer_adapters.py", *adapters, "--loads", str(asked.loads), told="reload"),
            "serving": call("own_serving.py", "--workspace", folder, "--asks", str(file), "--max-tokens", str(asked.max_tokens)),
        }
    result = {
        **where("mlx-lm"), "data": {"file": asked.data.name, "rows": len(asks)}, **found, "ratio": ratios(found),
    }  # fmt: skip
    print(json.dumps(result, indent=2) if asked.json else table(result))


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Above 1 is faster; for memory, the peer's largest to ours with every adapter loaded."""
    swap, reload, serving = found["swap"], found["reload"], found["serving"]
    return {
        "reload / swap, median": reload["median_s"] / swap["median_s"],
        "reload / first load of an adapter": reload["median_s"] / swap["first_load_s"],
        "requests/s, together / one at a time": serving["together"]["requests_per_s"] / serving["one_at_a_time"]["requests_per_s"],
    }


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    swap, reload, serving = result["swap"], result["reload"], result["serving"]
    lines = [
        heading(result), "", f"{'':<34}{'median ms':>12}{'slowest ms':>12}{'memory after, MB':>18}{'grown by, MB':>14}",
        _times(f"mlxtune, {swap['count']} swaps", swap), _times(f"mlx_lm.server, {reload['count']} reloads", reload),
        f"first load of an adapter: {swap['first_load_s'] * 1e3:.1f} ms; five adapters: {swap['adapter_bytes'] / 1e6:.1f} MB",
        f"exact: {swap['exact']} of {swap['count']} swaps", "", f"{'':<34}{'requests/s':>12}{'tokens/s':>12}{'seconds':>12}",
    ]  # fmt: skip
    for name, shown in (("one_at_a_time", "one request at a time"), ("together", f"{serving['requests']} at once, 3 adapters")):
        part = serving[name]
        lines.append(f"{shown:<34}{part['requests_per_s']:>12.2f}{part['tokens_per_s']:>12.1f}{part['seconds']:>12.1f}")
    lines.append(f"same answers: {serving['same']} of {serving['requests']}")
    return "\n".join([*lines, "", *(f"{name:<40}{value:>10.2f}" for name, value in result["ratio"].items())])


def _times(shown: str, part: dict[str, Any]) -> str:
    return (
        f"{shown:<34}{part['median_s'] * 1e3:>12.2f}{part['slowest_s'] * 1e3:>12.2f}{part['active_bytes'] / 1e6:>18.1f}"
        f"{part['grown_bytes'] / 1e6:>14.2f}"
    )


if __name__ == "__main__":
    main()
