"""The latency of a request for one token alone, and beside each of ten hostile requests: at most twice as long.

    python benchmarks/hostile.py [--json] [--rounds 15] [--model smollm2-135m]

Each round sends a small request alone, then a hostile one and, while that is being read, the small one again, and finally the small one
alone. So that the load of the machine cancels out, the ratio is the median over the rounds of the latency beside the hostile request to the
mean of the two others, with a 95% interval from its order statistics. A hostile request must be refused as the client's error, or answered.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import environment
from own_serving import serving
from scipy.stats import binom

CHAT, TEXT, EMBED = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
LENGTH = 3_900_000  # characters, just below the limit for a body


def hostile_requests(model: str) -> dict[str, tuple[str, bytes]]:
    """Return the path and the body of each hostile request by name."""

    def chat(**parameters: Any) -> tuple[str, bytes]:
        body = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]} | parameters
        return CHAT, json.dumps(body).encode()

    def repeated(item: Any) -> list[Any]:
        return [item] * (LENGTH // (len(json.dumps(item)) + 2))

    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    deep: Any = {}
    for _ in range(900):
        deep = {"a": deep}
    return {
        "long message": chat(messages=[{"role": "user", "content": "word " * (LENGTH // 5)}]),
        "many messages": chat(messages=repeated({"role": "user", "content": "a"})),
        "long model name": chat(model="x" * LENGTH),
        "long parameter name": chat(**{"x" * LENGTH: 1}),
        "deep body": (CHAT, b"[" * (LENGTH // 2) + b"]" * (LENGTH // 2)),
        "wide body": (CHAT, b"[" + b"[]," * (LENGTH // 3 - 1) + b"[]]"),
        "deep schema": chat(response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": deep}}),
        "many tools": chat(tools=repeated(tool)),
        "many token IDs": (TEXT, json.dumps({"model": model, "max_tokens": 1, "prompt": repeated(1)}).encode()),
        "many texts to embed": (EMBED, json.dumps({"model": model, "input": repeated("a")}).encode()),
    }


class Prober:
    """Sends requests to the server at ``url``."""

    def __init__(self, url: str, model: str) -> None:
        self.address = urlsplit(url)
        message = {"role": "user", "content": "Where is my parcel?"}
        self.small = json.dumps({"model": model, "max_tokens": 1, "messages": [message]}).encode()

    def post(self, path: str, body: bytes) -> int:
        line = http.client.HTTPConnection(self.address.hostname or "", self.address.port or 0, timeout=600)
        try:
            line.request("POST", path, body, {"Content-Type": "application/json"})
            reply = line.getresponse()
            reply.read()
            return reply.status
        finally:
            line.close()

    def seconds(self) -> float:
        """Return the latency of a small request."""
        start = time.perf_counter()
        status = self.post(CHAT, self.small)
        if status != 200:
            raise RuntimeError(f"The small request got status {status}.")
        return time.perf_counter() - start

    def compare(self, path: str, body: bytes, rounds: int) -> dict[str, Any]:
        """Return the latencies of small requests, alone and beside ``body``, which is sent a random moment earlier."""
        alone, beside, statuses = [], [], set()
        for number in range(rounds):
            before = self.seconds()
            thread = threading.Thread(target=lambda: statuses.add(self.post(path, body)))
            thread.start()
            time.sleep(random.Random(number).uniform(0, 0.1))
            beside.append(self.seconds())
            thread.join()
            alone.append((before + self.seconds()) / 2)
        ratios = sorted(one / two for one, two in zip(beside, alone, strict=True))
        first = int(binom.ppf(0.025, rounds, 0.5))
        tenths = [statistics.quantiles(seconds, n=10, method="inclusive")[8] * 1000 for seconds in (alone, beside)]
        return {
            "status": sorted(statuses), "alone_ms": statistics.median(alone) * 1000, "beside_ms": statistics.median(beside) * 1000,
            "ratio": statistics.median(ratios), "low": ratios[first], "high": ratios[rounds - 1 - first], "slowest_tenth_ms": tenths,
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), 8, options.model) as info:
        prober = Prober(info["url"], info["base"])
        for _ in range(5):  # until the prompt is cached
            prober.seconds()
        results: dict[str, Any] = {}
        for name, (path, body) in hostile_requests(info["base"]).items():
            results[name] = prober.compare(path, body, options.rounds)
            print(line(name, results[name]), file=sys.stderr if options.json else sys.stdout, flush=True)
    if options.json:
        print(json.dumps({**environment(), "rounds": options.rounds, "requests": results}, indent=2))


def line(name: str, result: dict[str, Any]) -> str:
    tenths = " → ".join(f"{milliseconds:5.0f}" for milliseconds in result["slowest_tenth_ms"])
    return (
        f"{name:20} {'/'.join(map(str, result['status']))}: {result['alone_ms']:5.0f} → {result['beside_ms']:5.0f} ms, "
        f"× {result['ratio']:.2f} ({result['low']:.2f} to {result['high']:.2f}); slowest tenth {tenths} ms"
    )


if __name__ == "__main__":
    main()
