"""mlx-lm's GDN layer with a choice of algorithms for reading a prompt."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import mlx.core as mx
from mlx_lm.models import qwen3_5 as upstream
from mlx_lm.models.gated_delta import compute_g, gated_delta_update, normalize_qk

from mlx_qwen35.errors import OptionError
from mlx_qwen35.patches.gated_delta import gated_delta_chunked, gated_delta_steps, log_decay
from mlx_qwen35.patches.operations import Operations

# How a GDN layer reads several tokens: "native" is mlx-lm's own code, which is its Metal kernel, or a loop over tokens
# where there is no Metal; "chunked" is this package's, "fast" MLX's built-in function.
GatedDelta = Literal["native", "chunked", "fast"]


def choose_gated_delta(name: str | None, *, exact: bool = False) -> GatedDelta:
    """The named algorithm, or the fastest one for the device that MLX runs on.

    Args:
        exact: Only mlx-lm's own code will do.
    Raises:
        OptionError: There is no such algorithm, or it is not exact.
    """
    if name is None:
        on_metal = mx.metal.is_available() and mx.default_device() == mx.Device(mx.gpu)
        return "native" if exact or on_metal else "chunked"
    if name not in get_args(GatedDelta):
        raise OptionError(f"gated_delta: expected one of {', '.join(get_args(GatedDelta))}, found {name!r}")
    if exact and name != "native":
        raise OptionError(f"gated_delta: expected native where exact is asked for, found {name!r}")
    return name  # type: ignore[return-value]


class PatchedGatedDeltaNet(upstream.GatedDeltaNet):  # type: ignore[misc]
    """mlx-lm's layer, except that several tokens at once may be read by another algorithm."""

    def __init__(self, args: Any) -> None:
        super().__init__(args)
        self._gated_delta: GatedDelta = args.gated_delta
        self.operations: Operations = args.operations

    def __call__(self, inputs: mx.array, mask: mx.array | None = None, cache: Any = None) -> mx.array:
        """(B, L, hidden_size) to the same; `mask` and `cache` as in mlx-lm.

        Source:
            mlx-lm 0.32.2, models/qwen3_5.py, GatedDeltaNet.__call__.
        """
        B, L, _ = inputs.shape
        if self._gated_delta == "native" or L == 1 or self.training or self.sharding_group is not None:
            return super().__call__(inputs, mask, cache)  # type: ignore[no-any-return]
        qkv = self.in_proj_qkv(inputs)
        if mask is not None:
            qkv = mx.where(mask[..., None], qkv, 0)
        kept = self.conv_kernel_size - 1
        conv_state = cache[0] if cache is not None else None
        if conv_state is None:
            conv_state = mx.zeros((B, kept, self.conv_dim), dtype=inputs.dtype)
        conv_input = mx.concatenate([conv_state, qkv], axis=1)
        keys, values = (self.num_k_heads, self.head_k_dim), (self.num_v_heads, self.head_v_dim)
        q, k, v = self.operations.causal_conv_silu(conv_input, self.conv1d, (keys, keys, values))
        q, k = normalize_qk(q, k, inv_scale=self.head_k_dim**-0.5, eps=1e-6)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        a, beta = self.in_proj_a(inputs), mx.sigmoid(self.in_proj_b(inputs))
        state = cache[1] if cache is not None else None
        if state is None:
            state = mx.zeros((B, self.num_v_heads, self.head_v_dim, self.head_k_dim))
        if self._gated_delta == "fast":
            out, state = mx.fast.gated_delta_update(q, k, v, compute_g(self.A_log, a, self.dt_bias), beta, state, mask)
        else:
            out, state = gated_delta_chunked(q, k, v, log_decay(self.A_log, a, self.dt_bias), beta, state, mask)
        if cache is not None:
            if cache.lengths is None:
                cache[0] = mx.contiguous(conv_input[:, -kept:, :])
            else:
                rows = mx.clip(cache.lengths, 0, L)[:, None] + mx.arange(kept)
                cache[0] = mx.take_along_axis(conv_input, rows[..., None], axis=1)
            cache[1] = state
            cache.advance(L)
        z = self.in_proj_z(inputs).reshape(B, L, self.num_v_heads, self.head_v_dim)
        out = self.operations.gated_norm(out, z, self.norm)
        return self.out_proj(out.reshape(B, L, -1))  # type: ignore[no-any-return]

    def verify(self, inputs: mx.array, conv_state: mx.array, state: mx.array) -> tuple[mx.array, ...]:
        """Read a few tokens with the arithmetic of as many steps of one.

        Args:
            inputs: (B * L, hidden_size), the tokens of a row one behind the other.
            conv_state, state: The layer's states before.
        Returns:
            (B * L, hidden_size), the recurrent state after, and what `again` needs: the convolution's inputs, and on a
            GPU q, k, v, and what decay and beta are made of; elsewhere, where the recurrence is a loop anyhow, the
            state after each token.
        Source:
            mlx-lm 0.32.2, models/qwen3_5.py, GatedDeltaNet.__call__.
        """
        B = conv_state.shape[0]
        L = inputs.shape[0] // B
        Hk, Hv, Dk, Dv = self.num_k_heads, self.num_v_heads, self.head_k_dim, self.head_v_dim
        z = self.in_proj_z(inputs).reshape(B, L, Hv, Dv)
        a, b = (project(inputs).reshape(B, L, Hv) for project in (self.in_proj_a, self.in_proj_b))
        conv_input = mx.concatenate([conv_state, self.in_proj_qkv(inputs).reshape(B, L, -1)], axis=1)
        qk, v = mx.split(self.operations.conv_silu_of_few(conv_input, self.conv1d), [2 * self.key_dim], axis=-1)
        qk, v = qk.reshape(B, L, 2, Hk, Dk), v.reshape(B, L, Hv, Dv)
        # As mlx-lm's normalize_qk, in one.
        scale, eps = Dk**-0.5, 1e-6 / Dk
        qk = mx.fast.rms_norm(qk, None, eps) * mx.array([scale * scale, scale], dtype=qk.dtype)[:, None, None]
        kept: tuple[mx.array, ...]
        if self.operations.upstream:
            kept = (qk[:, :, 0], qk[:, :, 1], v, a, b)
            out, state = gated_delta_update(*kept, self.A_log, self.dt_bias, state)
        else:
            g, beta = compute_g(self.A_log, a, self.dt_bias), mx.sigmoid(b)
            out, states = gated_delta_steps(qk, v, g, beta, state)
            state, kept = states[-1][:, 0], tuple(states)
        out = self.out_proj(self.operations.gated_norm(out, z, self.norm).reshape(B * L, -1))
        return out, state, conv_input, *kept

    def again(self, before: mx.array, read: Sequence[mx.array], kept: Sequence[int]) -> list[mx.array]:
        """The layer's two states as if each row had read only its first tokens, to the bit.

        Args:
            before: The recurrent state before `verify`.
            read: What that returned behind the state.
            kept: Of each row, how many of its tokens.
        """
        conv_input, *others = read
        most, behind, mask = max(kept), self.conv_kernel_size - 1, None
        if min(kept) == most:
            conv_state = mx.contiguous(conv_input[:, most : most + behind])
        else:
            counts = mx.array(list(kept))[:, None]
            conv_state = mx.take_along_axis(conv_input, (counts + mx.arange(behind))[..., None], axis=1)
            mask = mx.arange(most) < counts
        if not self.operations.upstream:
            states = [before, *(state[:, 0] for state in others)]
            if mask is None:
                return [conv_state, states[most]]
            return [conv_state, mx.concatenate([states[count][row : row + 1] for row, count in enumerate(kept)])]
        if most == 0:
            return [conv_state, before]
        q, k, v, a, b = (x[:, :most] for x in others)
        _, state = gated_delta_update(q, k, v, a, b, self.A_log, self.dt_bias, before, mask)
        return [conv_state, state]
