"""Rotation by three-axis positions, for the chunks of a prompt that hold an image."""

import mlx.core as mx
import mlx.nn as nn


def multimodal_angles(
    rope: nn.Module, rotary_dims: int, mrope_section: tuple[int, int, int], position_ids: mx.array
) -> tuple[mx.array, mx.array]:
    """Cosine and sine of interleaved multimodal RoPE.

    The angles are read off the layer's own RoPE module, by letting it rotate unit vectors. So
    frequencies and YaRN's scaling are the same here as in the text path, by construction.

    Args:
        rope: The attention layer's RoPE module.
        rotary_dims: Leading dimensions of a head that rotate.
        mrope_section: Frequencies that follow time, height and width.
        position_ids: Time, height and width positions, shape (3, B, L).
    Returns:
        Cosine and sine, each (B, 1, L, rotary_dims / 2), float32.
    Source:
        transformers 5.23, Qwen3_5TextRotaryEmbedding.forward and recomposition_frequencies.
    """
    half = rotary_dims // 2
    flat = position_ids.reshape(-1)
    # (1, 0) rotated by an angle is (cos, sin); the halves of the vector hold the two parts.
    unit = mx.concatenate([mx.ones((flat.size, 1, 1, half)), mx.zeros((flat.size, 1, 1, half))], axis=-1)
    rotated = rope(unit, offset=flat).reshape(3, *position_ids.shape[1:], rotary_dims)
    _, height, width = mrope_section
    frequency = mx.arange(half)
    by_height = (frequency % 3 == 1) & (frequency < 3 * height)
    by_width = (frequency % 3 == 2) & (frequency < 3 * width)
    by_height, by_width = mx.tile(by_height, 2), mx.tile(by_width, 2)
    chosen = mx.where(by_width, rotated[2], mx.where(by_height, rotated[1], rotated[0]))
    cos, sin = mx.split(chosen[:, None], 2, axis=-1)
    return cos, sin


def rotate(x: mx.array, cos: mx.array, sin: mx.array) -> mx.array:
    """Rotate the leading dimensions of each head by per-token angles, half-split.

    Args:
        x: Queries or keys, (B, H, L, D).
        cos, sin: (B, 1, L, rotary_dims / 2), float32.
    Returns:
        (B, H, L, D) in the dtype of `x`; dimensions past rotary_dims are passed through.
    Source:
        transformers 5.23, qwen3_5 apply_rotary_pos_emb and rotate_half; computed in float32.
    """
    half = cos.shape[-1]
    first, second, rest = mx.split(x, [half, 2 * half], axis=-1)
    first, second = first.astype(mx.float32), second.astype(mx.float32)
    rotated = mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return mx.concatenate([rotated.astype(x.dtype), rest], axis=-1)
