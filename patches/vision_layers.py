"""The vision tower's layers with the device's own operations.

An image of 1024 x 1024 has 4096 patches: on the CPU, mlx-vlm's attention would hold some 800 MB of scores at once.
"""

from itertools import pairwise
from typing import Any

import mlx.core as mx

from mlx_qwen35.patches.mrope import rotate
from mlx_qwen35.patches.operations import Operations
from mlx_qwen35.upstream import import_vision_tower

upstream: Any = import_vision_tower()


class PatchedVisionAttention(upstream.Attention):  # type: ignore[misc]
    """mlx-vlm's layer, frame by frame."""

    def __init__(self, dim: int, num_heads: int, operations: Operations) -> None:
        super().__init__(dim, num_heads)
        self._operations = operations

    def __call__(self, x: mx.array, cu_seqlens: mx.array, rotary_pos_emb: mx.array) -> mx.array:
        """(N, hidden_size) to the same.

        Args:
            cu_seqlens: Where frames begin, and N; patches look at those of their own frame.
            rotary_pos_emb: Angles, (N, head_dim / 2).
        Source:
            mlx-vlm 0.7.10, models/qwen3_vl/vision.py, Attention.__call__.
        """
        N = len(x)
        q, k, v = self.qkv(x).reshape(N, 3, self.num_heads, -1).transpose(1, 2, 0, 3)[:, None]
        angles = rotary_pos_emb.astype(mx.float32)[None, None]
        cos, sin = mx.cos(angles), mx.sin(angles)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        frames = [
            self._operations.attention(q[:, :, at:to], k[:, :, at:to], v[:, :, at:to], scale=self.scale, mask=None)
            for at, to in pairwise(cu_seqlens.tolist())  # type: ignore[arg-type]
        ]
        return self.proj(mx.concatenate(frames, axis=2).transpose(0, 2, 1, 3).reshape(N, -1))  # type: ignore[no-any-return]


def replace_layers(tower: Any, operations: Operations) -> None:
    """Put these layers into a tower that has no weights yet."""
    config = tower.config
    for block in tower.blocks:
        block.attn = PatchedVisionAttention(config.hidden_size, config.num_heads, operations)
        block.mlp.act_fn = operations.gelu_tanh
