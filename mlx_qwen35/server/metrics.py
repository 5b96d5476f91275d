"""What an operator watches, for Prometheus."""

import time
from collections.abc import AsyncIterator, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from mlx_qwen35 import Engine
from mlx_qwen35.server.generation import DeltaEvent, FinishEvent, StreamEvent

# Seconds: a small model's first token takes the least of them, a long prompt's the most.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class _Drafts(Collector):
    """What drafted tokens did, counted by the kit."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """Read whenever the metrics are."""
        found = self._engine.kit.speculation
        yield CounterMetricFamily("mlx_qwen35_decode_steps", "Tokens of answers, drafted ones aside.", found.steps)
        for name, text, counts in (
            ("drafted", "Tokens that were drafted, by their place in a step.", found.drafted),
            ("accepted", "Drafts that were right, by their place in a step.", found.accepted),
        ):
            family = CounterMetricFamily(f"mlx_qwen35_{name}_tokens", text, labels=["place"])
            for place, count in enumerate(counts, 1):
                family.add_metric([str(place)], count)
            yield family


class Metrics:
    """Counters, gauges and histograms of one server.

    Args:
        engine: Asked for its gauges whenever the metrics are read.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mlx_qwen35_requests", "Requests by route and status.", ["path", "status"], registry=self.registry
        )
        self.unused = Counter(
            "mlx_qwen35_unused_fields", "Fields of requests that changed nothing.", ["path", "field"],
            registry=self.registry,
        )  # fmt: skip
        self._prompt = Counter("mlx_qwen35_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self._cached = Counter(
            "mlx_qwen35_cached_tokens", "Tokens of prompts that came from the prefix cache.", registry=self.registry
        )
        self._written = Counter("mlx_qwen35_completion_tokens", "Tokens of answers.", registry=self.registry)
        self._finished = Counter(
            "mlx_qwen35_answers", "Answers by what ended them.", ["reason"], registry=self.registry
        )
        self._first = Histogram(
            "mlx_qwen35_time_to_first_token_seconds", "From the request to its first token.", registry=self.registry,
            buckets=_BUCKETS,
        )  # fmt: skip
        self._between = Histogram(
            "mlx_qwen35_time_per_token_seconds", "Mean time of the further tokens.", registry=self.registry,
            buckets=(0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28),
        )  # fmt: skip
        for name, text, read in (
            ("mlx_qwen35_requests_running", "Requests being read or answered.", lambda: engine.running),
            ("mlx_qwen35_requests_waiting", "Requests that wait in the queue.", lambda: engine.waiting),
            ("mlx_qwen35_prompt_cache_bytes", "Memory of the prefix cache.", lambda: engine.kit.prompt_cache.nbytes),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

        self.registry.register(_Drafts(engine))

    async def watch(self, events: AsyncIterator[StreamEvent]) -> AsyncIterator[StreamEvent]:
        """Pass the events of a request on, and count."""
        began, firsts = time.perf_counter(), {}
        try:
            async for event in events:
                now = time.perf_counter()
                if isinstance(event, DeltaEvent) and event.index not in firsts:
                    firsts[event.index] = now
                    self._first.observe(now - began)
                elif isinstance(event, FinishEvent):
                    usage = event.usage
                    self._prompt.inc(usage.prompt)
                    self._cached.inc(usage.cached)
                    self._written.inc(usage.completion)
                    self._finished.labels(event.reason).inc()
                    if event.index in firsts and usage.completion > 1:
                        self._between.observe((now - firsts[event.index]) / (usage.completion - 1))
                yield event
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
