"""Quantised matrices that are written out for many rows, against MLX's own products."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest

from mlx_qwen35 import ModelKit
from mlx_qwen35.conversion import convert
from mlx_qwen35.patches import dequantised
from mlx_qwen35.patches.cpu import on_cpu
from mlx_qwen35.patches.dequantised import DequantisedLinear, dequantise_prompts
from tests.tiny import DENSE, Shape


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_many_rows(dtype: mx.Dtype, bits: int, bias: bool) -> None:
    """Oracle: MLX's quantised product in float32, to 1e-5 of the scale; rounded once where the input is bfloat16."""
    mx.random.seed(0)
    plain = nn.QuantizedLinear(64, 48, bias=bias, group_size=32, bits=bits)
    if bias:
        plain.bias = mx.random.normal((48,))
    x = mx.random.normal((2, dequantised.FEWEST, 64)).astype(dtype)
    expected = plain(x.astype(mx.float32))
    plain.set_dtype(dtype)
    wide = nn.QuantizedLinear(64, 48, bias=bias, group_size=32, bits=bits)
    wide.update(plain.parameters())
    wide.set_dtype(mx.float32)
    if dtype != mx.float32:
        expected = wide(x.astype(mx.float32))
    dequantise_prompts([plain.eval()])
    assert type(plain) is DequantisedLinear
    found = plain(x)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == mx.float32 else 2**-8 + 1e-5
    assert (mx.abs(found.astype(mx.float32) - expected).max() / mx.abs(expected).max()).item() <= tolerance


def test_few_rows_are_read_by_mlx_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit: steps that verify drafts must equal single ones."""
    plain = nn.QuantizedLinear(64, 48, bias=False)
    x = mx.random.normal((dequantised.FEWEST - 1, 64))
    expected = plain(x)
    dequantise_prompts([plain.eval()])
    monkeypatch.setattr(mx, "dequantize", lambda *_: pytest.fail("the matrix was written out"))
    assert mx.array_equal(plain(x), expected).item()


def test_other_layers_stay() -> None:
    odd = nn.QuantizedLinear(64, 48, bias=False, group_size=32, bits=4, mode="mxfp4")
    linear = nn.Linear(4, 4)
    dequantise_prompts([odd, linear])
    assert type(odd) is nn.QuantizedLinear
    assert type(linear) is nn.Linear


@pytest.mark.skipif(not on_cpu(), reason="MLX runs on another backend here")
def test_only_a_model_that_is_not_exact(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    path = convert(checkpoint_dir(DENSE), tmp_path / "4", bits=4)
    for exact in (False, True):
        with ModelKit.load(path, exact=exact) as kit:
            layers = kit.model.language_model.model.layers
            assert not layers[0].training
            assert {type(layer.mlp.down_proj) is DequantisedLinear for layer in layers} == {not exact}
            assert type(kit.model.language_model.model.embed_tokens) is nn.QuantizedEmbedding
