"""The CPU's forms of a layer's operations against those of MLX, mlx-lm and mlx-vlm that they stand for."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import activations
from mlx_lm.models.qwen3_next import Qwen3NextRMSNormGated
from mlx_lm.models.switch_layers import SwitchLinear
from mlx_vlm.models.qwen3_vl import vision as upstream

from mlx_qwen35 import ModelKit
from mlx_qwen35.patches import cpu
from mlx_qwen35.patches.operations import UPSTREAM, CpuOperations, CudaOperations, GpuOperations, choose_operations
from mlx_qwen35.patches.qwen3_5 import PatchedMLP
from mlx_qwen35.patches.vision_layers import PatchedVisionAttention
from tests.tiny import DENSE, MOE, Shape

# Of the largest expected value. Oracles compute in float32; a result in bfloat16 is rounded once, by at most 2^-8.
TOLERANCE = {mx.float32: 2e-6, mx.bfloat16: 2**-8 + 2e-6}
needs_cpu = pytest.mark.skipif(mx.default_device() != mx.Device(mx.cpu), reason="MLX runs on another backend here")


def normal(*shape: int, dtype: mx.Dtype = mx.float32, scale: float = 1.0) -> mx.array:
    return (mx.random.normal(shape, key=mx.random.key(sum(shape))) * scale).astype(dtype)


def wide(x: mx.array) -> mx.array:
    return x.astype(mx.float32)


def assert_close(found: mx.array, expected: mx.array, dtype: mx.Dtype = mx.float32) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = mx.abs(wide(found) - expected).max() / mx.abs(expected).max()
    assert error.item() <= TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("kind", "cuda", "chosen"),
    [
        (mx.cpu, False, CpuOperations), (mx.cpu, True, CpuOperations),
        (mx.gpu, False, GpuOperations), (mx.gpu, True, CudaOperations),
    ],
    ids=["the CPU", "the CPU beside CUDA", "Metal", "CUDA"],
)  # fmt: skip
def test_the_device_that_mlx_runs_on_decides(
    monkeypatch: pytest.MonkeyPatch, kind: mx.DeviceType, cuda: bool, chosen: type
) -> None:
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(kind))
    monkeypatch.setattr(mx.cuda, "is_available", lambda: cuda)
    assert cpu.on_cpu() is (kind == mx.cpu)
    assert type(choose_operations()) is chosen
    assert choose_operations(exact=True) is UPSTREAM


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_activations(dtype: mx.Dtype, scale: float) -> None:
    """Oracles: mlx-lm 0.32.2's swiglu, MLX's sigmoid and gelu_approx."""
    x, gate = normal(3, 70, dtype=dtype), normal(4, 70, dtype=dtype, scale=scale)[:3]
    assert_close(cpu.swiglu(gate, x), activations.swiglu(wide(gate), wide(x)), dtype)
    assert_close(cpu.gated(x, gate), wide(x) * mx.sigmoid(wide(gate)), dtype)
    assert_close(cpu.gelu_tanh(gate), nn.gelu_approx(wide(gate)), dtype)


def assert_rounded_once(found: mx.array, expected: mx.array) -> None:
    """The float32 result in bfloat16, but for what lies on the edge between two of its numbers."""
    assert found.dtype == mx.bfloat16
    assert (found != expected.astype(mx.bfloat16)).astype(mx.float32).mean().item() < 0.01


def test_half_precision_is_rounded_once() -> None:
    """Oracles: MLX and mlx-lm in float32."""
    x, gate = normal(50, 70, dtype=mx.bfloat16), normal(51, 70, dtype=mx.bfloat16, scale=3.0)[:50]
    assert_rounded_once(cpu.swiglu(gate, x), activations.swiglu(wide(gate), wide(x)))
    assert_rounded_once(cpu.gated(x, gate), wide(x) * mx.sigmoid(wide(gate)))
    assert_rounded_once(cpu.gelu_tanh(x), nn.gelu_approx(wide(x)))
    weight, taps = normal(24, 4, 1, dtype=mx.bfloat16), normal(2, 103, 24, dtype=mx.bfloat16)
    conv1d = nn.Conv1d(24, 24, 4, groups=24, bias=False)
    conv1d.weight = wide(weight)
    (found,) = cpu.causal_conv_silu(taps, weight, [(1, 24)])
    assert_rounded_once(found[:, 0], nn.silu(conv1d(wide(taps))))
    queries, keys = normal(1, 4, 70, 16, dtype=mx.bfloat16), normal(1, 2, 80, 16, dtype=mx.bfloat16)
    expected = mx.fast.scaled_dot_product_attention(wide(queries), wide(keys), wide(keys), scale=0.3)
    assert_rounded_once(cpu.attention(queries, keys, keys, scale=0.3, mask=None), expected)


@pytest.mark.parametrize(("x_type", "gate_type"), [(mx.bfloat16, mx.float32), (mx.float32, mx.bfloat16)], ids=str)
def test_what_is_gated_decides_the_type(x_type: mx.Dtype, gate_type: mx.Dtype) -> None:
    """Whatever the gate's is, which loses nothing before it is used."""
    x, gate = normal(3, 70, dtype=x_type), normal(3, 70, dtype=gate_type, scale=3.0)
    assert_close(cpu.swiglu(gate, x), activations.swiglu(wide(gate), wide(x)), x_type)
    assert_close(cpu.gated(x, gate), wide(x) * mx.sigmoid(wide(gate)), x_type)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("length", [1, 2, 33])
def test_convolution(dtype: mx.Dtype, length: int) -> None:
    """Oracle: MLX's conv1d and silu; head by head, of different sizes."""
    conv1d = nn.Conv1d(24, 24, 4, groups=24, bias=False)
    weight, x = normal(24, 4, 1, dtype=dtype), normal(2, 3 + length, 24, dtype=dtype)
    conv1d.weight = wide(weight)
    heads, expected = [(2, 4), (4, 3), (1, 4)], nn.silu(conv1d(wide(x)))

    def whole(parts: list[mx.array]) -> mx.array:
        assert [part.shape for part in parts] == [(2, count, length, size) for count, size in heads]
        return mx.concatenate([part.swapaxes(1, 2).reshape(2, length, -1) for part in parts], axis=-1)

    assert_close(whole(cpu.causal_conv_silu(x, weight, heads)), expected, dtype)
    assert mx.array_equal(whole(UPSTREAM.causal_conv_silu(wide(x), conv1d, heads)), expected)


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("length", [1, 4])
def test_convolution_of_a_few_tokens(dtype: mx.Dtype, length: int) -> None:
    """Oracle: MLX's conv1d and silu."""
    conv1d = nn.Conv1d(24, 24, 4, groups=24, bias=False)
    conv1d.weight, x = normal(24, 4, 1, dtype=dtype), normal(2, 3 + length, 24, dtype=dtype)
    found = CpuOperations().conv_silu_of_few(x, conv1d)
    conv1d.weight = wide(conv1d.weight)
    expected = UPSTREAM.conv_silu_of_few(wide(x), conv1d)
    assert_close(found, expected, dtype)
    assert mx.array_equal(expected, nn.silu(conv1d(wide(x))))


@pytest.mark.parametrize("size", [1, 5, 5000])
def test_logsumexp(size: int) -> None:
    """Oracle: numpy, in float64; what is masked adds nothing, and the largest numbers do not overflow."""
    x = np.array(normal(3, size)) * 9
    x[0, size // 2 :] -= 1e30
    x[1, 1:] = -np.inf
    x[2, 0] = np.finfo(np.float32).max
    found = cpu.logsumexp(mx.array(x))
    assert found.shape == (3, 1)
    np.testing.assert_allclose(
        np.array(found), np.logaddexp.reduce(x.astype(np.float64), axis=-1)[:, None], rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("stored", [0, 5, 200])
@pytest.mark.parametrize("length", [2, cpu.QUERIES, 2 * cpu.QUERIES + 1])
@pytest.mark.parametrize("mask", [None, "causal", "padding"])
def test_attention(mask: str | None, length: int, stored: int, dtype: mx.Dtype) -> None:
    """Oracle: MLX's scaled_dot_product_attention."""
    queries = normal(2, 4, length, 16, dtype=dtype)
    keys, values = normal(2, 2, stored + length, 16, dtype=dtype), normal(2, 2, stored + length, 16, dtype=dtype)
    given: mx.array | str | None = mask
    if mask == "padding":
        # The first row's first token is padding, which may look nowhere.
        at = mx.arange(stored + length)
        given = (mx.arange(stored, stored + length)[:, None] >= at) & (mx.array([1, 0])[:, None, None, None] <= at)
    found = cpu.attention(queries, keys, values, scale=0.3, mask=given)
    expected = mx.fast.scaled_dot_product_attention(wide(queries), wide(keys), wide(values), scale=0.3, mask=given)
    seen = slice(1 if mask == "padding" and not stored else 0, None)
    assert_close(found[:, :, seen], expected[:, :, seen], dtype)
    assert mx.isfinite(found).all().item()


@pytest.mark.parametrize("shape", [(1, 7 + 2 * cpu.QUERIES), (2, 1, 1, 7 + 2 * cpu.QUERIES), (2 * cpu.QUERIES, 1)])
def test_a_mask_may_be_smaller_than_the_scores(shape: tuple[int, ...]) -> None:
    """One for all queries, or for all keys, as MLX's scaled_dot_product_attention takes it."""
    queries, keys = normal(2, 4, 2 * cpu.QUERIES, 16), normal(2, 2, 7 + 2 * cpu.QUERIES, 16)
    mask = normal(*shape) > -1
    found = cpu.attention(queries, keys, keys, scale=0.3, mask=mask)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, keys, scale=0.3, mask=mask)
    seen = mx.broadcast_to(mask, (2, 4, 2 * cpu.QUERIES, 7 + 2 * cpu.QUERIES)).any(axis=-1, keepdims=True)
    assert_close(mx.where(seen, found, 0), mx.where(seen, expected, 0))


@pytest.mark.parametrize("stored", [37, cpu._LONG + 3])
@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("padding", [0, 3])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_attention_of_a_few_queries(stored: int, length: int, padding: int, dtype: mx.Dtype) -> None:
    """Oracles: MLX's own function, in float32 within 1e-6 of the scale; and to the bit what each query gets alone.

    In bfloat16 scores and weights are rounded before the result is, so that it may be off by twice as much.
    """
    bound = {mx.float32: 1e-6, mx.bfloat16: 2 * TOLERANCE[mx.bfloat16]}[dtype]
    queries = normal(2, 6, length, 16, dtype=dtype)
    k, v = normal(2, 2, stored, 16, dtype=dtype), normal(2, 2, stored, 16, dtype=dtype)
    seen = mx.arange(stored)[None] <= mx.arange(stored - length, stored)[:, None]
    seen = mx.stack([seen, seen & (mx.arange(stored) >= padding)])[:, None]
    mask = seen if padding else None
    found = cpu.attention_of_few(queries, k, v, scale=0.25, mask=mask)
    expected = mx.fast.scaled_dot_product_attention(wide(queries), wide(k), wide(v), scale=0.25, mask=seen)
    assert found.dtype == dtype
    assert float(mx.abs(wide(found) - expected).max()) <= bound * float(mx.abs(expected).max())
    for number in range(length):
        stop = stored - length + 1 + number
        own = None if mask is None else mask[:, :, number : number + 1, :stop]
        here = slice(number, number + 1)
        alone = cpu.attention_of_few(queries[:, :, here], k[:, :, :stop], v[:, :, :stop], scale=0.25, mask=own)
        assert mx.array_equal(found[:, :, here], alone).item()


def test_causal_attention_looks_at_no_keys_behind_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where queries are the last of many positions: those of the first block see what is stored and themselves."""
    seen: list[int] = []
    exp = cpu.exp_of_difference
    monkeypatch.setattr(cpu, "exp_of_difference", lambda x, most: seen.append(x.shape[-1]) or exp(x, most))
    queries, keys = normal(1, 2, 2 * cpu.QUERIES + 1, 16), normal(1, 2, 2 * cpu.QUERIES + 6, 16)
    cpu.attention(queries, keys, keys, scale=0.3, mask="causal")
    assert seen == [cpu.QUERIES + 5, 2 * cpu.QUERIES + 5, 2 * cpu.QUERIES + 6]


@pytest.mark.thorough
def test_attention_holds_few_scores() -> None:
    queries, keys = normal(1, 8, 2048, 16), normal(1, 2, 2048, 16)
    mx.eval(queries, keys)
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(cpu.attention(queries, keys, keys, scale=0.3, mask=None))
    all_scores = 8 * 2048 * 2048 * 4
    assert mx.get_peak_memory() - before < all_scores


@pytest.mark.parametrize("frames", [[0, 24], [0, 8, 24]])
def test_vision_attention(frames: list[int]) -> None:
    """Oracle: mlx-vlm 0.7.10's Attention, float32, 2e-6 of the scale."""
    theirs = upstream.Attention(32, 4)
    own = PatchedVisionAttention(32, 4, CpuOperations())
    own.update(theirs.parameters())
    x, angles, edges = normal(24, 32), normal(24, 4, scale=3.0), mx.array(frames)
    assert_close(own(x, edges, angles), theirs(x, edges, angles))


@pytest.mark.parametrize("eps", [1e-6, 0.25])
def test_a_gated_norm_has_the_norm_s_own_epsilon(eps: float) -> None:
    """Oracle: mlx-lm 0.32.2's Qwen3NextRMSNormGated."""
    norm = Qwen3NextRMSNormGated(70, eps=eps)
    norm.weight = normal(70)
    x, gate = normal(3, 70, scale=0.01), normal(4, 70)[:3]
    assert_close(CpuOperations().gated_norm(x, gate, norm), norm(x, gate))


def lies_turned(weight: mx.array) -> bool:
    """Whether the numbers of a column lie side by side in memory."""
    return np.array(weight, copy=False).strides[-2] == weight.itemsize


@needs_cpu
@pytest.mark.parametrize("rows", [1, 77, 128, 320])
def test_turned_weights_give_the_same_products(rows: int) -> None:
    layers = nn.Sequential(
        nn.Linear(48, rows, bias=False), nn.Embedding(rows, 48), SwitchLinear(48, rows, 3, bias=False),
        nn.Linear(48, rows), nn.Linear(48, rows),
    )  # fmt: skip
    linear, embedding, experts, biased, half = layers.layers
    half.set_dtype(mx.bfloat16)
    mx.eval(layers.parameters())
    calls = [
        lambda: linear(normal(5, 48)),
        lambda: linear(normal(1, 48)),
        lambda: embedding.as_linear(normal(5, 48)),
        lambda: embedding(mx.array([0, rows - 1, rows // 2])),
        lambda: experts(normal(5, 1, 1, 48), mx.array([[0, 2], [1, 1], [2, 0], [1, 0], [2, 2]])),
        lambda: biased(normal(5, 48)),
        lambda: half(normal(5, 48, dtype=mx.bfloat16)),
    ]
    before = [call() for call in calls]
    weights = [layer.weight for layer in layers.layers]
    mx.eval(before)
    cpu.turn_weights(layers)
    for weight, layer in zip(weights, layers.layers, strict=True):
        assert mx.array_equal(weight, layer.weight)
    assert half.weight is weights[-1]
    assert biased.weight is weights[-2]
    # One row or column lies either way.
    assert rows == 1 or [lies_turned(layer.weight) for layer in layers.layers[:3]] == [True] * 3
    for expected, call in zip(before, calls, strict=True):
        assert mx.array_equal(expected, call())


@needs_cpu
@pytest.mark.parametrize("exact", [False, True], ids=["compiled", "exact"])
def test_a_model_that_computes_here_has_its_weights_turned(
    checkpoint_dir: Callable[[Shape], Path], exact: bool
) -> None:
    """All but those of an exact model, which reads text as mlx-lm does, whatever a BLAS library makes of them."""
    with ModelKit.load(checkpoint_dir(MOE), exact=exact) as kit:
        experts = kit.model.language_model.model.layers[0].mlp.switch_mlp.up_proj.weight
        assert lies_turned(experts) is not exact


@needs_cpu
@pytest.mark.parametrize("shape", [DENSE, MOE], ids=lambda shape: str(shape.name))
def test_an_exact_model_reads_text_without_it(checkpoint_dir: Callable[[Shape], Path], shape: Shape) -> None:
    for exact in (False, True):
        with ModelKit.load(checkpoint_dir(shape), exact=exact) as kit:
            for layer in kit.model.language_model.model.layers:
                attention = layer.linear_attn if layer.is_linear else layer.self_attn
                assert isinstance(attention.operations, CpuOperations) is not exact
                assert isinstance(layer.mlp, PatchedMLP) is (shape is DENSE and not exact)
            tower = kit.model.vision_tower
            blocks = kit._thread.call(lambda tower=tower: tower.blocks)
            assert all(isinstance(block.attn, PatchedVisionAttention) for block in blocks)


def test_the_device_is_asked_for_when_it_matters(kit: ModelKit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when a module is imported: how many tokens a request reads at once follows the device of now."""
    for here, steps in ((True, 512), (False, 2048)):
        monkeypatch.setattr(cpu, "on_cpu", lambda here=here: here)
        assert isinstance(choose_operations(), CpuOperations) is here
        assert choose_operations(exact=True) is UPSTREAM
        assert kit.request([1, 2, 3]).prefill_step_size == steps
        assert kit.request([1, 2, 3], prefill_step_size=7).prefill_step_size == 7
