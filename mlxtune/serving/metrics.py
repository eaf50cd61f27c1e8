"""Metrics of the server in Prometheus's text format (https://prometheus.io/docs/instrumenting/exposition_formats).

A handful of counters does not justify a dependency on prometheus_client.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from mlxtune.serving.protocol import Done, Failed

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # upper bounds in seconds

Labels = tuple[tuple[str, str], ...]


class Histogram:
    """Durations in seconds, counted in cumulative buckets."""

    def __init__(self) -> None:
        self._buckets = [0] * len(_BUCKETS)
        self._count, self._sum = 0, 0.0

    def add(self, seconds: float) -> None:
        self._count += 1
        self._sum += seconds
        for index, bound in enumerate(_BUCKETS):
            self._buckets[index] += seconds <= bound

    def samples(self, name: str) -> Iterator[str]:
        for bound, count in zip((*map(str, _BUCKETS), "+Inf"), (*self._buckets, self._count), strict=True):
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f"{name}_sum {self._sum:.6f}"
        yield f"{name}_count {self._count}"


class Metrics:
    """Counts requests, answers and tokens. Every ``model`` is the base or an adapter."""

    def __init__(self) -> None:
        self._requests: Counter[Labels] = Counter()
        self._answers: Counter[Labels] = Counter()
        self._prompt_tokens: Counter[Labels] = Counter()
        self._cached_tokens: Counter[Labels] = Counter()
        self._generated_tokens: Counter[Labels] = Counter()
        self._seconds, self._first_token_seconds = Histogram(), Histogram()

    def add_request(self, path: str, status: int) -> None:
        self._requests[("path", path), ("status", str(status))] += 1

    def add_answer(self, model: str, event: Done | Failed) -> None:
        labels = (("model", model),)
        self._answers[*labels, ("ended", event.ended if isinstance(event, Done) else "failed")] += 1
        if isinstance(event, Done):
            self._prompt_tokens[labels] += event.prompt_tokens
            self._cached_tokens[labels] += event.cached
            self._generated_tokens[labels] += event.tokens
            self._seconds.add(event.seconds)
            self._first_token_seconds.add(event.waited + event.first)

    def render(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Return the text. ``gauges`` maps names to their help and current value."""
        lines: list[str] = []

        def add(name: str, kind: str, help: str, samples: Iterable[str]) -> None:
            lines.extend((f"# HELP mlxtune_{name} {help}", f"# TYPE mlxtune_{name} {kind}", *samples))

        for name, help, counter in (
            ("http_requests_total", "HTTP responses.", self._requests),
            ("answers_total", "Answers, by how they ended.", self._answers),
            ("prompt_tokens_total", "Prompt tokens, including those from the cache.", self._prompt_tokens),
            ("cached_prompt_tokens_total", "Prompt tokens from the cache of earlier prompts.", self._cached_tokens),
            ("generated_tokens_total", "Generated tokens.", self._generated_tokens),
        ):
            add(name, "counter", help, (f"mlxtune_{name}{_labels(key)} {count}" for key, count in sorted(counter.items())))
        for name, help, histogram in (
            ("answer_seconds", "Time from a request to the end of its answer.", self._seconds),
            ("first_token_seconds", "Time from a request to its first token.", self._first_token_seconds),
        ):
            add(name, "histogram", help, histogram.samples(f"mlxtune_{name}"))
        for name, (help, value) in gauges.items():
            add(name, "gauge", help, [f"mlxtune_{name} {value:g}"])
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    return "{" + ",".join(f'{name}="{value.translate(escapes)}"' for name, value in labels) + "}"
