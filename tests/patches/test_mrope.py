"""Multimodal RoPE against transformers' way of mixing the three axes; test_transformers runs transformers itself."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from numpy.typing import NDArray

from mlx_qwen35.patches.mrope import multimodal_angles, rotate

# Rotary dimensions and sections; in most of them one axis ends before the frequencies do.
SECTIONS = [
    (16, (3, 3, 2)), (16, (4, 3, 1)), (16, (4, 1, 3)), (16, (2, 5, 1)), (16, (2, 1, 5)), (16, (8, 0, 0)),
    (16, (0, 4, 4)), (64, (11, 11, 10)), (64, (20, 4, 8)), (64, (20, 8, 4)),
]  # fmt: skip


def recomposed(angles: NDArray[np.float64], section: tuple[int, int, int]) -> NDArray[np.float64]:
    """Angles (3, B, L, half) of three axes to (B, L, half).

    Source:
        transformers 5.23, Qwen3_5TextRotaryEmbedding.recomposition_frequencies.
    """
    out = angles[0].copy()
    for axis, offset in ((1, 1), (2, 2)):
        taken = slice(offset, section[axis] * 3, 3)
        out[..., taken] = angles[axis][..., taken]
    return out


@pytest.mark.parametrize(("rotary_dims", "section"), SECTIONS)
def test_each_frequency_follows_its_axis(rotary_dims: int, section: tuple[int, int, int]) -> None:
    """Two rows of tokens whose three positions all differ."""
    positions = np.random.Generator(np.random.PCG64(1)).permutation(60).reshape(3, 2, 10)
    frequencies = 100.0 ** -(np.arange(0, rotary_dims, 2) / rotary_dims)
    expected = recomposed(positions[..., None] * frequencies, section)
    rope = nn.RoPE(rotary_dims, traditional=False, base=100.0)
    cos, sin = multimodal_angles(rope, rotary_dims, section, mx.array(positions))
    assert cos.shape == sin.shape == (2, 1, 10, rotary_dims // 2)
    np.testing.assert_allclose(np.array(cos[:, 0]), np.cos(expected), atol=2e-5)
    np.testing.assert_allclose(np.array(sin[:, 0]), np.sin(expected), atol=2e-5)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=str)
def test_equal_axes_turn_as_plain_rope(dtype: mx.Dtype) -> None:
    """Each row from its own position; dimensions past the rotary ones are left alone; the dtype stays."""
    rope = nn.RoPE(16, traditional=False, base=100.0)
    x = mx.random.normal((2, 4, 5, 64), key=mx.random.key(0)).astype(dtype)
    offsets = mx.array([3, 40])
    positions = mx.broadcast_to((offsets[:, None] + mx.arange(5))[None], (3, 2, 5))
    found = rotate(x, *multimodal_angles(rope, 16, (3, 3, 2), positions))
    assert found.dtype == dtype
    expected = rope(x.astype(mx.float32), offset=offsets).astype(dtype).astype(mx.float32)
    # In bfloat16 a last rounding of its own, of numbers up to about 4.
    tolerance = 1e-5 if dtype == mx.float32 else 2**-6
    np.testing.assert_allclose(np.array(found.astype(mx.float32)), np.array(expected), atol=tolerance)
    assert mx.array_equal(found[..., 16:], x[..., 16:]).item()
