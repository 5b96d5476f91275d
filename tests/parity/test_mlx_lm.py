"""Text against unpatched mlx-lm: logits and caches, bit-identical if the model is exact, close if not."""

from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from mlx_lm.generate import generate_step
from mlx_lm.models.qwen3_5 import Model as UpstreamModel
from mlx_lm.utils import load_model

from mlx_qwen35 import Engine, GenerationChunk, ModelKit
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.patches.qwen3_5 import Model
from mlx_qwen35.prompts.positions import lay_out
from mlx_qwen35.state.cache import AttentionCache, PromptMedia, attach_media
from tests.parity.cases import TEXT_TOLERANCE
from tests.tiny import Shape

TOKENS = np.random.Generator(np.random.PCG64(5)).integers(0, 320, (3, 40))


# Whether the patched model is exact, and in which dtype both are.
EXACT = [pytest.param((True, mx.float32), id="exact-fp32"), pytest.param((True, mx.bfloat16), id="exact-bf16")]


@pytest.fixture(scope="module", params=[*EXACT, pytest.param((False, mx.float32), id="fp32")])
def pair(
    request: pytest.FixtureRequest, dense_and_moe: Shape, checkpoint_dir: Callable[[Shape], Path]
) -> tuple[Any, Any]:
    """The patched and the unpatched model with the same weights, in one process."""
    exact, dtype = request.param
    directory = checkpoint_dir(dense_and_moe)
    patched = Model.from_checkpoint(Checkpoint.open(directory), exact=exact)
    unpatched, _ = load_model(directory)
    assert isinstance(unpatched, UpstreamModel)
    assert type(unpatched) is not type(patched)
    for model in (patched, unpatched):
        # Contiguous, because MLX's CUDA backend reads the wrong ones of mlx-lm's experts, which are halves of an array.
        model.update(tree_map(lambda value: mx.contiguous(value.astype(dtype)), model.parameters()))
        if dtype != mx.float32 and not mx.metal.is_available():
            # MLX's CPU backend multiplies unquantised experts in float32 only.
            nn.quantize(model, 32, 8, class_predicate=lambda path, _: path.endswith("_proj") and "switch" in path)
    return patched, unpatched


def assert_same(pair: tuple[Any, Any], one: Any, other: Any) -> None:
    """Every array, and there are some: equal to the last bit, or within TEXT_TOLERANCE of its largest value."""
    left, right = dict(tree_flatten(one)), dict(tree_flatten(other))
    assert left.keys() == right.keys()
    assert any(isinstance(value, mx.array) for value in left.values())
    for name, value in left.items():
        if not isinstance(value, mx.array):
            continue
        assert value.dtype == right[name].dtype
        if pair[0].language_model.args.exact:
            assert mx.array_equal(value, right[name]).item(), name
        else:
            assert value.shape == right[name].shape
            scale = mx.abs(right[name]).max().item()
            assert mx.abs(value - right[name]).max().item() <= TEXT_TOLERANCE * scale, name


def stored(cache: list[Any]) -> list[Any]:
    """Keys and values, or GDN states, of every layer."""
    return [
        list(layer.keys_and_values()) if hasattr(layer, "keys_and_values") else list(layer.cache) for layer in cache
    ]


@pytest.mark.some(3)
def test_uncached(pair: tuple[Any, Any]) -> None:
    patched, unpatched = pair
    tokens = mx.array(TOKENS)
    assert_same(pair, [patched(tokens)], [unpatched(tokens)])


@pytest.mark.some(3)
def test_cached_prefill_and_decode(pair: tuple[Any, Any]) -> None:
    patched, unpatched = pair
    caches = patched.make_cache(), unpatched.make_cache()
    assert any(isinstance(layer, AttentionCache) for layer in caches[0])
    for chunk in (TOKENS[:1, :17], TOKENS[:1, 17:30], TOKENS[:1, 30:31], TOKENS[:1, 31:32]):
        tokens = mx.array(chunk)
        assert_same(pair, [patched(tokens, cache=caches[0])], [unpatched(tokens, cache=caches[1])])
        assert_same(pair, stored(caches[0]), stored(caches[1]))


def test_text_in_front_of_an_image(pair: tuple[Any, Any]) -> None:
    """Only a chunk that holds an image leaves mlx-lm's code."""
    layout = lay_out([1] * 20 + [9] * 6, [(1, 2, 3)], image_token_id=9)
    patched, unpatched = pair
    caches = patched.make_cache(), unpatched.make_cache()
    attach_media(caches[0], PromptMedia(layout, [mx.zeros((6, 64))]))  # type: ignore[arg-type]
    for start, stop in ((0, 12), (12, 19), (19, 20)):
        tokens = mx.array(TOKENS[:1, start:stop])
        assert_same(pair, [patched(tokens, cache=caches[0])], [unpatched(tokens, cache=caches[1])])
    assert_same(pair, stored(caches[0]), stored(caches[1]))


@pytest.mark.some(3)
def test_batched_cache(pair: tuple[Any, Any]) -> None:
    """Rows of different lengths, prefilled apart, then decoded together."""
    rows = []
    for model in pair:
        caches = []
        for length in (9, 23, 16):
            cache = model.make_cache()
            model(mx.array(TOKENS[:1, :length]), cache=cache)
            caches.append(cache)
        batch = [layers[0].merge(list(layers)) for layers in zip(*caches, strict=True)]
        logits = [model(mx.array(TOKENS[:, step : step + 1]), cache=batch) for step in range(4)]
        rows.append((logits, stored(batch)))
    assert_same(pair, rows[0], rows[1])


@pytest.mark.some(3)
@pytest.mark.parametrize("edges", [(0, 40), (0, 16, 32, 40), (0, 20, 21, 22, 23, 40)], ids=str)
def test_padded_batch(pair: tuple[Any, Any], edges: tuple[int, ...]) -> None:
    """mlx-lm's own batched prefill with right padding, whole and in pieces. What padding itself gives means nothing."""
    lengths, rows = [40, 22, 31], []
    for model in pair:
        batch = [layer.merge([layer, layer, layer]) for layer in model.make_cache()]
        for layer in batch:
            layer.prepare(lengths=lengths, right_padding=[40 - length for length in lengths])
        read = mx.concatenate([model(mx.array(TOKENS[:, a:b]), cache=batch) for a, b in pairwise(edges)], axis=1)
        for layer in batch:
            layer.finalize()
        written = model(mx.array(TOKENS[:, :1]), cache=batch)
        logits = [read[row, :length] for row, length in enumerate(lengths)]
        rows.append((logits, written, [stored([layer.extract(row) for layer in batch]) for row in range(3)]))
    assert_same(pair, rows[0], rows[1])


@pytest.mark.parametrize("pair", EXACT, indirect=True)
def test_quantised_key_values(pair: tuple[Any, Any]) -> None:
    """mlx-lm's kv_bits converts the patched cache as it converts its own."""
    outs = []
    for model in pair:
        cache = model.make_cache()
        model(mx.array(TOKENS[:1]), cache=cache)
        quantised = [
            layer.to_quantized(group_size=32, bits=8) if hasattr(layer, "to_quantized") else layer for layer in cache
        ]
        outs.append([model(mx.array(TOKENS[1:2, at : at + 1]), cache=quantised) for at in range(2)])
    assert_same(pair, outs[0], outs[1])


def test_an_exact_kit_writes_what_mlx_lm_writes(dense_and_moe: Shape, checkpoint_dir: Callable[[Shape], Path]) -> None:
    """Tokens and log probabilities to the last bit, as a stream and as the only row of an engine."""
    directory = checkpoint_dir(dense_and_moe)
    upstream, _ = load_model(directory)
    ids, written = TOKENS[0].tolist(), 12
    steps = islice(generate_step(mx.array(ids), upstream, max_tokens=written), written)
    expected = [(int(token), float(scores[int(token)].item())) for token, scores in steps]
    with ModelKit.load(directory, exact=True) as kit:
        request = kit.request(ids, max_tokens=written, temperature=0.0, logprobs=True)
        chunks: list[Any] = []
        engine = Engine(kit)
        engine.submit(request, chunks.append)
        engine.close()
        for found in (list(kit.stream(ids, max_tokens=written, temperature=0.0, logprobs=True)), chunks):
            tokens = [(chunk.token, chunk.logprob) for chunk in found if isinstance(chunk, GenerationChunk)]
            assert tokens == expected[: len(tokens)]
            assert len(tokens) == written or tokens[-1][0] in kit.tokenizer.eos_token_ids
