"""mlx-lm's gated attention, with multimodal RoPE where a chunk holds an image."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx_lm.models import qwen3_5 as upstream

from mlx_qwen35.patches.mrope import rotate
from mlx_qwen35.patches.operations import UPSTREAM, Operations
from mlx_qwen35.patches.yarn import set_yarn
from mlx_qwen35.state.joint import JointAttentionCache


class PatchedAttention(upstream.Attention):  # type: ignore[misc]
    """mlx-lm's layer, except for chunks with an image, and where the device has operations of its own."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self._operations: Operations = args.operations
        if args.yarn is not None:
            set_yarn(self.rope, args.rotary_dims, args.rope_theta, args.yarn)

    @property
    def operations(self) -> Operations:
        """Upstream's, while it is trained."""
        return UPSTREAM if self.training else self._operations

    def __call__(
        self,
        x: mx.array,
        mask: Any = None,
        cache: Any = None,
        angles: tuple[mx.array, mx.array] | None = None,
    ) -> mx.array:
        """(B, L, hidden_size) to the same.

        Args:
            mask: What mlx-lm's attention takes: None, "causal" or an array; none for a joint cache.
            cache: An attention cache; updated.
            angles: Cosine and sine from `multimodal_angles`, in place of the layer's own RoPE.
        Source:
            mlx-lm 0.32.2, models/qwen3_next.py, Qwen3NextAttention.__call__.
        """
        L = x.shape[1]
        operations = self.operations
        if isinstance(cache, JointAttentionCache):
            return self._attend_alone(x, cache)
        upstream = operations.upstream or L == 1
        if hasattr(cache, "bits"):
            upstream = operations.upstream_if_quantized
        if angles is None and upstream:
            return super().__call__(x, mask, cache)  # type: ignore[no-any-return]
        offset = 0 if cache is None else cache.offset
        queries, keys, values, gate = self.project(
            x, lambda y: rotate(y, *angles) if angles else self.rope(y, offset=offset)
        )
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        out = operations.attention(queries, keys, values, scale=self.scale, mask=mask, cache=cache)
        return self.finish(out, gate)

    def _attend_alone(self, x: mx.array, cache: JointAttentionCache) -> mx.array:
        """(B, L, hidden_size) to the same, where each row attends to keys and values of its own."""
        L, offset, found = x.shape[1], cache.offset, []
        queries, keys, values, gate = self.project(x, lambda y: self.rope(y, offset=offset))
        for row, (own, length) in enumerate(zip(cache.rows, cache.lengths, strict=True)):
            q, k, v = (heads[row : row + 1, :, :length] for heads in (queries, keys, values))
            mask = own.make_mask(length, return_array=False, window_size=None)
            k, v = own.update_and_fetch(k, v)
            out = self.operations.attention(q, k, v, scale=self.scale, mask=mask, cache=own)
            found.append(mx.pad(out, [(0, 0), (0, 0), (0, L - length), (0, 0)]))
        return self.finish(mx.concatenate(found), gate)

    def project(self, x: mx.array, rotate_heads: Callable[[mx.array], mx.array]) -> tuple[mx.array, ...]:
        """Queries, keys and values (B, H, L, D), and the gate (B, L, H * D), of (B, L, hidden_size).

        Args:
            rotate_heads: The rotary embedding of queries and keys, (B, H, L, D) to the same.
        """
        B, L, _ = x.shape
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        queries, gate = mx.split(self.q_proj(x).reshape(B, L, heads, -1), 2, axis=-1)
        both = [self.q_norm(queries), self.k_norm(self.k_proj(x).reshape(B, L, kv_heads, -1))]
        if self.operations.upstream:
            queries, keys = (rotate_heads(part.transpose(0, 2, 1, 3)) for part in both)
        else:
            # Without a kernel of its own a rotation is a dozen operations: one for all heads.
            turned = rotate_heads(mx.concatenate(both, axis=2).transpose(0, 2, 1, 3))
            queries, keys = mx.split(turned, [heads], axis=1)
        values = self.v_proj(x).reshape(B, L, kv_heads, -1).transpose(0, 2, 1, 3)
        return queries, keys, values, gate.reshape(B, L, -1)

    def finish(self, out: mx.array, gate: mx.array) -> mx.array:
        """Gate and project what was attended to: (B, H, L, D) and a gate (B, L, H * D) to (B, L, hidden_size)."""
        out = out.transpose(0, 2, 1, 3).reshape(gate.shape)
        return self.o_proj(self.operations.gated(out, gate))  # type: ignore[no-any-return]
