"""The serving part of adapters.py: ``mlxtune serve`` over HTTP, sequential and concurrent. Prints a JSON document."""

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
    parser.add_argument("--prompts", type=Path, required=True, help="lines of messages")
    parser.add_argument("--max-tokens", type=int, required=True)
    options = parser.parse_args()
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure sequential and concurrent requests, each with its own server, so that they do not share a prompt cache."""
    conversations = [json.loads(line) for line in options.prompts.read_text().splitlines()]
    sequential, first_answers = measure(options, conversations, 1)
    parallel, second_answers = measure(options, conversations, len(conversations))
    return {
        "requests": len(conversations), "max_tokens": options.max_tokens, "sequential": sequential, "concurrent": parallel,
        "equal": sum(first == second for first, second in zip(first_answers, second_answers, strict=True)),
        "distinct_answers": len(set(first_answers)),
    }  # fmt: skip


def measure(options: argparse.Namespace, conversations: list[Any], concurrency: int) -> tuple[dict[str, Any], list[str]]:
    """Send all requests, ``concurrency`` at a time, greedily. Return figures, and answers in the order of the requests."""
    with serving(options.workspace, len(conversations)) as info:
        models = info["models"][1 : ADAPTERS + 1]

        def answer(number: int) -> tuple[str, int]:
            body = {"model": models[number % len(models)], "messages": conversations[number], "max_tokens": options.max_tokens}
            request = urllib.request.Request(f"{info['url']}/chat/completions", json.dumps(body).encode())
            with urllib.request.urlopen(request, timeout=3600) as reply:
                document = json.load(reply)
            return document["choices"][0]["message"]["content"], document["usage"]["completion_tokens"]

        for number in range(len(models)):  # load each adapter and prefill the shared system prompt before the measurement
            answer(number)
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(concurrency) as pool:
            answers = list(pool.map(answer, range(len(conversations))))
        seconds = time.perf_counter() - start
    tokens = sum(count for _, count in answers)
    figures = {
        "seconds": seconds,
        "requests_per_s": len(conversations) / seconds,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
    }
    return figures, [text for text, _ in answers]


@contextmanager
def serving(workspace: Path, slots: int, model: str = "") -> Iterator[dict[str, Any]]:
    """Start a server on a free port, and yield the document that it prints and its process ID as ``pid``."""
    options = ["--port", "0", "--slots", str(slots), "--share-accelerator", "--json"]
    command = [sys.executable, "-m", "mlxtune", "serve", *([model] if model else []), *options]
    with subprocess.Popen(command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        lines = []
        for line in server.stdout:
            lines.append(line)
            if line == "}\n":
                break
        try:
            yield json.loads("".join(lines)) | {"pid": server.pid}
        finally:
            server.send_signal(signal.SIGINT)


if __name__ == "__main__":
    main()
