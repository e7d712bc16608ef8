"""What a server measures, for Prometheus: names and units are vLLM's where they mean the same."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pastalm.runtime.response import Metrics

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5)
THREADS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
STEPS = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
TIMES = (0.8, 0.9, 1, 1.1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 8)


class Timer:
    """How long one request takes, and how many of its tokens have been seen; from when it is made."""

    def __init__(self, metrics: ServerMetrics) -> None:
        self.metrics, self.started, self.tokens = metrics, perf_counter(), 0
        self._last = self.started

    @property
    def seconds(self) -> float:
        """Since the request came."""
        return perf_counter() - self.started

    def see(self, tokens: int) -> None:
        """A step is over, after which the request has so many tokens."""
        new, now = tokens - self.tokens, perf_counter()
        if new <= 0:
            return
        if self.tokens == 0:
            self.metrics.time_to_first_token.observe(now - self.started)
        else:
            self.metrics.inter_token_latency.observe((now - self._last) / new)
        self.metrics.generation_tokens.inc(new)
        self.tokens, self._last = tokens, now


class ServerMetrics:
    """The metrics of one server. Everything carries the label ``model_name``."""

    def __init__(self, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self._name = model_name
        self._outcomes = self._make(
            Counter, "request_success", "Requests by how they ended.", extra=("finished_reason",)
        )
        self.prompt_tokens = self._counter("prompt_tokens", "Tokens of the prompts that were read.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens that were written, of all threads.")
        self.steps = self._counter("steps", "Steps of the model: forward passes over the running batch.")
        self.threads_per_step = self._histogram("threads_per_step", "Threads in a step, of all requests.", THREADS)
        self.critical_path = self._histogram("critical_path_steps", "Steps that an answer needs at the least.", STEPS)
        self.parallelism = self._histogram(
            "parallelism", "Tokens of an answer's text for each step of its critical path; 1 is sequential.", TIMES
        )
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From the request to its first token.", SECONDS
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds", "Seconds of a step for each token that it brought a request.", SHORT_SECONDS
        )
        self.latency = self._histogram("e2e_request_latency_seconds", "From the request to its whole answer.", SECONDS)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        self._make(Gauge, name, what).labels(self._name).set_function(value)

    def ended(self, reason: str) -> None:
        """A request has ended: "stop" or "length", or "abort" (its client left), "refused", "overloaded",
        "out_of_memory", "error"."""
        self._outcomes.labels(self._name, reason).inc()

    def answered(self, metrics: Metrics, prompt_tokens: int, reason: str, seconds: float) -> None:
        """A request has its whole answer, so many seconds after it came."""
        self.ended(reason)
        self.prompt_tokens.inc(prompt_tokens)
        self.critical_path.observe(metrics.critical_path)
        self.parallelism.observe(metrics.parallelism)
        self.latency.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, what: str) -> Counter:
        return self._make(Counter, name, what).labels(self._name)

    def _histogram(self, name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
        return self._make(Histogram, name, what, buckets=buckets).labels(self._name)

    def _make(self, kind: type[Any], name: str, what: str, *, extra: tuple[str, ...] = (), **more: Any) -> Any:
        return kind(f"pasta:{name}", what, ("model_name", *extra), registry=self.registry, **more)
