"""Many requests at once: each gets what it would get alone, and none harms another."""

import gc
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationChunk, GenerationResult, PrefillProgress
from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.errors import EngineFullError, GenerationCancelled, KitClosedError, OptionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.admission import MemoryAdmission
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.executor import Executor
from mlx_qwen35.runtime.request import Event, Job, Request, Status
from tests.parity.cases import CASES
from tests.tiny import DENSE, Shape

GREEDY: dict[str, Any] = {"temperature": 0.0}


class Caller:
    """Submits one request and takes its events."""

    def __init__(self, engine: Engine, request: Request) -> None:
        self.events: SimpleQueue[Event] = SimpleQueue()
        self.seen: list[Event] = []
        self.job: Job = engine.submit(request, self.events.put)

    def next(self) -> Event:
        self.seen.append(self.events.get(timeout=60))
        return self.seen[-1]

    def until(self, wanted: Callable[[Event], bool]) -> Event:
        while not wanted(event := self.next()):
            pass
        return event

    def end(self) -> Event:
        return self.until(lambda event: isinstance(event, BaseException) or getattr(event, "finish_reason", None))

    def result(self) -> GenerationResult:
        last = self.end()
        assert isinstance(last, GenerationChunk), last
        return GenerationResult.from_chunks([event for event in self.seen if isinstance(event, GenerationChunk)])


def is_chunk(event: Event) -> bool:
    return isinstance(event, GenerationChunk)


def ask(kit: ModelKit, name: str, **options: Any) -> Request:
    prompt = kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)
    return kit.request(prompt, **(GREEDY | options))


@pytest.fixture
def engine(kit: ModelKit) -> Iterator[Engine]:
    engine = Engine(kit)
    yield engine
    engine.close(timeout=0)


@pytest.mark.some(1)
def test_mixed_requests_get_what_they_get_alone(dense_and_moe: Shape, kits: Callable[[Shape], ModelKit]) -> None:
    """Greedy, float32: the same tokens, and log probabilities within 1e-4 of the largest; rows come and go."""
    kit = kits(dense_and_moe)
    lengths = {"three images": 6, "text": 24, "wide image": 9, "tall image": 20, "square image": 4, "two images": 12}
    requests = {
        name: ask(kit, name, max_tokens=count, logprobs=True, cache_prompt=False) for name, count in lengths.items()
    }
    alone = {name: GenerationResult.from_chunks(list(kit._consume(r, None))) for name, r in requests.items()}
    engine = Engine(kit, max_rows=4, prefill_step_size=16)
    callers = {}
    for name, request in requests.items():
        callers[name] = Caller(engine, request)
        if len(callers) % 2 == 0:
            callers[name].until(is_chunk)
    found = {name: caller.result() for name, caller in callers.items()}
    engine.close()
    for name, expected in alone.items():
        assert found[name].tokens == expected.tokens, name
        assert found[name].text == expected.text
        scale = np.abs(expected.logprobs).max()  # type: ignore[arg-type]
        np.testing.assert_allclose(found[name].logprobs, expected.logprobs, atol=1e-4 * scale)  # type: ignore[arg-type]


@pytest.fixture
def steps_read(monkeypatch: pytest.MonkeyPatch) -> list[list[Job]]:
    """Filled with the jobs of each step that reads."""
    found: list[list[Job]] = []
    read = Executor.read

    def noting(self: Executor, steps: Any) -> None:
        found.append([job for job, _ in steps])
        read(self, steps)

    monkeypatch.setattr(Executor, "read", noting)
    return found


def at_once(kit: ModelKit, engine: Engine, requests: list[Request]) -> list[Caller]:
    """All of them wait before anything is done for one."""
    go_on = threading.Event()
    kit._thread.post(lambda: go_on.wait(60))
    callers = [Caller(engine, request) for request in requests]
    go_on.set()
    return callers


@pytest.mark.some(1)
def test_short_prompts_are_read_together_and_each_gets_what_it_gets_alone(
    checkpoint_dir: Callable[[Shape], Any], dense_and_moe: Shape, steps_read: list[list[Job]]
) -> None:
    """Of several lengths, two behind prefixes that were kept; with samplers and penalties; each is kept for later."""
    ids = [int(token) for token in np.random.default_rng(1).integers(0, 300, 90)]
    lengths = (23, 40, 31, 2, 17)
    ways: list[dict[str, Any]] = [
        GREEDY, {"temperature": 0.9, "seed": 3}, {"temperature": 1.0, "top_p": 0.9, "seed": 5},
        GREEDY | {"presence_penalty": 1.5}, GREEDY | {"logit_bias": {7: 3.0}},
    ]  # fmt: skip
    prompts = [ids[at : at + length] for at, length in enumerate(lengths)]
    options: dict[str, Any] = {"max_tokens": 8, "logprobs": True}
    with ModelKit.load(checkpoint_dir(dense_and_moe)) as kit:
        alone = [
            kit.generate(prompt, cache_prompt=False, **options, **way)
            for prompt, way in zip(prompts, ways, strict=True)
        ]
        for prompt, known in ((prompts[1], 25), (prompts[2], 9)):
            kit.generate(prompt[:known], max_tokens=1, **GREEDY)
        engine = Engine(kit)
        requests = [kit.request(prompt, **options, **way) for prompt, way in zip(prompts, ways, strict=True)]
        steps_read.clear()
        callers = at_once(kit, engine, requests)
        found = [caller.result() for caller in callers]
        assert steps_read == [[caller.job for caller in callers]]
        assert [result.stats.cached_tokens for result in found] == [0, 24, 8, 0, 0]
        again = [Caller(engine, request).result() for request in requests]
        engine.close()
    assert [result.stats.cached_tokens for result in again] == [length - 1 for length in lengths]
    for expected, results in zip(alone, zip(found, again, strict=True), strict=True):
        scale = np.abs(expected.logprobs).max()  # type: ignore[arg-type]
        for result in results:
            assert result.tokens == expected.tokens
            np.testing.assert_allclose(result.logprobs, expected.logprobs, atol=1e-4 * scale)  # type: ignore[arg-type]


def test_one_that_is_cancelled_while_others_are_read_with_it(
    checkpoint_dir: Callable[[Shape], Any], steps_read: list[list[Job]]
) -> None:
    """They do not notice, and what was read of it is kept."""
    ids = [int(token) for token in np.random.default_rng(2).integers(0, 300, 130)]
    prompts = [ids[:40], ids[40:85], ids[85:]]
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        alone = [kit.generate(prompt, max_tokens=6, cache_prompt=False, **GREEDY) for prompt in prompts]
        engine = Engine(kit, prefill_step_size=30)
        requests = [
            kit.request(replace(kit.process_prompt(p), branch_points=(9,)), max_tokens=6, **GREEDY) for p in prompts
        ]
        steps_read.clear()
        go_on = threading.Event()
        kit._thread.post(lambda: go_on.wait(60))
        jobs: list[Job] = []

        def stop(event: Event) -> None:
            # Called between this step and the next.
            if isinstance(event, PrefillProgress) and event.processed == 9:
                engine.cancel(jobs[0])
            ended.put(event)

        ended: SimpleQueue[Event] = SimpleQueue()
        jobs.append(engine.submit(requests[0], stop))
        others = [Caller(engine, request) for request in requests[1:]]
        go_on.set()
        found = [caller.result() for caller in others]
        jobs[0].done.wait(60)
        assert steps_read[0] == [jobs[0], *(caller.job for caller in others)]
        assert all(jobs[0] not in step for step in steps_read[1:])
        assert [result.tokens for result in found] == [result.tokens for result in alone[1:]]
        events = [ended.get() for _ in range(ended.qsize())]
        assert isinstance(events[-1], GenerationCancelled)
        again = Caller(engine, kit.request(prompts[0], max_tokens=6, **GREEDY)).result()
        assert (again.stats.cached_tokens, again.tokens) == (9, alone[0].tokens)
        engine.close()


def test_sampling_is_each_requests_own(kit: ModelKit, engine: Engine) -> None:
    options: dict[str, Any] = {"max_tokens": 16, "temperature": 1.0, "top_p": 0.95, "presence_penalty": 0.5}
    requests = [ask(kit, "text", seed=seed, cache_prompt=False, **options) for seed in (1, 2, 1)]
    requests.append(ask(kit, "text", max_tokens=16, logit_bias={3: 100.0}, cache_prompt=False))
    alone = [
        kit.generate(request.prompt, seed=seed, **options) for request, seed in zip(requests, (1, 2, 1), strict=False)
    ]
    found = [caller.result() for caller in [Caller(engine, request) for request in requests]]
    assert [result.tokens for result in found[:3]] == [result.tokens for result in alone]
    assert found[0].tokens == found[2].tokens != found[1].tokens
    assert found[3].tokens == (3,) * 16


def test_a_stop_string_and_top_logprobs(kit: ModelKit, engine: Engine) -> None:
    whole = kit.generate(ask(kit, "text").prompt, max_tokens=12, **GREEDY)
    stop = whole.text[len(whole.text) // 2 :][:3]
    request = ask(kit, "text", max_tokens=12, stop=stop, top_logprobs=2)
    expected = kit.generate(request.prompt, max_tokens=12, stop=stop, top_logprobs=2, **GREEDY)
    other = Caller(engine, ask(kit, "wide image", max_tokens=12))
    found = Caller(engine, request).result()
    other.result()
    assert (found.text, found.finish_reason, found.tokens) == (expected.text, "stop", expected.tokens)
    assert found.top_logprobs is not None
    assert all(
        [one.token for one in tops] == [one.token for one in wanted]
        for tops, wanted in zip(found.top_logprobs, expected.top_logprobs or (), strict=True)
    )


def test_a_long_prompt_does_not_stall_the_others(kit: ModelKit) -> None:
    """While it is read in chunks, the other answer goes on: a token for every chunk."""
    engine = Engine(kit, prefill_step_size=8)
    order: SimpleQueue[str] = SimpleQueue()
    done = threading.Event()

    def note(name: str) -> Callable[[Event], None]:
        def sink(event: Event) -> None:
            order.put(f"{name} {'chunk' if isinstance(event, GenerationChunk) else 'progress'}")
            if name == "short" and getattr(event, "finish_reason", None):
                done.set()

        return sink

    engine.submit(ask(kit, "text", max_tokens=150, logit_bias={5: 100.0}), note("short"))
    long = kit.request(list(range(5, 205)), max_tokens=2, cache_prompt=False, **GREEDY)
    engine.submit(long, note("long"))
    assert done.wait(60)
    engine.close()
    names = [order.get() for _ in range(order.qsize())]
    first, last = names.index("long progress"), len(names) - names[::-1].index("long progress")
    between = names[first + 1 : last]
    assert between.count("long progress") >= 20
    assert all(between[at : at + 2] != ["long progress"] * 2 for at in range(1, len(between)))


def test_earlier_turns_are_not_read_again(checkpoint_dir: Callable[[Shape], Any]) -> None:
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        engine = Engine(kit)
        beginnings = {name: ask(kit, name, max_tokens=6) for name in ("text", "two images", "tall image")}
        results = {name: caller.result() for name, caller in
                   {name: Caller(engine, request) for name, request in beginnings.items()}.items()}  # fmt: skip
        callers, length = {}, {}
        for name, first in beginnings.items():
            ids = [*first.prompt.input_ids.tolist(), *results[name].tokens, 7, 8, 9]
            length[name] = len(first.prompt.input_ids) + len(results[name].tokens)
            request = kit.request(kit.process_prompt(ids, images=CASES[name].images), max_tokens=6, **GREEDY)
            callers[name] = (Caller(engine, request), request)
        for name, (caller, request) in callers.items():
            found = caller.result()
            assert found.stats.cached_tokens == length[name], name
            alone = kit.generate(request.prompt, max_tokens=6, cache_prompt=False, **GREEDY)
            assert found.tokens == alone.tokens, name
        engine.close()


def test_the_same_prompt_at_once_is_read_once(checkpoint_dir: Callable[[Shape], Any]) -> None:
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        engine = Engine(kit, max_rows=1)
        request = ask(kit, "two images", max_tokens=5)
        results = [caller.result() for caller in [Caller(engine, request) for _ in range(3)]]
        engine.close()
        assert len({result.tokens for result in results}) == 1
        total = len(request.prompt.input_ids)
        assert [result.stats.cached_tokens for result in results] == [0, total - 1, total - 1]
        assert [result.stats.images_encoded for result in results] == [2, 0, 0]


@pytest.mark.some(1)
@pytest.mark.parametrize("when", ["waiting", "reading", "writing"])
def test_cancelling(checkpoint_dir: Callable[[Shape], Any], when: str) -> None:
    """Its place is free at once, the others do not notice, and what was read of it is kept."""
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        engine = Engine(kit, max_rows=1 if when == "waiting" else 2, prefill_step_size=8)
        expected = kit.generate(ask(kit, "text").prompt, max_tokens=40, cache_prompt=False, **GREEDY)
        other = Caller(engine, ask(kit, "text", max_tokens=40, cache_prompt=False))
        other.until(is_chunk)
        victim = Caller(engine, ask(kit, "two images", max_tokens=500))
        if when == "reading":
            victim.until(lambda event: isinstance(event, PrefillProgress) and event.processed > 16)
        elif when == "writing":
            victim.until(is_chunk)
        engine.cancel(victim.job)
        assert isinstance(victim.end(), GenerationCancelled)
        assert other.result().tokens == expected.tokens
        assert engine.running == engine.waiting == 0
        again = Caller(engine, ask(kit, "two images", max_tokens=5)).result()
        assert again.tokens == kit.generate(ask(kit, "two images").prompt, max_tokens=5, **GREEDY).tokens
        assert (again.stats.cached_tokens > 0) == (when != "waiting")
        engine.close()


def test_a_caller_that_is_gone_is_cancelled(kit: ModelKit, engine: Engine) -> None:
    gone = threading.Event()

    def sink(event: Event) -> None:
        gone.set()
        raise BrokenPipeError

    engine.submit(ask(kit, "text", max_tokens=400), sink)
    assert gone.wait(60)
    Caller(engine, ask(kit, "text", max_tokens=2)).result()
    assert engine.running == 0


def test_what_a_request_brings_along_fails_alone(kit: ModelKit, engine: Engine) -> None:
    def bad_processor(tokens: mx.array, logits: mx.array) -> mx.array:
        if len(tokens) > 3:
            raise ZeroDivisionError("third token")
        return logits

    def bad_sampler(logprobs: mx.array) -> mx.array:
        raise ZeroDivisionError("sampler")

    expected = kit.generate(ask(kit, "wide image").prompt, max_tokens=16, **GREEDY)
    good = Caller(engine, ask(kit, "wide image", max_tokens=16))
    bad = [Caller(engine, ask(kit, "text", max_tokens=16, logits_processors=[bad_processor])),
           Caller(engine, ask(kit, "text", max_tokens=16, sampler=bad_sampler))]  # fmt: skip
    assert [str(caller.end()) for caller in bad] == ["third token", "sampler"]
    assert good.result().tokens == expected.tokens


def test_a_prompt_that_cannot_be_read_fails_alone(
    kit: ModelKit, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Caller(engine, ask(kit, "text", max_tokens=30))
    good.until(is_chunk)
    request = ask(kit, "three images", max_tokens=4, cache_prompt=False)
    kit.vision.features._features.clear()
    with monkeypatch.context() as patch:
        patch.setattr(kit.vision, "encode", lambda piece, media: 1 / 0)
        assert isinstance(Caller(engine, request).end(), ZeroDivisionError)
    assert len(good.result().tokens) == 30


def test_a_fault_is_told_to_everyone_and_the_next_request_works(
    kit: ModelKit, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = kit.generate(ask(kit, "two images").prompt, max_tokens=8, **GREEDY)
    callers = [Caller(engine, ask(kit, name, max_tokens=2000)) for name in ("text", "wide image")]
    for caller in callers:
        caller.until(is_chunk)
    with monkeypatch.context() as patch:
        patch.setattr("mlx_qwen35.runtime.batch.Batch.step", lambda *_: 1 / 0)
        assert all(isinstance(caller.end(), ZeroDivisionError) for caller in callers)
    assert Caller(engine, ask(kit, "two images", max_tokens=8)).result().tokens == expected.tokens


def test_the_queue_is_bounded(kit: ModelKit) -> None:
    engine = Engine(kit, max_rows=1, max_waiting=1)
    assert engine.capacity == 2
    callers = [Caller(engine, ask(kit, "text", max_tokens=50)) for _ in range(2)]
    with pytest.raises(EngineFullError, match="at most 1 requests"):
        engine.submit(ask(kit, "text", max_tokens=2), lambda event: None)
    assert [len(caller.result().tokens) for caller in callers] == [50, 50]
    engine.close()


def test_a_place_is_given_back_once_however_often_it_is_released(kit: ModelKit) -> None:
    """By whom it was reserved, and by the request that took it over."""
    engine = Engine(kit, max_rows=1, max_waiting=0)
    with engine.reserve() as place:
        place.release()
    place.release()
    place = engine.reserve()
    with pytest.raises(EngineFullError):
        engine.reserve()
    done = threading.Event()
    engine.submit(
        ask(kit, "text", max_tokens=1), lambda event: is_chunk(event) and done.set(), reservation=place
    ).done.wait(60)
    assert done.is_set()
    place.release()
    with engine.reserve(), pytest.raises(EngineFullError):
        engine.reserve()
    engine.close()


def test_closing_finishes_what_was_asked(kit: ModelKit) -> None:
    engine = Engine(kit, max_rows=1)
    callers = [Caller(engine, ask(kit, "text", max_tokens=20)) for _ in range(3)]
    engine.close()
    assert [len(caller.result().tokens) for caller in callers] == [20] * 3
    with pytest.raises(KitClosedError):
        engine.submit(ask(kit, "text", max_tokens=2), lambda event: None)


def test_closing_in_time_cancels_what_is_not_done(kit: ModelKit) -> None:
    engine = Engine(kit, max_rows=1)
    callers = [Caller(engine, ask(kit, "text", max_tokens=100_000, logit_bias={5: 100.0})) for _ in range(2)]
    callers[0].until(is_chunk)
    engine.close(timeout=0.1)
    assert all(isinstance(caller.end(), GenerationCancelled) for caller in callers)


def test_closing_returns_when_all_has_ended(kit: ModelKit) -> None:
    """What it cancels too, which may take its time: here the thread that would end it is held up."""
    engine = Engine(kit, max_rows=1)
    callers = [Caller(engine, ask(kit, "text", max_tokens=100_000, logit_bias={5: 100.0})) for _ in range(2)]
    callers[0].until(is_chunk)
    release = threading.Event()
    kit._thread.post(lambda: release.wait(60))
    timer = threading.Timer(0.2, release.set)
    timer.start()
    engine.close(timeout=0)
    ended = [caller.job.done.is_set() for caller in callers]
    timer.join()
    assert ended == [True, True]


def test_a_closed_kit_ends_every_request(checkpoint_dir: Callable[[Shape], Any]) -> None:
    kit = ModelKit.load(checkpoint_dir(DENSE))
    engine = Engine(kit)
    caller = Caller(engine, ask(kit, "text", max_tokens=100_000, logit_bias={5: 100.0}))
    caller.until(is_chunk)
    kit.close()
    assert isinstance(caller.end(), KitClosedError)
    engine.close()


def test_memory_decides_how_many_run_at_once(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for one sequence of this length, they run one after the other."""
    requests = [ask(kit, "text", max_tokens=60) for _ in range(2)]
    prompt = len(requests[0].prompt.input_ids)
    # Reading the prompt takes more meanwhile than the answer will.
    room = kit.guard.needs(prompt, 512, kept=kit.vision.features.nbytes) + kit.guard.held(prompt + 60) // 2
    monkeypatch.setattr(kit.ledger, "limit", room)
    engine = Engine(kit)
    one, other = (Caller(engine, request) for request in requests)
    one.until(is_chunk)
    assert (engine.running, engine.waiting) == (1, 1)
    assert one.result().tokens == other.result().tokens
    engine.close()


@pytest.mark.parametrize("options", [{"max_rows": 0}, {"max_waiting": -1}, {"prefill_step_size": 0}])
def test_bad_options(kit: ModelKit, options: dict[str, int]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        Engine(kit, **options)


def test_long_prompts_take_turns(kit: ModelKit) -> None:
    """Two that are read at the same time are never more than a step apart."""
    engine = Engine(kit, prefill_step_size=8)
    order: SimpleQueue[str] = SimpleQueue()
    both, ended = threading.Event(), threading.Semaphore(0)

    def note(name: str) -> Callable[[Event], None]:
        def sink(event: Event) -> None:
            both.wait(60)
            if isinstance(event, PrefillProgress) and event.processed < event.total:
                order.put(name)
            if getattr(event, "finish_reason", None):
                ended.release()

        return sink

    requests = [kit.request([first] * 200, max_tokens=1, cache_prompt=False, **GREEDY) for first in (5, 6)]
    for name, request in zip(("one", "other"), requests, strict=True):
        engine.submit(request, note(name))
    both.set()
    assert all(ended.acquire(timeout=60) for _ in range(2))
    engine.close()
    names = [order.get() for _ in range(order.qsize())]
    begun = names.index("other")
    lead = [names[begun:end].count("one") - names[begun:end].count("other") for end in range(begun, len(names) + 1)]
    assert names.count("one") >= names.count("other") >= 200 // 8
    # The last step's end is told by the first token.
    assert all(-1 <= ahead <= 1 for ahead in lead[:-2])


def test_a_cancelled_answer_is_kept(checkpoint_dir: Callable[[Shape], Any]) -> None:
    """With what was written of it: a prompt that goes on from there does not read it again."""
    with ModelKit.load(checkpoint_dir(DENSE)) as kit:
        engine = Engine(kit)
        request = ask(kit, "text", max_tokens=500, logit_bias={5: 100.0})
        caller = Caller(engine, request)
        for _ in range(3):
            caller.until(is_chunk)
        engine.cancel(caller.job)
        assert isinstance(caller.end(), GenerationCancelled)
        written = [event.token for event in caller.seen if isinstance(event, GenerationChunk)]
        following = [*request.prompt.input_ids.tolist(), *written, 7, 8]
        again = Caller(engine, kit.request(following, max_tokens=6, **GREEDY)).result()
        assert again.stats.cached_tokens >= len(request.prompt.input_ids) + 2
        assert again.tokens == kit.generate(following, max_tokens=6, cache_prompt=False, **GREEDY).tokens
        engine.close()


@pytest.mark.thorough
def test_earlier_prompts_give_way_to_every_request_that_runs(checkpoint_dir: Callable[[Shape], Any]) -> None:
    """To one a part of them, to another beside it more."""
    weights = (checkpoint_dir(DENSE) / "model.safetensors").stat().st_size
    options: dict[str, Any] = {"memory_limit": weights + 10 * 2**20, "prompt_cache_bytes": 2**30, "speculate": "off"}
    with ModelKit.load(checkpoint_dir(DENSE), **options) as kit:
        for first in range(10, 60):
            kit.generate([first] * 8, max_tokens=1, **GREEDY)
        engine = Engine(kit, prefill_step_size=64)
        held, callers = [kit.prompt_cache.nbytes], []
        for _ in range(3):
            long = kit.request([5] * 8, max_tokens=1500, logit_bias={5: 100.0}, cache_prompt=False, **GREEDY)
            callers.append(Caller(engine, long))
            callers[-1].until(is_chunk)
            held.append(kit.prompt_cache.nbytes)
        assert engine.running == 3
        assert held == sorted(set(held), reverse=True), held
        assert held[-1] > 0
        for caller in callers:
            engine.cancel(caller.job)
            caller.end()
        engine.close()


def test_close_waits_its_time_once_for_all(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only waiting moves: what the first request leaves of the time is there for the others."""
    now, waited, cancelled = 100.0, [], []

    class Done:
        """Of a request that ends after some seconds, or when it is cancelled."""

        def __init__(self, after: float) -> None:
            self.after = after

        def is_set(self) -> bool:
            return now >= self.after

        def wait(self, timeout: float | None = None) -> None:
            nonlocal now
            waited.append(timeout)
            now = max(now, self.after if timeout is None else min(self.after, now + timeout))

    jobs: Any = tuple(SimpleNamespace(done=Done(after)) for after in (104.0, 1e9, 1e9))

    def cancel(job: Any) -> None:
        cancelled.append(job)
        job.done.after = now + 1

    engine = Engine(kit)
    monkeypatch.setattr("mlx_qwen35.runtime.engine.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(engine, "_jobs", lambda: jobs)
    monkeypatch.setattr(engine, "cancel", cancel)
    engine.close(timeout=10)
    assert waited == [10, 6, 0, None, None]
    assert cancelled == list(jobs[1:])
    assert now == 111


def test_an_image_that_was_seen_takes_no_memory_of_encoding(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not encoded again, so that nobody has to find the room for that."""
    asked: list[int] = []
    encoding = MemoryAdmission.encoding

    def watched(self: MemoryAdmission, patches: int) -> AbstractContextManager[None]:
        asked.append(patches)
        return encoding(self, patches)

    monkeypatch.setattr(MemoryAdmission, "encoding", watched)
    content = [{"type": "image", "image": Image.new("RGB", (96, 64), (3, 1, 4))}, {"type": "text", "text": "what?"}]
    prompt = kit.process_prompt([{"role": "user", "content": content}])
    for _ in range(2):
        kit.generate(prompt, max_tokens=1, cache_prompt=False)
    assert asked == [math.prod(prompt.images[0].grid_thw), 0]


def test_what_fails_at_the_end_is_told_unless_something_did_before(
    kit: ModelKit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer whose state could not be kept is no answer; the first fault is what the caller has to know."""
    end = Executor.end

    def failing(self: Executor, job: Job, *, keep: bool) -> None:
        end(self, job, keep=keep)
        raise RuntimeError("cannot be kept")

    def sampler(scores: mx.array) -> mx.array:
        raise ValueError("cannot choose")

    monkeypatch.setattr(Executor, "end", failing)
    prompt = kit.process_prompt(CASES["text"].input_ids)
    with pytest.raises(RuntimeError, match="cannot be kept"):
        kit.generate(prompt, max_tokens=2)
    with pytest.raises(ValueError, match="cannot choose"):
        kit.generate(prompt, max_tokens=2, sampler=sampler)


class Pretended:
    """A kit whose loop only takes jobs, until it is closed."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.closed = False
        self._loop, self._thread = self, self

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.check()

    def cancel(self, job: Job) -> None:
        job.finish(GenerationCancelled("cancelled"))

    def check(self) -> None:
        if self.closed:
            raise KitClosedError("closed")


def pretended(**options: Any) -> tuple[Engine, Pretended]:
    kit = Pretended()
    return Engine(kit, **options), kit  # type: ignore[arg-type]


ASKED = Request(Prompt(np.arange(3, dtype=np.int32)), SamplingOptions(), 4, 2)


def ignore(event: Event) -> None:
    pass


def test_who_runs_and_who_waits() -> None:
    engine, _ = pretended()
    jobs = [engine.submit(ASKED, ignore) for _ in range(6)]
    for job, status in zip(jobs, (Status.READING, Status.WRITING, Status.WRITING, Status.DONE), strict=False):
        job.status = status
    assert (engine.running, engine.waiting) == (3, 2)


def test_a_request_that_has_ended_makes_room_for_another() -> None:
    engine, _ = pretended(max_rows=1, max_waiting=0)
    for _ in range(3):
        job = engine.submit(ASKED, ignore)
        with pytest.raises(EngineFullError):
            engine.reserve()
        job.finish(GenerationCancelled("cancelled"))


def test_what_has_ended_is_forgotten() -> None:
    engine, _ = pretended()
    first, second = engine.submit(ASKED, ignore), engine.submit(ASKED, ignore)
    first.finish(GenerationCancelled("cancelled"))
    third = engine.submit(ASKED, ignore)
    assert engine._jobs() == [second, third]


def test_a_request_that_has_ended_is_held_by_nobody() -> None:
    """An engine without work would keep the pixels of a video until the next request comes."""
    engine, kit = pretended()
    job = engine.submit(ASKED, ignore)
    job.finish(GenerationCancelled("cancelled"))
    held = weakref.ref(job)
    kit.jobs.clear()
    del job
    gc.collect()
    assert (held(), engine._jobs()) == (None, [])


def test_a_place_that_was_promised_before_the_end_is_no_way_in() -> None:
    """And it is given back, as are those of requests that nobody takes."""
    engine, kit = pretended(max_rows=1, max_waiting=0)
    place = engine.reserve()
    engine.close()
    with pytest.raises(KitClosedError, match="this engine was closed"):
        engine.submit(ASKED, ignore, reservation=place)
    assert (kit.jobs, engine._jobs(), engine._places) == ([], [], 0)
    with pytest.raises(KitClosedError):
        engine.reserve()


def test_a_request_that_the_kit_does_not_take_has_ended() -> None:
    """Whoever closes the engine does not wait for it, and its place is free."""
    engine, kit = pretended(max_rows=1, max_waiting=0)
    kit.closed = True
    with pytest.raises(KitClosedError, match="^closed$"):
        engine.submit(ASKED, ignore)
    (job,) = kit.jobs
    assert (job.status, job.done.is_set(), engine._places) == (Status.DONE, True, 0)


def test_where_the_thread_is_gone_only_what_still_runs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the child of a fork: nobody would end it."""
    engine, kit = pretended()
    job = engine.submit(ASKED, ignore)
    kit.closed = True
    monkeypatch.setattr(job.done, "wait", lambda *_: pytest.fail("it waits for nobody"))
    with pytest.raises(KitClosedError):
        engine.close()
    monkeypatch.undo()
    job.done.set()
    engine.close()


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan, math.inf, "1"])
def test_the_time_for_an_answer_is_a_positive_number(timeout: Any) -> None:
    engine, kit = pretended()
    with pytest.raises(OptionError, match="^timeout: expected"):
        engine.submit(ASKED, ignore, timeout=timeout)
    assert (kit.jobs, engine._places) == ([], 0)


def test_a_deadline_is_so_many_seconds_from_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_qwen35.runtime.engine.time", SimpleNamespace(monotonic=lambda: 100.0))
    engine, _ = pretended()
    assert engine.submit(ASKED, ignore, timeout=2.5).deadline == 102.5
    assert engine.submit(ASKED, ignore).deadline is None
