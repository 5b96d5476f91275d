"""Kits whose keys and values are quantised: the error is bounded, and nothing else depends on it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_qwen35 import Engine, ModelKit
from mlx_qwen35.answers.results import GenerationResult
from mlx_qwen35.bench import kv
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import OptionError, SessionError
from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.estimates import attention_bytes_per_token
from tests.parity.cases import CASES
from tests.runtime.test_engine import Caller, ask, is_chunk
from tests.tiny import DENSE, MOE, Shape

GREEDY: dict[str, Any] = {"temperature": 0.0}
Load = Callable[..., ModelKit]


@pytest.fixture(scope="module")
def load(checkpoint_dir: Callable[[Shape], Path]) -> Iterator[Load]:
    """Makes kits, each set of options once."""
    made: dict[Any, ModelKit] = {}

    def get(shape: Shape = DENSE, **options: Any) -> ModelKit:
        key = shape.name, *sorted(options.items())
        if key not in made:
            made[key] = ModelKit.load(checkpoint_dir(shape), **options)
        return made[key]

    yield get
    for kit in made.values():
        kit.close()


def prompt_of(kit: ModelKit, name: str) -> Prompt:
    return kit.process_prompt(CASES[name].input_ids, images=CASES[name].images)


def error(found: mx.array, expected: mx.array) -> float:
    """The largest, as a share of the largest logit."""
    return float((mx.abs(found - expected).max() / mx.abs(expected).max()).item())


@pytest.mark.some(1)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: shape.name)
def test_a_prompt_in_chunks_reads_what_decoding_will_see(load: Load, shape: Shape, bits: int) -> None:
    """Over images too: in chunks of any size the logits are the same, within what the bits make of them.

    A number that lies between two levels goes to either with its last bit, which is another one in chunks of another
    size: over all prompts of `CASES` that makes up to a fifth of what quantising does. Keys as they are would make all.
    """
    kit, plain = load(shape, kv_bits=bits, kv_group_size=32), load(shape)
    prompt = prompt_of(kit, "two images")
    whole, unquantised = kit.logits(prompt), plain.logits(prompt)
    quantisation = error(whole, unquantised)
    assert 0 < quantisation < {8: 0.02, 4: 0.2}[bits]
    for step in (1, 2, 7):
        assert error(kit.logits(prompt, prefill_step_size=step), whole) < quantisation / 3


@pytest.mark.thorough
def test_rows_that_come_and_go_get_what_they_get_alone(load: Load) -> None:
    kit = load(kv_bits=8)
    lengths = {"text": 24, "wide image": 9, "tall image": 20, "two images": 12}
    requests = {name: ask(kit, name, max_tokens=count, cache_prompt=False) for name, count in lengths.items()}
    alone = {name: GenerationResult.from_chunks(list(kit._consume(r, None))) for name, r in requests.items()}
    engine = Engine(kit, max_rows=3, prefill_step_size=16)
    callers = {}
    for name, request in requests.items():
        callers[name] = Caller(engine, request)
        callers[name].until(is_chunk)
    found = {name: caller.result() for name, caller in callers.items()}
    engine.close()
    assert {name: result.tokens for name, result in found.items()} == {n: r.tokens for n, r in alone.items()}


def conversation(kit: ModelKit, answer: GenerationResult | None = None) -> Prompt:
    """A prompt with an image, and what follows its answer."""
    first = prompt_of(kit, "square image")
    if answer is None:
        return first
    return kit.process_prompt(
        [*CASES["square image"].input_ids, *answer.tokens, 7, 8], images=CASES["square image"].images
    )


def test_the_next_turn_goes_on_from_what_was_kept(load: Load, tmp_path: Path) -> None:
    """In memory, from a session, and from disk; the answer is that of a cold kit."""
    kit, cold = load(kv_bits=8, prompt_cache_bytes=10**9), load(kv_bits=8, prompt_cache_bytes=0)
    kit.prompt_cache.clear()
    first = kit.generate(conversation(kit), max_tokens=6, **GREEDY)
    following = conversation(kit, first)
    expected = cold.generate(following, max_tokens=6, **GREEDY)
    kit.save_session(tmp_path / "session")
    for _ in range(2):
        found = kit.generate(following, max_tokens=6, **GREEDY)
        assert found.stats.cached_tokens == len(following.input_ids) - 2
        assert found.tokens == expected.tokens
        kit.prompt_cache.clear()
        kit.load_session(tmp_path / "session")


def test_a_session_of_other_bits_is_refused_by_name(load: Load, tmp_path: Path) -> None:
    kits = {"not quantised": load(), "of 8 bits in groups of 64": load(kv_bits=8),
            "of 8 bits in groups of 32": load(kv_bits=8, kv_group_size=32)}  # fmt: skip
    for kit in kits.values():
        kit.generate(prompt_of(kit, "text"), max_tokens=2, **GREEDY)
    for number, (name, kit) in enumerate(kits.items()):
        kit.save_session(tmp_path / str(number))
        for other, reader in kits.items():
            if other != name:
                message = f"expected keys and values {other}, as this model was loaded, found {name}"
                with pytest.raises(SessionError, match=message):
                    reader.load_session(tmp_path / str(number))


@pytest.mark.thorough
@pytest.mark.parametrize("speculate", ["mtp", "lookup"])
def test_drafts_change_no_answer(load: Load, speculate: str) -> None:
    """Alone, and as rows of one batch, of which some drafts are wrong."""
    plain, kit = load(kv_bits=4, speculate="off"), load(kv_bits=4, speculate=speculate, draft_tokens=3)
    names = ("text", "wide image", "tall image")
    expected = [plain.generate(prompt_of(plain, name), max_tokens=16, **GREEDY).tokens for name in names]
    alone = [kit.generate(prompt_of(kit, name), max_tokens=16, **GREEDY) for name in names]
    assert [result.tokens for result in alone] == expected
    engine = Engine(kit)
    callers = [Caller(engine, ask(kit, name, max_tokens=16, cache_prompt=False)) for name in names]
    assert [caller.result().tokens for caller in callers] == expected
    engine.close()
    if speculate == "mtp":
        assert sum(alone[0].stats.drafted) > 0


@pytest.mark.parametrize("bits", [8, 4])
def test_the_guard_counts_what_is_held(load: Load, bits: int) -> None:
    """The attention layer's 256 tokens to the byte; and less than without."""
    kit, plain = load(kv_bits=bits), load()
    text = kit.config.text
    state = kit._thread.call(kit._loaded.loop._executor._decoder.make_state)
    kit._thread.call(lambda: (kit.model(mx.array([[1] * 256]), cache=state.caches), state.evaluate()))
    held = sum(cache.nbytes for cache in state.caches if hasattr(cache, "bits"))
    assert held == 256 * attention_bytes_per_token(text, 4, kv=kit.guard.kv)
    assert kit.guard.held(1000) < plain.guard.held(1000)


def test_heads_that_do_not_fit_are_refused_before_anything_is_read(
    checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_qwen35.runtime.loading.MemoryGuard.of", lambda *_: 1 / 0)
    with pytest.raises(OptionError, match="kv_group_size: expected 32 or 64 for this model, found 128"):
        ModelKit.load(checkpoint_dir(DENSE), kv_bits=8, kv_group_size=128)
    with pytest.raises(OptionError, match="kv_bits: expected none where exact is asked for"):
        ModelKit.load(checkpoint_dir(DENSE), kv_bits=8, exact=True)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("questions", "longest", "tokens"), [(1, 24, 20), pytest.param(7, 64, 200, marks=pytest.mark.thorough)],
    ids=["one", "all"],
)  # fmt: skip
def test_the_model_in_the_box_says_the_same_with_few_bits(
    monkeypatch: pytest.MonkeyPatch, questions: int, longest: int, tokens: int
) -> None:
    """Greedy, about pictures and without; the logits are off by twice what they are at most."""
    monkeypatch.setattr(kv, "QUESTIONS", kv.QUESTIONS[:questions])
    monkeypatch.setattr(kv, "_ANSWER_TOKENS", longest)
    errors = kv.measure_errors(BOX, 64)
    eight, four = errors["8 bits"], errors["4 bits"]
    assert eight.tokens >= tokens
    assert eight.same_tokens == eight.tokens
    assert 0 < eight.largest < 0.016
    assert 0 < eight.mean < 0.0014
    assert eight.same_choice > 0.99
    assert eight.largest < four.largest < 0.1
    assert eight.mean < four.mean < 0.009
    assert four.same_choice > 0.92
