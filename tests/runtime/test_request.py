"""What is asked for, and how its end is told."""

import mlx.core as mx
import numpy as np
import pytest

from mlx_qwen35.answers.results import PrefillProgress
from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.request import Event, Job, Pool, Request

PROMPT = Prompt(np.arange(6, dtype=np.int32))


class Remembers:
    """As a thinking budget: what it has seen belongs to one run."""

    calls = 0

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        self.calls += 1
        return logits


def test_processors_come_in_the_order_in_which_they_may_overrule_each_other() -> None:
    """Those of the options, the thinking budget, then the caller's: a grammar has the last word."""
    budget, own = Remembers(), Remembers()
    options = SamplingOptions(repetition_penalty=1.5)
    asked = Request(PROMPT, options, 4, 2, thinking_budget=budget, processors=(own,))  # type: ignore[arg-type]
    penalty, copied, last = asked.make_processors()
    assert last is own
    assert type(copied) is Remembers
    assert copied is not budget
    assert penalty not in (budget, own)


def test_the_prompts_last_token_is_no_output() -> None:
    """It is the first of the history that processors get, and nothing is to be repeated yet."""
    (penalty,) = Request(PROMPT, SamplingOptions(presence_penalty=1.0), 4, 2).make_processors()
    assert penalty(mx.array([2]), mx.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]
    assert penalty(mx.array([2, 1]), mx.zeros((1, 4))).tolist() == [[0, -1, 0, 0]]


@pytest.mark.parametrize(("read_to", "reads", "tokens"), [(None, 5, 10), (3, 3, 3), (6, 6, 6)])
def test_the_last_token_is_left_to_what_writes_unless_nothing_is_written(
    read_to: int | None, reads: int, tokens: int
) -> None:
    asked = Request(PROMPT, SamplingOptions(), 4, 2, read_to=read_to)
    assert (asked.stop_reading, asked.tokens) == (reads, tokens)


@pytest.mark.parametrize(("own", "of_pool", "steps"), [(8, 4, 4), (4, 8, 4), (8, None, 8)])
def test_a_step_is_no_larger_than_request_and_pool_allow(own: int, of_pool: int | None, steps: int) -> None:
    pool = None if of_pool is None else Pool(2, of_pool)
    assert Job(Request(PROMPT, SamplingOptions(), 4, own), lambda event: None, pool).step_size == steps


def test_the_place_is_free_before_the_end_is_told_and_the_end_is_told_before_it_is_done() -> None:
    """Whoever gets the last event may ask again at once; whoever waits finds that event."""
    order: list[object] = []

    def sink(event: Event) -> None:
        order.append((event, one.done.is_set()))

    one = Job(Request(PROMPT, SamplingOptions(), 4, 2), sink, on_done=lambda: order.append("place"))
    last = PrefillProgress(6, 6)
    one.finish(last)
    assert order == ["place", (last, False)]
    assert (one.done.is_set(), one.delivered) == (True, 1)


def test_a_sink_that_fails_has_got_its_event_and_gets_done_all_the_same() -> None:
    def sink(event: Event) -> None:
        raise SystemExit

    one = Job(Request(PROMPT, SamplingOptions(), 4, 2), sink, granted=1)
    one.tell(PrefillProgress(1, 6))
    assert (one.cancelled, one.delivered, one.wanted) == (True, 1, False)
    one.finish(PrefillProgress(6, 6))
    assert one.done.is_set()
