"""The serving part of adapters.py: ``mlxtune serve`` over HTTP, one request at a time and all at once; prints one JSON document."""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ADAPTERS = 3


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--workspace", type=Path, required=True, help="a folder with adapters/")
    parser.add_argument("--asks", type=Path, required=True, help="lines of messages")
    parser.add_argument("--max-tokens", type=int, required=True)
    asked = parser.parse_args()
    print(json.dumps(run(asked)))


def run(asked: argparse.Namespace) -> dict[str, Any]:
    """Both ways on a server of its own, so that neither finds prompts that the other has read."""
    asks = [json.loads(line) for line in asked.asks.read_text().splitlines()]
    alone, one = measure(asked, asks, 1)
    together, many = measure(asked, asks, len(asks))
    return {
        "requests": len(asks), "max_tokens": asked.max_tokens, "one_at_a_time": alone, "together": together,
        "same": sum(first == second for first, second in zip(one, many, strict=True)), "different_answers": len(set(one)),
    }  # fmt: skip


def measure(asked: argparse.Namespace, asks: list[Any], at_once: int) -> tuple[dict[str, Any], list[str]]:
    """Ask everything, ``at_once`` at a time, greedily; the figures, and the answers in the order of the questions."""
    with serving(asked.workspace, len(asks)) as told:
        models = told["models"][1 : ADAPTERS + 1]

        def ask(number: int) -> tuple[str, int]:
            body = {"model": models[number % len(models)], "messages": asks[number], "max_tokens": asked.max_tokens}
            request = urllib.request.Request(f"{told['url']}/chat/completions", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=3600) as reply:
                found = json.load(reply)
            return found["choices"][0]["message"]["content"], found["usage"]["completion_tokens"]

        for number in range(len(models)):  # each adapter is loaded, and the shared system prompt read, before the clock starts
            ask(number)
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            found = list(pool.map(ask, range(len(asks))))
        seconds = time.perf_counter() - start
    tokens = sum(count for _, count in found)
    figures = {"seconds": seconds, "requests_per_s": len(asks) / seconds, "tokens": tokens, "tokens_per_s": tokens / seconds}
    return figures, [text for text, _ in found]


@contextmanager
def serving(workspace: Path, slots: int) -> Iterator[dict[str, Any]]:
    """A server on a free port, and what it says of itself."""
    command = [sys.executable, "-m", "mlxtune", "serve", "--port", "0", "--slots", str(slots), "--beside", "--json"]
    with subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line == "}\n":
                break
        try:
            yield json.loads("".join(lines))
        finally:
            server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
