"""What an operator watches, in Prometheus' form."""

import time
from collections.abc import AsyncIterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.server.exchange import Delta, Finished, Reply

# Seconds from a small model's first token to a long prompt's.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server; names follow those of other model servers."""

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "mlx_qwen35_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self._prompt = Counter("mlx_qwen35_prompt_tokens", "Tokens of prompts.", registry=self.registry)
        self._cached = Counter("mlx_qwen35_cached_tokens", "Tokens of prompts not read again.", registry=self.registry)
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
            ("mlx_qwen35_requests_waiting", "Requests whose turn has not come.", lambda: engine.waiting),
            ("mlx_qwen35_prompt_cache_bytes", "Memory for what was read.", lambda: engine.kit.prompt_cache.nbytes),
        ):
            Gauge(name, text, registry=self.registry).set_function(read)

    async def watch(self, replies: AsyncIterator[Reply]) -> AsyncIterator[Reply]:
        """Pass replies on, and count."""
        began, firsts = time.perf_counter(), {}
        try:
            async for reply in replies:
                now = time.perf_counter()
                if isinstance(reply, Delta) and reply.index not in firsts:
                    firsts[reply.index] = now
                    self._first.observe(now - began)
                elif isinstance(reply, Finished):
                    usage = reply.usage
                    self._prompt.inc(usage.prompt)
                    self._cached.inc(usage.cached)
                    self._written.inc(usage.completion)
                    self._finished.labels(reply.reason).inc()
                    if reply.index in firsts and usage.completion > 1:
                        self._between.observe((now - firsts[reply.index]) / (usage.completion - 1))
                yield reply
        finally:
            await replies.aclose()  # type: ignore[attr-defined]

    def text(self) -> bytes:
        """The page that Prometheus reads."""
        return generate_latest(self.registry)
