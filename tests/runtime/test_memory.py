"""Sizes from headers and configs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_qwen35 import ModelKit
from mlx_qwen35.bench.published import PUBLISHED, Published, published_config
from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.errors import CheckpointError, ContextLengthError, InsufficientMemoryError, OptionError
from mlx_qwen35.patches import cpu
from mlx_qwen35.runtime.estimates import (
    attention_bytes_per_token,
    encoding_bytes,
    gdn_state_bytes,
    gigabytes,
    prefill_bytes,
)
from mlx_qwen35.runtime.memory import SMALLEST_STEP, MemoryGuard
from tests.conftest import Bench
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape


@pytest.mark.parametrize("size", PUBLISHED, ids=lambda size: size.name)
def test_gdn_states_of_the_published_sizes(size: Published) -> None:
    """The recurrent part in MiB, as the facts about the sizes give it."""
    config = ModelConfig.from_dict(published_config(size)).text
    assert gdn_state_bytes(config, dtype_size=0) == size.state_mib * 2**20


def test_estimates_equal_what_the_caches_hold(benches: object) -> None:
    bench: Bench = benches(DENSE)  # type: ignore[operator]
    cache = bench.model.make_cache()
    bench.model(mx.array([[1] * 256]), cache=cache)
    text = bench.checkpoint.config.text
    linear = sum(layer.nbytes for layer in cache if not hasattr(layer, "keys"))
    attention = sum(layer.nbytes for layer in cache if hasattr(layer, "keys"))
    assert linear == gdn_state_bytes(text, dtype_size=4)
    assert attention == 256 * attention_bytes_per_token(text, dtype_size=4)


@pytest.fixture
def smallest() -> ModelConfig:
    """The smallest published model: 18 GDN and 6 attention layers, in two bytes a number."""
    return ModelConfig.from_dict(published_config(PUBLISHED[0]))


def test_what_a_sequence_remembers_by_hand(smallest: ModelConfig) -> None:
    """Keys and values of 2 heads of 256; 16 states of 128 x 128 in float32, the last 3 of 2 x 2048 + 2048 inputs."""
    assert attention_bytes_per_token(smallest.text) == 6 * 2 * 2 * 256 * 2 == 12_288
    assert gdn_state_bytes(smallest.text) == 18 * (16 * 128 * 128 * 4 + 3 * 6144 * 2) == 19_537_920


def test_the_largest_layer_counts_by_hand(smallest: ModelConfig) -> None:
    """Beside 6 hidden states of 1024: a GDN layer; attention, whose scores grow with the context; a wide MLP."""
    text, hidden = smallest.text, 12_288
    assert prefill_bytes(text, 1, 0) == hidden + 2 * (4 * 6144 + 2 * 2048) + 4 * 10 * 2048 == 151_552
    assert prefill_bytes(text, 1, 10_000) == hidden + 2 * (6 * 2048 + 4 * 512) + 2 * 8 * 10_000 * 4 == 680_960
    wide = replace(text, intermediate_size=100_000)
    assert prefill_bytes(wide, 1, 0) == hidden + 2 * 3 * 100_000
    assert prefill_bytes(text, 300, 0) == 300 * prefill_bytes(text, 1, 0)
    # What a GDN layer holds in float32 does not grow with the dtype.
    assert prefill_bytes(text, 1, 0, dtype_size=4) == 2 * 151_552 - 4 * 10 * 2048


def test_every_chosen_expert_counts_by_hand() -> None:
    """100 of 3 x 512 and a hidden state of 2048 each, beside a shared one of 3 x 1000."""
    text = ModelConfig.from_dict(published_config(PUBLISHED[5])).text
    assert text.moe is not None
    many = replace(text, moe=replace(text.moe, num_experts_per_tok=100, shared_expert_intermediate_size=1000))
    assert prefill_bytes(many, 1, 0) == 2 * (6 * 2048 + 100 * (3 * 512 + 2048) + 3 * 1000)


def test_what_an_image_takes_by_hand(smallest: ModelConfig) -> None:
    """Per patch 3 x 2 x 16 x 16 pixels, 8 states of 768, 2 of 3072; scores of 12 heads, for 2048 patches at most."""
    assert smallest.vision is not None
    assert encoding_bytes(smallest.vision, 1000) == 1000 * 13_824 * 2 + 2 * 12 * 1000 * 1000 * 4
    assert encoding_bytes(smallest.vision, 5000) == 5000 * 13_824 * 2 + 2 * 12 * 2048 * 5000 * 4
    # Of large patches the pixels, three times, and one state.
    large = replace(smallest.vision, patch_size=64)
    assert encoding_bytes(large, 10) == 10 * (3 * 3 * 2 * 64 * 64 + 768) * 2 + 2 * 12 * 10 * 10 * 4


def test_bytes_for_people() -> None:
    shown = {0: "0.00 GB", 6_000_000: "0.01 GB", 1_234_567_890: "1.23 GB", 64 * 10**9: "64.00 GB"}
    assert {size: gigabytes(size) for size in shown} == shown


def test_all_parameters_are_counted(benches: object) -> None:
    bench: Bench = benches(DENSE)  # type: ignore[operator]
    in_memory = sum(value.nbytes for _, value in tree_flatten(bench.model.parameters()))
    on_disk = sum(
        header.nbytes for header in read_headers(bench.checkpoint.weight_files()) if not header.name.startswith("mtp.")
    )
    assert in_memory == on_disk


@pytest.mark.parametrize("header", [b'{"a": 1}', b'{"a": {"dtype": "F32"}}', b"[1]", b'{"a": {"data_offsets": []}}'])
def test_malformed_headers_are_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(64))
    with pytest.raises(CheckpointError, match="expected a safetensors file"):
        list(read_headers([path]))


@pytest.fixture
def guard(benches: Callable[[Shape], Bench]) -> MemoryGuard:
    """Of a tiny model with a gigabyte."""
    checkpoint = benches(DENSE).checkpoint
    return MemoryGuard.of(checkpoint.config, checkpoint.weight_files(), 10**9)


def test_a_guard_counts_what_is_loaded(guard: MemoryGuard, benches: Callable[[Shape], Bench]) -> None:
    in_memory = sum(value.nbytes for _, value in tree_flatten(benches(DENSE).model.parameters()))
    assert guard.weights == in_memory
    assert guard.dtype_size == 4


def test_a_prompt_takes_no_more_than_it_has_tokens(guard: MemoryGuard) -> None:
    """However many could be read at once: a short one is not refused for the room of a long one."""
    assert guard.passing(10, 2048) == guard.passing(10, 10) > guard.passing(10, 9)
    assert guard.needs(10, 2048) == guard.needs(10, 10)
    small = replace(guard, limit=guard.needs(100, 100))
    assert small.step_size(2048, 100) == 2048


def test_smaller_steps_before_a_refusal(guard: MemoryGuard) -> None:
    fits = [replace(guard, limit=guard.needs(3000, step)) for step in (2048, 512, SMALLEST_STEP)]
    assert [one.step_size(2048, 3000) for one in fits] == [2048, 512, SMALLEST_STEP]
    short = replace(guard, limit=guard.needs(3000, SMALLEST_STEP) - 1)
    with pytest.raises(
        InsufficientMemoryError, match=r"^prompt: expected at most 2999 tokens with 0\.\d\d GB of memory"
    ):
        short.step_size(2048, 3000)
    assert short.longest() == 2999


@pytest.mark.parametrize("wanted", [SMALLEST_STEP + 1, 100, 127, 129, 300, 2047])
def test_no_step_becomes_smaller_than_the_smallest(guard: MemoryGuard, wanted: int) -> None:
    """Whatever halves there are of the one that was wanted; one that was wanted smaller stays."""
    assert replace(guard, limit=guard.needs(3000, wanted)).step_size(wanted, 3000) == wanted
    assert replace(guard, limit=guard.needs(3000, SMALLEST_STEP)).step_size(wanted, 3000) == SMALLEST_STEP
    with pytest.raises(InsufficientMemoryError, match="prompt: expected at most"):
        replace(guard, limit=guard.needs(3000, SMALLEST_STEP) - 1).step_size(wanted, 3000)
    assert replace(guard, limit=guard.needs(3000, 10)).step_size(10, 3000) == 10


def test_a_plan_shortens_the_answer_last(guard: MemoryGuard) -> None:
    """Whole and in the steps that were asked for, then in smaller ones, then shorter."""
    roomy = guard.plan(1000, 500, 2048)
    assert (roomy.step_size, roomy.tokens) == (2048, 1500)
    for step in (512, 256, SMALLEST_STEP):
        plan = replace(guard, limit=guard.needs(1001, step)).plan(1000, 40, 2048)
        assert (plan.step_size, plan.tokens) == (step, 1040), "a smaller step is enough"
    tight = replace(guard, limit=guard.needs(100, SMALLEST_STEP))
    plan = tight.plan(99, 3000, 2048)
    assert plan.step_size == SMALLEST_STEP
    assert 100 < plan.tokens < 3099
    assert guard.needs(plan.tokens, 1) <= tight.limit < guard.needs(plan.tokens + 1, 1)
    with pytest.raises(InsufficientMemoryError, match="prompt: expected at most 100 tokens"):
        tight.plan(100, 1, 2048)


@pytest.mark.parametrize("tokens", [1, 99, 1000])
@pytest.mark.parametrize("new_tokens", [0, 1, 500, 3000])
@pytest.mark.parametrize("patches", [0, 1024])
@pytest.mark.parametrize("kept", [0, 10**6])
def test_a_plan_leaves_room_for_the_prompt_and_for_the_answer(
    guard: MemoryGuard, tokens: int, new_tokens: int, patches: int, kept: int
) -> None:
    """At every limit from just enough to plenty: while the prompt is read, and when the last token is written."""
    least = guard.needs(tokens + min(new_tokens, 1), SMALLEST_STEP, patches, kept)
    for limit in range(least, least + 4 * 10**6, 10**6):
        plan = replace(guard, limit=limit).plan(tokens, new_tokens, 2048, patches, kept)
        reading = guard.needs(tokens, plan.step_size, patches, kept)
        writing = guard.needs(plan.tokens, 1, kept=kept)
        assert max(reading, writing) <= limit
        assert tokens <= plan.tokens <= tokens + new_tokens
        if guard.needs(tokens + new_tokens, 1, kept=kept) <= limit and not patches:
            assert plan.tokens == tokens + new_tokens


def test_images_and_what_is_kept_count(guard: MemoryGuard) -> None:
    assert guard.needs(100, 64, patches=4096) > guard.needs(100, 64) + 2**27
    assert guard.needs(100, 64, kept=12345) == guard.needs(100, 64) + 12345
    with pytest.raises(InsufficientMemoryError, match="prompt: expected a smaller checkpoint or image"):
        guard.step_size(2048, 100, patches=100_000)


def test_what_drafts_take_by_hand(guard: MemoryGuard) -> None:
    """Beside the tokens that are drafted: states of before, logits of every place, and the copy of rows that move."""
    text, size = guard.config.text, guard.dtype_size
    drafting = replace(guard, draft_tokens=3)
    states = 1 + (1 + 3 if cpu.on_cpu() else 1)
    buffers = (100 + 255 + 3) * attention_bytes_per_token(text, size)
    assert drafting.held(100) == states * guard.states + buffers
    logits = 4 * 3 * 4 * text.vocab_size
    alone = prefill_bytes(text, 1, 100, size) + logits
    moved = 3 * (100 + 255) * 2 * text.num_key_value_heads * text.head_dim * (size + 4)
    assert drafting.passing(100, 1) == alone
    assert drafting.passing(100, 1, rows=3) == alone + 2 * logits + moved
    assert guard.passing(100, 1, rows=3) == prefill_bytes(text, 1, 100, size) + 3 * 3 * 4 * text.vocab_size


def test_an_image_waits_with_an_embedding_for_each_square_of_patches(guard: MemoryGuard) -> None:
    vision = guard.config.vision
    assert vision is not None
    tokens = 4096 // vision.spatial_merge_size**2
    assert guard.embeddings(4096) == tokens * guard.config.text.hidden_size * guard.dtype_size
    # One step does both one after the other.
    assert guard.passing(100, 64, patches=4096) == max(guard.passing(100, 64), guard.encoding(4096))


def test_a_module_has_to_fit_beside_the_weights(guard: MemoryGuard) -> None:
    room = replace(guard, limit=10**12).with_drafts(3, 5000, 1).needs(1, 1)
    assert replace(guard, limit=room).with_drafts(3, 5000, 1).weights == guard.weights + 5000
    with pytest.raises(InsufficientMemoryError, match="speculate: expected at most"):
        replace(guard, limit=room - 1).with_drafts(3, 5000, 1)


def test_weights_that_do_not_fit_are_refused_before_they_are_read(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with pytest.raises(
        InsufficientMemoryError, match=r"checkpoint: expected at most 0\.00 GB of memory, found weights"
    ):
        ModelKit.load(checkpoint_dir(DENSE), memory_limit=1000)


def test_a_context_that_does_not_fit(checkpoint_dir: Callable[[Shape], Path], guard: MemoryGuard) -> None:
    limit = guard.needs(1000, SMALLEST_STEP)
    with pytest.raises(InsufficientMemoryError, match="max_context: expected at most 1000 tokens with"):
        ModelKit.load(checkpoint_dir(DENSE), max_context=1001, memory_limit=limit)
    with pytest.raises(OptionError, match=r"max_context: expected at most 4096 \(the model's context\), found 5000"):
        ModelKit.load(checkpoint_dir(DENSE), max_context=5000)


def test_a_shorter_context_is_kept(checkpoint_dir: Callable[[Shape], Path]) -> None:
    with ModelKit.load(checkpoint_dir(DENSE), max_context=20) as kit:
        with pytest.raises(ContextLengthError, match=r"expected at most 19 tokens \(max_context\), found 20"):
            kit.stream([1] * 20)
        result = kit.generate(
            [1] * 15, temperature=0.0, max_tokens=50, logit_bias=dict.fromkeys(kit.tokenizer.eos_token_ids, -100.0)
        )
        assert len(result.tokens) == 5
        assert result.finish_reason == "length"


def test_a_request_is_planned_before_it_runs(checkpoint_dir: Callable[[Shape], Path], guard: MemoryGuard) -> None:
    """In smaller steps within a limit, to the same answer; and refused where no step is small enough."""
    ids = [int(token) for token in np.random.Generator(np.random.PCG64(3)).integers(0, 300, 900)]
    limit = guard.needs(901, 128)
    load = partial(ModelKit.load, checkpoint_dir(DENSE), speculate="off")
    with load() as free, load(memory_limit=limit) as kit:
        seen: list[int] = []
        bound = kit.stream(ids, max_tokens=4, temperature=0.0, on_progress=lambda done, _: seen.append(done))
        tokens = [chunk.token for chunk in bound]
        assert tokens == [chunk.token for chunk in free.stream(ids, max_tokens=4, temperature=0.0)]
        assert max(np.diff(seen)) <= 128
        with pytest.raises(InsufficientMemoryError, match="prompt: expected at most"):
            kit.stream([1] * 4000)


# Not with attention last: a prefill leaves the last layer's scores out.
MOE_IN_TURNS = replace(MOE, name="moe-in-turns", layer_types=("linear_attention", "full_attention") * 2)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(WIDE_HEADS, id="wide heads", marks=pytest.mark.thorough),
        pytest.param(MOE_IN_TURNS, id="moe in turns"),
    ],
)
def test_estimates_bound_what_is_measured(shape: Shape, benches: Callable[[Shape], Bench]) -> None:
    """Reading 1024 tokens at once holds no more than the estimate, and not a small part of it."""
    bench = benches(shape)
    guard = MemoryGuard.of(bench.checkpoint.config, bench.checkpoint.weight_files(), 10**12)
    cache = bench.model.make_cache()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    bench.model(mx.array([[5] * 1024]), cache=cache)
    mx.eval([layer.state for layer in cache])
    measured = mx.get_peak_memory() - before
    estimated = guard.needs(1024, 1024) - guard.weights
    print(f"{shape.name}: measured {measured / 2**20:.1f} MiB, estimated {estimated / 2**20:.1f} MiB")
    assert measured <= estimated
    assert estimated <= 4 * measured


@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.thorough)])
def test_estimates_bound_an_image(side: int, benches: Callable[[Shape], Bench]) -> None:
    """Of side x side patches, likewise."""
    bench = benches(DENSE)
    vision = bench.checkpoint.config.vision
    assert vision is not None
    pixels = mx.zeros((side * side, vision.in_channels * vision.temporal_patch_size * vision.patch_size**2))
    mx.eval(pixels)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(bench.model.vision_tower(pixels, mx.array([[1, side, side]]))[0])
    measured = mx.get_peak_memory() - before
    estimated = encoding_bytes(vision, side * side, 4)
    print(f"{side} x {side}: measured {measured / 2**20:.1f} MiB, estimated {estimated / 2**20:.1f} MiB")
    assert measured <= estimated
    assert estimated <= 8 * measured
