"""The gated delta rule over a whole prompt, in chunks: matrix products in place of a loop over tokens.

For machines without mlx-lm's Metal kernel, where its own path takes one token at a time.
"""

import mlx.core as mx

from mlx_qwen35.patches import cpu

CHUNK = 32


def log_decay(A_log: mx.array, a: mx.array, dt_bias: mx.array) -> mx.array:
    """The logarithm of each token's decay, which never underflows.

    Args:
        A_log, dt_bias: Shape (Hv,).
        a: (B, L, Hv).
    Returns:
        (B, L, Hv), float32, at most 0.
    Source:
        mlx-lm 0.32.2, models/gated_delta.py, compute_g, without its outer exponential.
    """
    return -mx.exp(A_log.astype(mx.float32)) * mx.logaddexp(a + dt_bias, 0).astype(mx.float32)


def gated_delta_chunked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    log_g: mx.array,
    beta: mx.array,
    state: mx.array,
    mask: mx.array | None = None,
    chunk: int = CHUNK,
) -> tuple[mx.array, mx.array]:
    """Outputs of L tokens and the state after them.

    With S the state, each token does S <- g S, then S <- S + beta (v - S k) k', and reads S q. Within a chunk the
    corrections depend on each other through a unit lower triangular system, whose inverse makes
    them matrix products (the WY representation); each chunk passes its state on to the next.

    Args:
        q, k: (B, L, Hk, Dk), normalised; q carries the readout scale.
        v: (B, L, Hv, Dv), Hv a multiple of Hk.
        log_g: (B, L, Hv), from `log_decay`.
        beta: (B, L, Hv).
        state: (B, Hv, Dv, Dk), float32.
        mask: (B, L); where False, a token changes nothing and its output means nothing.
        chunk: Tokens of a chunk, a power of two.
    Returns:
        (B, L, Hv, Dv) in the dtype of `v`, and (B, Hv, Dv, Dk), float32; all arithmetic is float32.
    Source:
        Yang et al., "Gated Delta Networks" (2024), section 3.3; held against mlx-lm 0.32.2's gated_delta_ops.
    """
    B, L, Hk, Dk = q.shape
    Hv, Dv = v.shape[2:]
    dtype = v.dtype
    chunk = min(chunk, max(16, 1 << (L - 1).bit_length()))
    count = -(-L // chunk)
    if mask is not None:
        log_g, beta = mx.where(mask[..., None], log_g, 0), mx.where(mask[..., None], beta, 0)

    q, k, v, log_g, beta = (_split(x, Hk, count, chunk) for x in (q, k, v, log_g, beta))
    passed = mx.cumsum(log_g, axis=-1)
    since_start, until_end = mx.exp(passed), mx.exp(passed[..., -1:] - passed)
    decay = _decay(passed)
    transposed = k.swapaxes(-1, -2)
    inverse = _inverse_unit_lower(mx.tril((k @ transposed) * decay * beta[..., None], -1)) * beta[..., None, :]
    # What each token would write from an empty state, and how the state before the chunk lowers it.
    written = inverse @ v
    lowered = (inverse * since_start[..., None, :]) @ k
    attended = (q @ transposed) * decay
    # Both meet the state before the chunk, in one product.
    lowered_and_q = mx.concatenate([lowered, q * since_start[..., None]], axis=-2)
    state = state.reshape(B, Hk, Hv // Hk, Dv, Dk).swapaxes(-1, -2)
    outputs = []
    for c in range(count):
        lowering, old = mx.split(lowered_and_q[..., c, :, :] @ state, 2, axis=-2)
        new = written[..., c, :, :] - lowering
        outputs.append(mx.addmm(old, attended[..., c, :, :], new))
        kept = since_start[..., c, -1:, None] * state
        state = mx.addmm(kept, transposed[..., c, :, :], new * until_end[..., c, :, None])
    out = mx.stack(outputs, axis=3).transpose(0, 3, 4, 1, 2, 5)
    out = out.reshape(B, count * chunk, Hv, Dv)[:, :L]
    return out.astype(dtype), state.swapaxes(-1, -2).reshape(B, Hv, Dv, Dk)


def gated_delta_steps(
    qk: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, list[mx.array]]:
    """Outputs of a few tokens and the state after each, token by token: three passes over the state, its decay and two
    products, and few operations, because each costs MLX's CPU backend more than a small layer's arithmetic.

    With S the decayed state, what a token reads afterwards, (S + d k') q, is S q + d (k' q), so that S k and S q come
    from one product.

    Args:
        qk: Queries and keys, (B, L, 2, Hk, Dk), as `gated_delta_chunked` has them.
        v: (B, L, Hv, Dv), Hv a multiple of Hk.
        g, beta: (B, L, Hv), the decay itself.
        state: (B, Hv, Dv, Dk), float32.
    Returns:
        (B, L, Hv, Dv) in the dtype of `v`, and L states (B, 1, Hv, Dv, Dk), float32.
    Source:
        mlx-lm 0.32.2, models/gated_delta.py, _gated_delta_step_ops.
    """
    L = v.shape[1]
    repeats = v.shape[2] // qk.shape[3]
    wide = qk.astype(mx.float32)
    wide = wide if repeats == 1 else mx.repeat(wide, repeats, axis=3)
    keys = wide[:, :, 1]
    along = (wide[:, :, 0] * keys).sum(axis=-1)[..., None, None]
    inputs = (
        wide.transpose(0, 1, 3, 4, 2),
        keys[..., None, :],
        v.astype(mx.float32)[..., None],
        g[..., None, None],
        beta[..., None, None],
    )
    parts = zip(*(mx.split(x, L, axis=1) for x in inputs), strict=True) if L > 1 else [inputs]
    seen, changes, states = [], [], []
    after = state[:, None]
    for columns, key, value, decay, rate in parts:
        decayed = after * decay
        seen.append(decayed @ columns)
        changes.append((value - seen[-1][..., 1:]) * rate)
        after = mx.addmm(decayed, changes[-1], key)
        states.append(after)
    read, change = (mx.concatenate(found, axis=1) if L > 1 else found[0] for found in (seen, changes))
    out = read[..., :1] + change * along
    return out[..., 0].astype(v.dtype), states


def _decay(passed: mx.array) -> mx.array:
    """Decay from token j to token i >= j, and 0 elsewhere: (..., C) to (..., C, C), of sums of logarithms."""
    # Clipped before the exponential, which would overflow above the diagonal.
    between = mx.minimum(passed[..., :, None] - passed[..., None, :], 0)
    return mx.tril(cpu.exp_of_difference(between, mx.array(0.0)) if cpu.on_cpu() else mx.exp(between))


def _split(x: mx.array, Hk: int, count: int, chunk: int) -> mx.array:
    """(B, L, H, ...) to float32 (B, Hk, H / Hk, count, chunk, ...); the tail is filled with zeros."""
    B, L, H = x.shape[:3]
    x = x.astype(mx.float32)
    if spare := count * chunk - L:
        x = mx.pad(x, [(0, 0), (0, spare), *[(0, 0)] * (x.ndim - 2)])
    x = x.reshape(B, count, chunk, Hk, H // Hk, *x.shape[3:])
    # Contiguous, because a product of strided matrices is several times slower on the CPU.
    return mx.contiguous(x.transpose(0, 3, 4, 1, 2, *range(5, x.ndim)))


# Blocks up to this size are inverted by powers, which grow to C(3, 1) of an entry; those of 16 would lose four digits.
_SMALLEST = 4


def _inverse_unit_lower(strict: mx.array) -> mx.array:
    """(I + strict)^-1 of strictly lower triangular matrices (..., C, C), C a power of two.

    From diagonal blocks to ones of twice the size: the corner below the diagonal of [[X, 0], [A, Y]]^-1 is
    -Y^-1 A X^-1.
    """
    C, size = strict.shape[-1], min(_SMALLEST, strict.shape[-1])
    flat = mx.contiguous(strict.reshape(-1, C, C))

    def below(rows: int, step: int) -> mx.array:
        """Blocks (size, size) every `step` along the diagonal, `rows` below it: (N, C / step, size, size)."""
        shape, strides = (len(flat), C // step, size, size), (C * C, step * (C + 1), C, 1)
        return mx.as_strided(flat, shape, strides, offset=rows * C)

    diagonal = below(0, size)
    eye = mx.eye(size)
    inverse = eye - diagonal
    square = diagonal
    for _ in range(size.bit_length() - 2):
        square = square @ square
        inverse = inverse + inverse @ square
    while size < C:
        first, second = inverse[:, 0::2], inverse[:, 1::2]
        corner = -(second @ (below(size, 2 * size) @ first))
        top = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
        inverse = mx.concatenate([top, mx.concatenate([corner, second], axis=-1)], axis=-2)
        size *= 2
    return inverse.reshape(strict.shape)
