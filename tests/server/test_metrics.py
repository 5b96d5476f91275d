"""What is counted of requests, by a clock that only the test moves."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlx_qwen35.server import metrics as metrics_module
from mlx_qwen35.server.generation import StreamEvent, Usage
from mlx_qwen35.server.metrics import Metrics
from tests.server.protocols.events import called, delta, finish, progress

DRAFTS = SimpleNamespace(steps=7, drafted=[5, 4], accepted=[3, 1])
ENGINE: Any = SimpleNamespace(
    running=2, waiting=3, kit=SimpleNamespace(prompt_cache=SimpleNamespace(nbytes=1000), speculation=DRAFTS)
)  # fmt: skip


def samples(metrics: Metrics) -> dict[str, float]:
    """Every number by its name and labels, without the time at which it was made."""
    return {
        f"{sample.name}{sample.labels or ''}": sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class Source:
    """Events of one request, each after so many seconds."""

    def __init__(self, clock: SimpleNamespace, *events: tuple[float, StreamEvent | BaseException]) -> None:
        self.clock, self.events, self.closed = clock, events, False

    async def iterate(self) -> AsyncIterator[StreamEvent]:
        try:
            for seconds, event in self.events:
                self.clock.now += seconds
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            self.closed = True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    found = SimpleNamespace(now=50.0)
    monkeypatch.setattr(metrics_module, "time", SimpleNamespace(perf_counter=lambda: found.now))
    return found


def watched(metrics: Metrics, source: Source) -> list[StreamEvent]:
    async def run() -> list[StreamEvent]:
        return [event async for event in metrics.watch(source.iterate())]

    return asyncio.run(run())


def test_what_the_engine_says_now() -> None:
    found = samples(Metrics(ENGINE))
    assert found["mlx_qwen35_requests_running"] == 2
    assert found["mlx_qwen35_requests_waiting"] == 3
    assert found["mlx_qwen35_prompt_cache_bytes"] == 1000


def test_tokens_times_and_ends_of_the_answers_of_a_request(clock: SimpleNamespace) -> None:
    """One answer of five tokens, the first after 3 seconds, the others one a second; and one of a single token."""
    metrics = Metrics(ENGINE)
    source = Source(
        clock, (1, progress(0)), (2, delta("a")), (1, delta("b")), (1, delta("c", index=1)),
        (0, finish("length", Usage(11, 10, 1), index=1)), (2, called()), (0, finish("tool_calls", Usage(11, 4, 5, 2))),
    )  # fmt: skip
    assert watched(metrics, source) == [event for _, event in source.events]
    found = samples(metrics)
    assert found["mlx_qwen35_prompt_tokens_total"] == 22
    assert found["mlx_qwen35_cached_tokens_total"] == 14
    assert found["mlx_qwen35_completion_tokens_total"] == 6
    assert found["mlx_qwen35_answers_total{'reason': 'length'}"] == 1
    assert found["mlx_qwen35_answers_total{'reason': 'tool_calls'}"] == 1
    assert found["mlx_qwen35_time_to_first_token_seconds_count"] == 2
    assert found["mlx_qwen35_time_to_first_token_seconds_sum"] == 3 + 5
    # A single token has no time from one to the next.
    assert found["mlx_qwen35_time_per_token_seconds_count"] == 1
    assert found["mlx_qwen35_time_per_token_seconds_sum"] == 1.0


def test_an_answer_without_a_word_has_no_times(clock: SimpleNamespace) -> None:
    metrics = Metrics(ENGINE)
    watched(metrics, Source(clock, (1, finish(usage=Usage(11, 0, 3)))))
    found = samples(metrics)
    assert found["mlx_qwen35_time_to_first_token_seconds_count"] == 0
    assert found["mlx_qwen35_time_per_token_seconds_count"] == 0
    assert found["mlx_qwen35_completion_tokens_total"] == 3


def test_the_events_are_closed_when_nobody_reads_on(clock: SimpleNamespace) -> None:
    async def leave(source: Source) -> None:
        events: Any = Metrics(ENGINE).watch(source.iterate())
        await anext(events)
        await events.aclose()
        # At once: at the end of the loop everything is closed.
        assert source.closed

    asyncio.run(leave(Source(clock, (1, delta("a")), (1, delta("b")))))
    failing = Source(clock, (1, delta("a")), (1, ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        watched(Metrics(ENGINE), failing)
    assert failing.closed


def test_what_drafts_did_is_counted_by_their_place() -> None:
    found = samples(Metrics(ENGINE))
    assert found["mlx_qwen35_decode_steps_total"] == 7
    assert [found[f"mlx_qwen35_drafted_tokens_total{{'place': '{place}'}}"] for place in (1, 2)] == [5, 4]
    assert [found[f"mlx_qwen35_accepted_tokens_total{{'place': '{place}'}}"] for place in (1, 2)] == [3, 1]
