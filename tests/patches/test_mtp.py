"""The module that drafts ahead, beside mlx-vlm's; and the step that verifies drafts, beside single tokens."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_vlm.speculative.drafters.qwen3_5_mtp import Model as Upstream
from mlx_vlm.speculative.drafters.qwen3_5_mtp import ModelConfig as UpstreamConfig

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.mtp_heads import read_mtp_head
from mlx_qwen35.patches.mtp import DraftSteps, MultiTokenPrediction
from mlx_qwen35.patches.operations import UPSTREAM, CpuOperations, Operations
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.state.cache import AttentionCache, GatedDeltaCache
from mlx_qwen35.state.sequence import SequenceState
from tests.conftest import Bench
from tests.tiny import DENSE, HIDDEN, Shape, config_of, tensors_of


@pytest.fixture(scope="module")
def modules(checkpoint_dir: Callable[[Shape], Path]) -> Callable[[Shape], MultiTokenPrediction]:
    def get(shape: Shape) -> MultiTokenPrediction:
        checkpoint = Checkpoint.open(checkpoint_dir(shape))
        head = read_mtp_head(checkpoint)
        assert head is not None
        return MultiTokenPrediction.from_head(checkpoint.config, head)

    return get


def upstream(shape: Shape) -> Any:
    """mlx-vlm's module with the same weights, from the tensors as transformers writes them."""
    model = Upstream(UpstreamConfig.from_dict({"text_config": config_of(shape)["text_config"]}))
    weights = {name: mx.array(value) for name, value in tensors_of(shape).items() if name.startswith("mtp.")}
    model.load_weights(list(model.sanitize(weights).items()))
    model.eval()
    return model


def test_it_computes_what_mlx_vlm_computes(
    dense_and_moe: Shape, modules: Callable[[Shape], MultiTokenPrediction]
) -> None:
    """Whole, and in pieces over its own cache; within 1e-5 of the scale."""
    rng = np.random.default_rng(1)
    embeddings, hidden = (mx.array(rng.standard_normal((1, 9, HIDDEN)).astype(np.float32)) for _ in range(2))
    other = upstream(dense_and_moe)
    expected = np.array(other._forward_hidden(embeddings, hidden, other.make_cache(), mx.arange(9)[None]))
    module = modules(dense_and_moe)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(module(embeddings, hidden, module.make_cache()), expected, atol=1e-5 * scale)
    caches = module.make_cache()
    parts = [module(embeddings[:, at], hidden[:, at], caches) for at in (slice(0, 4), slice(4, 5), slice(5, 9))]
    np.testing.assert_allclose(mx.concatenate(parts, axis=1), expected, atol=1e-5 * scale)


def test_its_compiled_steps_compute_the_same(
    dense_and_moe: Shape, modules: Callable[[Shape], MultiTokenPrediction], benches: Callable[[Shape], Bench]
) -> None:
    """Within 1e-5 of the scale; the draft is the likeliest token of the decoder's own head."""
    module, language_model = modules(dense_and_moe), benches(dense_and_moe).model.language_model
    steps = DraftSteps(module, language_model)
    rng = np.random.default_rng(2)
    caches, others = module.make_cache(), module.make_cache()
    for length in (3, 1, 1):
        tokens = mx.array(rng.integers(0, 300, (1, length)))
        hidden = mx.array(rng.standard_normal((1, length, HIDDEN)).astype(np.float32))
        out, draft = steps.choose(steps.read(tokens, hidden, caches)[:, -1:])
        expected = module(language_model.model.embed_tokens(tokens), hidden, others)[:, -1:]
        np.testing.assert_allclose(out, expected, atol=1e-5 * np.abs(np.array(expected)).max())
        assert mx.array_equal(draft, mx.argmax(language_model.project(expected), axis=-1)).item()


def test_rows_of_a_batch_are_read_as_each_would_be_alone(
    dense_and_moe: Shape, modules: Callable[[Shape], MultiTokenPrediction]
) -> None:
    """Whatever padding stands in front of them; one pair at a time, and several at once. Within 1e-5 of the scale."""
    module, rng, lengths = modules(dense_and_moe), np.random.default_rng(7), (3, 9, 6)
    embeddings, hidden = (mx.array(rng.standard_normal((3, 12, HIDDEN)).astype(np.float32)) for _ in range(2))
    caches, expected = [], []
    for row, length in enumerate(lengths):
        one, cache = slice(row, row + 1), module.make_cache()
        module(embeddings[one, :length], hidden[one, :length], cache)
        caches.append(cache)
        # Of its own, because a merged one is as far as it was.
        alone = module.make_cache()
        whole = module(embeddings[one, : length + 3], hidden[one, : length + 3], alone)
        expected.append(np.array(whole[:, length:]))
    batch = [layer[0].merge(list(layer)) for layer in zip(*caches, strict=True)]
    for at, to in ((0, 1), (1, 3)):
        places = mx.array([list(range(length + at, length + to)) for length in lengths])[..., None]
        parts = (mx.take_along_axis(array, places, axis=1) for array in (embeddings, hidden))
        wanted = np.concatenate(expected)[:, at:to]
        np.testing.assert_allclose(module(*parts, batch), wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("length", [2, 5, 8])
def test_a_step_over_several_tokens_computes_what_single_steps_compute(
    dense_and_moe: Shape, benches: Callable[[Shape], Bench], length: int
) -> None:
    """Logits and states to the bit, where MLX multiplies the rows of a matrix one like the other: on the CPU."""
    model = benches(dense_and_moe).model
    tokens = mx.array(np.random.default_rng(2).integers(0, 300, (1, 12 + length)))
    alone, step = SequenceState(model.make_cache()), SequenceState(model.make_cache())
    for state in (alone, step):
        model(tokens[:, :12], cache=state.caches)
        state.evaluate()
    expected = [model(tokens[:, at : at + 1], cache=alone.caches) for at in range(12, 12 + length)]
    step.begin_step()
    found = model(tokens[:, 12:], cache=step.caches)
    wanted = mx.concatenate(expected, axis=1)
    assert mx.allclose(found, wanted, rtol=0, atol=1e-5 * mx.abs(wanted).max().item()).item()
    if mx.default_device() == mx.Device(mx.cpu):
        assert mx.array_equal(found, wanted).item()
        step.settle(length, [length])
        for one, other in zip(step.caches, alone.caches, strict=True):
            assert all(mx.array_equal(a, b).item() for a, b in zip(one.mark(), other.mark(), strict=True))


def test_in_bfloat16_too_a_step_computes_what_single_steps_compute_on_the_cpu(
    checkpoint_dir: Callable[[Shape], Path],
) -> None:
    if mx.default_device() != mx.Device(mx.cpu):
        pytest.skip("other kernels multiply several rows on a GPU")
    model = Model.from_checkpoint(Checkpoint.open(checkpoint_dir(DENSE)))
    model.set_dtype(mx.bfloat16)
    tokens = mx.array(np.random.default_rng(5).integers(0, 300, (1, 9)))
    alone, step = model.make_cache(), SequenceState(model.make_cache())
    for caches in (alone, step.caches):
        model(tokens[:, :5], cache=caches)
    expected = mx.concatenate([model(tokens[:, at : at + 1], cache=alone) for at in range(5, 9)], axis=1)
    step.begin_step()
    assert mx.array_equal(model(tokens[:, 5:], cache=step.caches), expected).item()


def test_rows_that_keep_different_numbers_end_where_each_would_alone(benches: Callable[[Shape], Bench]) -> None:
    """States to the bit; keys and values are moved, and stay the same."""
    model = benches(DENSE).model
    rng = np.random.default_rng(3)
    prompts = [mx.array(rng.integers(0, 300, (1, length))) for length in (5, 11, 8)]
    drafts = mx.array(rng.integers(0, 300, (3, 6)))
    kept = [1, 6, 3]
    states = []
    for prompt in prompts:
        states.append(SequenceState(model.make_cache()))
        model(prompt, cache=states[-1].caches)
        states[-1].evaluate()
    batch = SequenceState.merge(states)
    for _ in range(2):
        batch.begin_step()
        model(drafts, cache=batch.caches)
        batch.settle(6, kept)
    for row, (state, count) in enumerate(zip(states, kept, strict=True)):
        for _ in range(2):
            state.begin_step()
            model(drafts[row : row + 1, :count], cache=state.caches)
            state.settle(count, [count])
        for one, alone in zip(batch.extract(row).caches, state.caches, strict=True):
            assert one.size() == alone.size()
            arrays = zip([*one.held(), *one.mark()], [*alone.held(), *alone.mark()], strict=True)
            for found, expected in arrays:
                length = one.size() or found.shape[2]
                np.testing.assert_allclose(found[..., :length, :], expected[..., :length, :], atol=2e-5)


@pytest.mark.parametrize("kept", range(7))
def test_a_gdn_state_behind_rejected_drafts_is_that_of_one_that_never_saw_them(
    benches: Callable[[Shape], Bench], kept: int
) -> None:
    layer = benches(DENSE).model.language_model.model.layers[0]
    rng = np.random.default_rng(4)
    x, other = (mx.array(rng.standard_normal((1, 6, HIDDEN)).astype(np.float32)) for _ in range(2))
    before = mx.array(rng.standard_normal((1, 20, HIDDEN)).astype(np.float32))

    def read(tokens: mx.array, keep: int) -> tuple[mx.array, ...]:
        cache = GatedDeltaCache()
        layer(before, None, cache)
        cache.begin_step()
        layer(tokens, None, cache)
        cache.settle(6, [keep])
        return cache.mark()

    rejected = mx.concatenate([x[:, :kept], other[:, kept:]], axis=1)
    assert all(mx.array_equal(a, b).item() for a, b in zip(read(x, kept), read(rejected, kept), strict=True))
    whole = read(x, 6)
    same = [mx.array_equal(a, b).item() for a, b in zip(read(x, kept), whole, strict=True)]
    assert all(same) == (kept == 6)


@pytest.mark.parametrize("operations", [UPSTREAM, CpuOperations()], ids=["run again", "every state kept"])
@pytest.mark.parametrize("kept", [[0, 0], [1, 1], [4, 4], [3, 0], [2, 5], [6, 1]])
def test_both_ways_to_a_gdn_state_inside_a_step_give_that_of_single_tokens(
    benches: Callable[[Shape], Bench], monkeypatch: pytest.MonkeyPatch, operations: Operations, kept: list[int]
) -> None:
    """To the bit, each row for itself."""
    layer = benches(DENSE).model.language_model.model.layers[0].linear_attn
    monkeypatch.setattr(layer, "operations", operations)
    rng = np.random.default_rng(6)
    x = mx.array(rng.standard_normal((2, 6, HIDDEN)).astype(np.float32))
    cache = GatedDeltaCache()
    layer(mx.array(rng.standard_normal((2, 5, HIDDEN)).astype(np.float32)), None, cache)
    before = [array[...] for array in cache.cache]
    _, _, *read = layer.verify(x.reshape(12, HIDDEN), *before)
    found = layer.again(before[1], read, kept)
    for row, count in enumerate(kept):
        states = [array[row : row + 1] for array in before]
        for at in range(count):
            _, states[1], conv_input, *_ = layer.verify(x[row, at : at + 1], *states)
            states[0] = conv_input[:, 1:]
        for array, expected in zip(found, states, strict=True):
            assert mx.array_equal(array[row : row + 1], expected).item()


def test_keys_behind_rejected_drafts_are_cut() -> None:
    cache = AttentionCache()
    keys = mx.random.normal((1, 1, 7, 4))
    cache.update_and_fetch(keys[:, :, :3], keys[:, :, :3])
    cache.begin_step()
    cache.update_and_fetch(keys[:, :, 3:], keys[:, :, 3:])
    cache.settle(4, [1])
    assert (cache.size(), cache.verifying) == (4, False)
    assert mx.array_equal(cache.keys_and_values()[0], keys[:, :, :4]).item()


def test_a_head_is_built_as_it_is_stored(checkpoint_dir: Callable[[Shape], Path]) -> None:
    """With as many layers as there are, quantised where it is, and not to be trained."""
    checkpoint = Checkpoint.open(checkpoint_dir(DENSE))
    head = read_mtp_head(checkpoint)
    assert head is not None
    second = {
        name.replace("layers.0.", "layers.1."): value for name, value in head.tensors.items() if "layers.0." in name
    }
    how: dict[str, Any] = {"group_size": 64, "bits": 8, "mode": "affine"}
    weight, scales, biases = mx.quantize(head.tensors["mtp.fc.weight"], group_size=64, bits=8)
    fc = {"mtp.fc.weight": weight, "mtp.fc.scales": scales, "mtp.fc.biases": biases}
    changed = replace(head, tensors=head.tensors | second | fc, quantisation={"mtp.fc": how})
    module = MultiTokenPrediction.from_head(checkpoint.config, changed)
    assert (len(module.layers), len(module.make_cache()), module.training) == (2, 2, False)
    assert not any(layer.training for layer in module.layers)
    assert isinstance(module.fc, nn.QuantizedLinear)
    assert (module.fc.bits, module.fc.group_size) == (8, 64)
    found = {f"mtp.{name}": value for name, value in tree_flatten(module.parameters())}
    assert found.keys() == changed.tensors.keys()
    assert all(mx.array_equal(found[name], value).item() for name, value in changed.tensors.items())
