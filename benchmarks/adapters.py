"""One base with many adapters, against ``mlx_lm.server``, which reloads the model for another adapter.

    python benchmarks/adapters.py [--json] [--data FILE] [--swaps 50] [--loads 8] [--requests 32] [--max-tokens 48]

*swap* switches between the base and five adapters with random weights and different ranks, targets and kinds; after each swap,
logits are compared with those of a model loaded for that adapter alone. *reload* is ``mlx_lm.server``'s ``ModelProvider`` with the
4-bit model. *serving* sends requests to ``mlxtune serve`` over HTTP, for three of the adapters in turn: sequentially, then
concurrently, each with its own server, and compares the answers. Each side runs in its own process. Progress goes to stderr, the
result to stdout.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from common import FOLDER, call, environment, heading, read_prompts

from mlxtune.models import bundled
from mlxtune.models.bundled import install


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--data", type=Path, default=FOLDER.parent / "data" / "samples" / "support.jsonl")
    parser.add_argument("--swaps", type=int, default=50, help="random swaps of mlxtune")
    parser.add_argument("--loads", type=int, default=8, help="random reloads of mlx_lm.server")
    parser.add_argument("--requests", type=int, default=32, help="requests to mlxtune serve")
    parser.add_argument("--max-tokens", type=int, default=48, help="maximum answer length in tokens")
    options = parser.parse_args()
    conversations = read_prompts(options.data, options.requests)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompts.jsonl"
        file.write_text("".join(json.dumps(messages) + "\n" for messages in conversations))
        adapters = ["--model", str(install.ensure(bundled.DEFAULT)), "--adapters", str(Path(folder) / "adapters")]
        measurements = {
            "swap": call("own_adapters.py", *adapters, "--swaps", str(options.swaps), note="swap"),
            "reload": call("peer_adapters.py", *adapters, "--loads", str(options.loads), note="reload"),
            "serving": call(
                "own_serving.py", "--workspace", folder, "--prompts", str(file), "--max-tokens", str(options.max_tokens)
            ),
        }
    result = {
        **environment("mlx-lm"), "data": {"file": options.data.name, "rows": len(conversations)}, **measurements, "ratio": ratios(measurements),
    }  # fmt: skip
    print(json.dumps(result, indent=2) if options.json else table(result))


def ratios(measurements: dict[str, Any]) -> dict[str, float]:
    """Return speedups (above 1 is faster); for memory, the peer's maximum relative to ours with every adapter loaded."""
    swap, reload, serving = measurements["swap"], measurements["reload"], measurements["serving"]
    return {
        "reload / swap, median": reload["median_s"] / swap["median_s"],
        "reload / first load of an adapter": reload["median_s"] / swap["first_load_s"],
        "requests/s, concurrent / sequential": serving["concurrent"]["requests_per_s"] / serving["sequential"]["requests_per_s"],
    }


def table(result: dict[str, Any]) -> str:
    """Print the result as text."""
    swap, reload, serving = result["swap"], result["reload"], result["serving"]
    lines = [
        heading(result), "", f"{'':<34}{'median ms':>12}{'slowest ms':>12}{'memory after, MB':>18}{'growth, MB':>14}",
        _times(f"mlxtune, {swap['count']} swaps", swap), _times(f"mlx_lm.server, {reload['count']} reloads", reload),
        f"first load of an adapter: {swap['first_load_s'] * 1e3:.1f} ms; five adapters: {swap['adapter_bytes'] / 1e6:.1f} MB",
        f"exact: {swap['exact']} of {swap['count']} swaps", "", f"{'':<34}{'requests/s':>12}{'tokens/s':>12}{'seconds':>12}",
    ]  # fmt: skip
    for name, label in (("sequential", "sequential requests"), ("concurrent", f"{serving['requests']} concurrent, 3 adapters")):
        part = serving[name]
        lines.append(f"{label:<34}{part['requests_per_s']:>12.2f}{part['tokens_per_s']:>12.1f}{part['seconds']:>12.1f}")
    lines.append(f"equal answers: {serving['equal']} of {serving['requests']}")
    return "\n".join([*lines, "", *(f"{name:<40}{value:>10.2f}" for name, value in result["ratio"].items())])


def _times(label: str, part: dict[str, Any]) -> str:
    return (
        f"{label:<34}{part['median_s'] * 1e3:>12.2f}{part['slowest_s'] * 1e3:>12.2f}{part['active_bytes'] / 1e6:>18.1f}"
        f"{part['grown_bytes'] / 1e6:>14.2f}"
    )


if __name__ == "__main__":
    main()
