"""What carrying a step out leaves behind: numbers, snapshots, the last token."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.answers.results import GenerationChunk
from mlx_qwen35.errors import OptionError
from mlx_qwen35.runtime.admission import MemoryAdmission
from mlx_qwen35.runtime.engine import Engine
from mlx_qwen35.runtime.executor import Executor
from tests.runtime.test_engine import Caller
from tests.tiny import VOCAB_SIZE

IDS = list(range(20, 50))
GREEDY: dict[str, Any] = {"temperature": 0.0}


def test_what_a_request_cost_by_hand() -> None:
    """Ten tokens of thirty had been read; reading took 2 seconds, four further tokens one; asked a second before."""
    executor = object.__new__(Executor)
    executor._vision = SimpleNamespace(frames_in=lambda piece: piece)  # type: ignore[assignment]
    executor._prefix_cache = SimpleNamespace(nbytes=77)  # type: ignore[assignment]
    prompt = SimpleNamespace(input_ids=[0] * 30, image_tokens=8, video_tokens=9, images=[1, 2, 3], pieces=[4, 6])
    row: Any = SimpleNamespace(
        job=SimpleNamespace(request=SimpleNamespace(prompt=prompt, started=99.0)),
        reading=SimpleNamespace(written=[1, 2, 3, 4, 5], start=10), images_encoded=1, frames_encoded=4,
        began=100.0, first=102.0, record=SimpleNamespace(steps=3, drafted=[2, 1], accepted=[1, 0]),
    )  # fmt: skip
    found = executor._stats(row, 103.0)
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens) == (30, 10, 5)
    assert (found.prompt_tps, found.generation_tps, found.time_to_first_token) == (10.0, 4.0, 3.0)
    assert (found.images_encoded, found.images_reused, found.frames_encoded, found.frames_reused) == (1, 2, 4, 6)
    assert (found.image_tokens, found.video_tokens, found.prompt_cache_bytes) == (8, 9, 77)
    assert (found.steps, found.drafted, found.accepted) == (3, (2, 1), (1, 0))
    row.reading.written = [1]
    assert executor._stats(row, 102.0).generation_tps == 0.0


@pytest.mark.parametrize("token", [VOCAB_SIZE, -1])
def test_a_sampler_names_tokens_that_there_are(kit: ModelKit, token: int) -> None:
    with pytest.raises(OptionError, match=f"^sampler: expected a token id below {VOCAB_SIZE}, found {token}$"):
        kit.generate(IDS, max_tokens=2, sampler=lambda scores: mx.array([token]))
    assert (
        kit.generate(IDS, max_tokens=2, sampler=lambda scores: mx.array([VOCAB_SIZE - 1])).tokens[0] == VOCAB_SIZE - 1
    )


def test_an_answer_that_ends_with_its_last_token_has_stopped(kit: ModelKit) -> None:
    end = min(kit.tokenizer.eos_token_ids)
    for most, reason, count in ((1, "stop", 1), (3, "stop", 1)):
        found = kit.generate(IDS, max_tokens=most, logit_bias={end: 1000.0}, **GREEDY)
        assert (found.finish_reason, len(found.tokens)) == (reason, count)
    assert kit.generate(IDS, max_tokens=1, logit_bias={5: 1000.0}, **GREEDY).finish_reason == "length"


def test_each_row_is_told_as_many_likely_tokens_as_it_asked_for(kit: ModelKit) -> None:
    """However many others ask for; and a probability of its own with them."""
    engine = Engine(kit)
    requests = [kit.request(IDS, max_tokens=4, top_logprobs=top, **GREEDY) for top in (1, 5, 0)]
    found = [caller.result() for caller in [Caller(engine, request) for request in requests]]
    engine.close()
    for top, result in zip((1, 5), found, strict=False):
        assert result.top_logprobs is not None
        assert [len(tops) for tops in result.top_logprobs] == [top] * 4
        assert [tops[0].logprob for tops in result.top_logprobs] == pytest.approx(result.logprobs)
    assert (found[2].top_logprobs, found[2].logprobs) == (None, None)


def test_a_token_that_cannot_come_is_not_among_the_likeliest(kit: ModelKit) -> None:
    """As under a grammar: which of them would be is chance, and changes with what others ask for."""

    def two_only(_: mx.array, logits: mx.array) -> mx.array:
        places = mx.arange(logits.shape[-1])
        return mx.where((places == 5) | (places == 6), logits, -float("inf"))

    found = kit.generate(IDS, max_tokens=3, top_logprobs=4, logits_processors=[two_only], **GREEDY)
    assert found.top_logprobs is not None
    assert [sorted(top.token for top in tops) for tops in found.top_logprobs] == [[5, 6]] * 3


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the bytes of each snapshot that room was asked for."""
    found: list[int] = []
    take = MemoryAdmission.take_snapshot

    def noting(self: MemoryAdmission, job: Any, nbytes: int) -> bool:
        found.append(nbytes)
        return take(self, job, nbytes)

    monkeypatch.setattr(MemoryAdmission, "take_snapshot", noting)
    return found


def progress(kit: ModelKit, **options: Any) -> list[int]:
    """Tokens read, as they are told, of a prompt with a place where a snapshot is wanted."""
    told: list[int] = []
    prompt = replace(kit.process_prompt(IDS[::-1]), branch_points=(12,))
    for _ in kit.stream(prompt, max_tokens=1, on_progress=lambda done, _: told.append(done), **options, **GREEDY):
        pass
    return sorted(set(told))


def test_snapshots_are_taken_where_they_are_wanted_and_nowhere_else(kit: ModelKit, taken: list[int]) -> None:
    assert progress(kit, prefill_step_size=8)[:5] == [0, 8, 12, 20, 28]
    assert len(taken) == 1
    assert taken[0] > 0


def test_what_is_not_remembered_is_read_without_stops(kit: ModelKit, taken: list[int]) -> None:
    held = kit.prompt_cache.nbytes
    assert progress(kit, prefill_step_size=64, cache_prompt=False) == [0, 29, 30]
    assert (taken, kit.prompt_cache.nbytes) == ([], held)


def test_without_room_there_is_no_snapshot(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryAdmission, "take_snapshot", lambda self, job, nbytes: False)
    kept: list[int] = []
    keep = kit.prompt_cache.keep
    monkeypatch.setattr(
        kit.prompt_cache, "keep", lambda reading: (kept.append(len(reading.snapshots or ())), keep(reading))[1]
    )
    prompt = replace(kit.process_prompt([7, *IDS, 7]), branch_points=(12,))
    (last,) = kit.stream(prompt, max_tokens=1, **GREEDY)
    assert isinstance(last, GenerationChunk)
    assert kept == [0]
