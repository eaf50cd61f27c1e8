"""Metrics of the server in Prometheus's text format."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from mlxtune.serving.protocol import Done, Failed

_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)  # upper bounds in seconds


class Metrics:
    """Counts requests, answers and tokens. Every ``model`` is the base or an adapter."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"mlxtune_{name}", help, labels, registry=self._registry)

        def histogram(name: str, help: str) -> Histogram:
            return Histogram(f"mlxtune_{name}", help, buckets=_BUCKETS, registry=self._registry)

        self._requests = counter("http_requests_total", "HTTP responses.", "path", "status")
        self._answers = counter("answers_total", "Answers, by how they ended.", "model", "ended")
        self._prompt_tokens = counter("prompt_tokens_total", "Prompt tokens, including those from the cache.", "model")
        self._cached_tokens = counter("cached_prompt_tokens_total", "Prompt tokens from the cache of earlier prompts.", "model")
        self._generated_tokens = counter("generated_tokens_total", "Generated tokens.", "model")
        self._seconds = histogram("answer_seconds", "Time from a request to the end of its answer.")
        self._first_token_seconds = histogram("first_token_seconds", "Time from a request to its first token.")

    def add_gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        Gauge(f"mlxtune_{name}", help, registry=self._registry).set_function(value)

    def add_request(self, path: str, status: int) -> None:
        self._requests.labels(path, status).inc()

    def add_answer(self, model: str, event: Done | Failed) -> None:
        self._answers.labels(model, event.ended if isinstance(event, Done) else "failed").inc()
        if isinstance(event, Done):
            self._prompt_tokens.labels(model).inc(event.prompt_tokens)
            self._cached_tokens.labels(model).inc(event.cached)
            self._generated_tokens.labels(model).inc(event.tokens)
            self._seconds.observe(event.seconds)
            self._first_token_seconds.observe(event.waited + event.first)

    def render(self) -> bytes:
        return generate_latest(self._registry)
