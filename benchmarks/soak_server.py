"""A load test of ``mlxtune serve``: many clients, every endpoint, for minutes. Memory, descriptors, and threads must stay flat.

    python benchmarks/soak_server.py [--json] [--minutes 10] [--clients 32] [--slots 8] [--model smollm2-135m] [--max-tokens 16]

Each client sends random requests: chats (whole, streamed, or abandoned in the middle), raw completions, responses, embeddings, and invalid
ones. Chats continue with a second turn. The resources of the server and of its model process are sampled during the run, and the medians of
its second quarter and of its last quarter are compared. Linux only, because it reads ``/proc``.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from common import environment
from own_serving import serving

SAMPLES = 40  # of the resources, over the whole run
QUESTIONS = ("Where is my parcel?", "The tent leaks. What now?", "How do I return a stove?", "Do you have sleeping bags?")


class Load:
    """What the clients of the server at ``url`` did."""

    def __init__(self, url: str, model: str, max_tokens: int, pause: float = 0.0) -> None:
        self.address, self.model, self.max_tokens, self.pause = urlsplit(url), model, max_tokens, pause
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.requests: Counter[str] = Counter()
        self.unexpected: Counter[str] = Counter()
        self.seconds: list[float] = []  # of whole answers
        self.tokens = 0

    def client(self, seed: int) -> None:
        """Send requests until :attr:`stopped` is set, with ``pause`` seconds between them."""
        chance = random.Random(seed)
        while not self.stopped.wait(self.pause):
            kind = chance.choice(("chat", "chat", "stream", "abandoned", "completion", "response", "embedding", "invalid"))
            try:
                self.send(kind, chance)
            except Exception as error:
                with self.lock:
                    self.unexpected[f"{kind}: {error!r}"[:200]] += 1
                time.sleep(0.1)

    def send(self, kind: str, chance: random.Random) -> None:
        messages = [{"role": "user", "content": chance.choice(QUESTIONS) + " please" * chance.randrange(40)}]
        common = {"model": self.model, "max_tokens": self.max_tokens}
        if kind in ("chat", "stream", "abandoned"):
            body = {**common, "messages": messages, "stream": kind != "chat"}
            body |= {"max_tokens": 500} if kind == "abandoned" else {}
            answer = self.post("/v1/chat/completions", body, kind)
            if kind == "chat" and answer:
                text = answer["choices"][0]["message"]["content"]
                turns = [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
                self.post("/v1/chat/completions", {**common, "messages": turns}, "second turn")
        elif kind == "completion":
            self.post("/v1/completions", {**common, "prompt": "Once" + " upon" * chance.randrange(40)}, kind)
        elif kind == "response":
            body = {"model": self.model, "max_output_tokens": self.max_tokens, "input": messages}
            self.post("/v1/responses", body, kind)
        elif kind == "embedding":
            texts = [chance.choice(QUESTIONS) for _ in range(chance.randrange(1, 8))]
            self.post("/v1/embeddings", {"model": self.model, "input": texts}, kind)
        else:
            self.post("/v1/chat/completions", {**common, "messages": messages, "n": 2}, kind)

    def post(self, path: str, body: dict[str, Any], kind: str) -> dict[str, Any] | None:
        """Send a request, count it, and return the document of a whole answer."""
        start = time.perf_counter()
        line = http.client.HTTPConnection(self.address.hostname or "", self.address.port or 0, timeout=600)
        try:
            line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            reply = line.getresponse()
            text = b"" if kind == "abandoned" else reply.read()
        finally:
            line.close()
        expected = 400 if kind == "invalid" else 200
        document = json.loads(text) if text.startswith(b"{") else None
        with self.lock:
            self.requests[kind] += 1
            if reply.status != expected:
                self.unexpected[f"{kind}: status {reply.status}"] += 1
            elif kind not in ("abandoned", "invalid", "embedding"):
                self.seconds.append(time.perf_counter() - start)
                usage = (document or {}).get("usage", {})
                self.tokens += usage.get("completion_tokens", usage.get("output_tokens", 0))
        return document if reply.status == expected else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--max-tokens", type=int, default=16)
    options = parser.parse_args()
    if not Path("/proc").is_dir():
        sys.exit("This script reads /proc, which this system does not have.")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), options.slots, options.model) as info:
        load = Load(info["url"], info["base"], options.max_tokens)
        clients = [threading.Thread(target=load.client, args=(seed,)) for seed in range(options.clients)]
        for client in clients:
            client.start()
        processes = {"server": info["pid"], "model": child_of(info["pid"])}
        samples: list[dict[str, int]] = []
        for _ in range(SAMPLES):
            time.sleep(options.minutes * 60 / SAMPLES)
            samples.append({f"{name} {key}": value for name, id in processes.items() for key, value in resources(id).items()})
        load.stopped.set()
        for client in clients:
            client.join()
    result = {
        **environment(),
        "minutes": options.minutes,
        "clients": options.clients,
        "slots": options.slots,
        **figures(load, samples),
    }
    print(json.dumps(result, indent=2) if options.json else lines(result))


def figures(load: Load, samples: list[dict[str, int]]) -> dict[str, Any]:
    quarter = len(samples) // 4
    growth = {
        key: [
            int(statistics.median(sample[key] for sample in part)) for part in (samples[quarter : 2 * quarter], samples[-quarter:])
        ]
        for key in samples[0]
    }
    cuts = statistics.quantiles(load.seconds, n=20, method="inclusive")
    return {
        "requests": dict(load.requests), "unexpected": dict(load.unexpected), "generated_tokens": load.tokens,
        "latency_s": {"p50": cuts[9], "p95": cuts[18]}, "second_and_last_quarter": growth,
    }  # fmt: skip


def lines(result: dict[str, Any]) -> str:
    total, unexpected = sum(result["requests"].values()), sum(result["unexpected"].values())
    latency = result["latency_s"]
    texts = [
        f"{total:,} requests of {result['clients']} clients in {result['minutes']:g} minutes; {unexpected} unexpected replies",
        f"latency of an answer: p50 {latency['p50']:.2f} s, p95 {latency['p95']:.2f} s",
        *(f"{key}: {first:,} → {last:,}" for key, (first, last) in result["second_and_last_quarter"].items()),
        *(f"{count} × {what}" for what, count in result["unexpected"].items()),
    ]
    return "\n".join(texts)


def child_of(pid: int) -> int:
    """Return the model process of the server ``pid``."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def resources(pid: int) -> dict[str, int]:
    """Return the memory in KiB, and the numbers of open descriptors and threads, of the process ``pid``."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return {"memory, KiB": int(status["VmRSS"].split()[0]), "descriptors": descriptors, "threads": int(status["Threads"])}


if __name__ == "__main__":
    main()
