"""mlx-lm's gated attention, with multimodal RoPE where a chunk holds an image."""

from typing import Any

import mlx.core as mx
from mlx_lm.models import qwen3_5 as upstream
from mlx_lm.models.base import scaled_dot_product_attention

from mlx_qwen35.patches import cpu
from mlx_qwen35.patches.mrope import rotate


class PatchedAttention(upstream.Attention):  # type: ignore[misc]
    """mlx-lm's layer, except for chunks with an image, and for several tokens on the CPU."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self._on_cpu: bool = args.on_cpu

    def __call__(
        self,
        x: mx.array,
        mask: Any = None,
        cache: Any = None,
        angles: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """(B, L, hidden_size) to the same.

        Args:
            mask: What mlx-lm's attention takes: None, "causal" or an array.
            cache: An attention cache; updated.
            angles: Cosine and sine from `multimodal_angles`, in place of the layer's own RoPE.
        Source:
            mlx-lm 0.32.2, models/qwen3_next.py, Qwen3NextAttention.__call__.
        """
        B, L, _ = x.shape
        by_parts = self._on_cpu and L > 1 and not hasattr(cache, "bits")
        if angles is None and not by_parts:
            return super().__call__(x, mask, cache)  # type: ignore[no-any-return]
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        queries, gate = mx.split(self.q_proj(x).reshape(B, L, heads, -1), 2, axis=-1)
        queries = self.q_norm(queries).transpose(0, 2, 1, 3)
        keys = self.k_norm(self.k_proj(x).reshape(B, L, kv_heads, -1)).transpose(0, 2, 1, 3)
        values = self.v_proj(x).reshape(B, L, kv_heads, -1).transpose(0, 2, 1, 3)
        if angles is None:
            offset = 0 if cache is None else cache.offset
            queries, keys = self.rope(queries, offset=offset), self.rope(keys, offset=offset)
        else:
            queries, keys = rotate(queries, *angles), rotate(keys, *angles)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        if by_parts:
            out = cpu.attention(queries, keys, values, scale=self.scale, mask=mask)
        else:
            out = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=self.scale, mask=mask)
        out, gate = out.transpose(0, 2, 1, 3).reshape(B, L, -1), gate.reshape(B, L, -1)
        out = cpu.gated(out, gate) if by_parts else out * mx.sigmoid(gate)
        return self.o_proj(out)  # type: ignore[no-any-return]
