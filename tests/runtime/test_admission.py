"""What running requests hold in the ledger."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from mlx_qwen35.answers.sampling import SamplingOptions
from mlx_qwen35.errors import InsufficientMemoryError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.admission import MemoryAdmission
from mlx_qwen35.runtime.ledger import Ledger
from mlx_qwen35.runtime.memory import MemoryGuard
from mlx_qwen35.runtime.request import Job, Pool, Request
from tests.conftest import Bench
from tests.tiny import DENSE, Shape


@pytest.fixture
def guard(benches: Callable[[Shape], Bench]) -> MemoryGuard:
    checkpoint = benches(DENSE).checkpoint
    return MemoryGuard.of(checkpoint.config, checkpoint.weight_files(), 10**9)


def job(tokens: int, answer: int, *, pool: Pool | None = None, step: int = 64) -> Job:
    request = Request(Prompt(np.zeros(tokens, np.int32)), SamplingOptions(), answer, step)
    return Job(request, lambda event: None, pool)


def held(ledger: Ledger, purpose: str) -> int:
    return ledger.by_purpose().get(purpose, 0)


def test_a_request_counts_with_its_longest_answer(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    one = job(100, 500)
    assert admission.admit(one, [])
    assert held(ledger, "caches") == guard.held(600)
    assert ledger.held >= guard.held(100) + guard.passing(100, 64)
    admission.update([])
    assert ledger.held == 0


def test_a_prompt_is_read_in_the_room_of_its_answer(guard: MemoryGuard) -> None:
    """Which is not written yet: beside a long answer its steps take nothing more, beside a short one they do."""
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    reading = guard.passing(200, 128)
    writing = guard.passing(5200, 1, rows=1)
    assert guard.held(5200) - guard.held(200) > reading > writing
    admission.update([job(200, 5000, step=128)])
    assert held(ledger, "activations") == writing
    admission.update([job(200, 10, step=128)])
    assert held(ledger, "activations") == reading - (guard.held(210) - guard.held(200))


def test_a_prompt_whose_tokens_are_scored_takes_more_while_it_is_read(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    plain = job(200, 1, step=128)
    admission.update([plain])
    before = held(ledger, "activations")
    scored = Job(replace(plain.request, prompt_logprobs=0), plain.sink)
    admission.update([scored])
    assert held(ledger, "activations") == before + guard.scoring


def test_requests_that_run_alone_add_up_and_rows_are_padded_to_the_longest(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    alone = [job(100, 50), job(10, 5)]
    admission.update(alone)
    assert held(ledger, "caches") == guard.held(150) + guard.held(15)
    pool = Pool(4, 512)
    rows = [job(100, 50, pool=pool), job(10, 5, pool=pool), job(10, 5, pool=Pool(4, 512))]
    admission.update([*alone, *rows])
    assert held(ledger, "caches") == guard.held(150) + guard.held(15) + 2 * guard.held(150) + guard.held(15)


def test_only_one_step_is_taken_at_a_time(guard: MemoryGuard) -> None:
    """Activations count once, those of the largest step."""
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    admission.update([job(2000, 1, step=512)])
    largest = held(ledger, "activations")
    admission.update([job(2000, 1, step=512), job(20, 1), job(2000, 1, step=64)])
    assert held(ledger, "activations") == largest


def test_prompts_that_may_be_read_together_count_as_one_step_and_their_states_twice(guard: MemoryGuard) -> None:
    """As padded rows of a step, beside what each of them has; a step has no more tokens than the largest may."""
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    pool = Pool(8, 512)
    rows = [job(100, 1, pool=pool, step=512) for _ in range(3)]
    admission.update(rows)
    assert held(ledger, "activations") == guard.passing(300, 300) + 6 * guard.states
    admission.update([*rows, job(900, 1, pool=pool, step=512)])
    assert held(ledger, "activations") == guard.passing(900, 512) + 8 * guard.states
    admission.update(rows[:1])
    assert held(ledger, "activations") < guard.passing(100, 100)


def test_two_prompts_are_enough_to_be_read_together(guard: MemoryGuard) -> None:
    ledger, pool = Ledger(10**9), Pool(8, 512)
    MemoryAdmission(guard, ledger).update([job(100, 1, pool=pool, step=512) for _ in range(2)])
    assert held(ledger, "activations") == guard.passing(200, 200) + 4 * guard.states


def test_rows_that_are_written_together_have_logits_each(guard: MemoryGuard) -> None:
    ledger, pool = Ledger(10**9), Pool(8, 1)
    MemoryAdmission(guard, ledger).update([job(10, 9000, pool=pool) for _ in range(4)])
    writing = guard.passing(9010, 4, rows=4)
    assert writing > guard.passing(10, 1) + 8 * guard.states
    assert held(ledger, "activations") == writing


def test_every_image_that_was_encoded_waits_to_be_read(guard: MemoryGuard) -> None:
    """While the largest of them is encoded, and while the prompt is read."""
    ledger = Ledger(10**9)
    one = job(200, 1, step=64)
    one.request = replace(one.request, unseen=(64, 16, 64))
    MemoryAdmission(guard, ledger).update([one])
    unwritten = guard.held(201) - guard.held(200)
    assert held(ledger, "activations") == guard.passing(200, 64, 64) + guard.embeddings(144) - unwritten


def test_what_does_not_fit_is_refused_and_changes_nothing(guard: MemoryGuard) -> None:
    one, other = job(500, 100), job(500, 100)
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    assert admission.admit(one, [])
    ledger.limit = ledger.held + guard.held(600) - 1
    before = ledger.by_purpose()
    assert not admission.admit(other, [one])
    assert ledger.by_purpose() == before
    ledger.limit += 1
    assert admission.admit(other, [one])
    assert ledger.held == ledger.limit


def test_kept_things_go_for_a_request(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    kept = ledger.open("kept prefixes", 10**9 - 1000)
    ledger.on_pressure(lambda missing: kept.enter(kept.nbytes - missing))
    assert admission.admit(job(500, 100), [])
    assert ledger.held == ledger.limit


def test_snapshots_count_until_their_request_ends(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    one, other = job(500, 100), job(500, 100)
    for running in ([one], [one, other]):
        assert admission.admit(running[-1], running[:-1])
    assert admission.take_snapshot(one, 300)
    assert admission.take_snapshot(one, 700)
    assert admission.take_snapshot(other, 500)
    assert held(ledger, "snapshots") == 1500
    ledger.limit = ledger.held + 99
    assert not admission.take_snapshot(one, 100)
    assert (one.snapshot_bytes, held(ledger, "snapshots")) == (1000, 1500)
    admission.update([other])
    assert held(ledger, "snapshots") == 500


def test_an_image_is_encoded_within_the_limit_or_not_at_all(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    needed = guard.encoding(256) + guard.embeddings(256)
    with admission.encoding(256):
        assert ledger.held == needed
    assert ledger.held == 0
    ledger.limit = needed - 1
    with pytest.raises(InsufficientMemoryError, match="image: expected one that takes at most"):
        admission.encoding(256).__enter__()
    with admission.encoding(0):
        assert ledger.held == 0


def test_an_image_that_fits_into_a_prompts_step_takes_no_more(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    one = job(2000, 1, step=512)
    one.request = replace(one.request, unseen=(4, 16, 8))
    assert admission.admit(one, [])
    before = ledger.held
    with admission.encoding(16):
        assert ledger.held == before
    assert ledger.held == before


def test_closing_gives_everything_back(guard: MemoryGuard) -> None:
    ledger = Ledger(10**9)
    admission = MemoryAdmission(guard, ledger)
    one = job(100, 10)
    assert admission.admit(one, [])
    assert admission.take_snapshot(one, 10)
    admission.close()
    assert ledger.held == 0
