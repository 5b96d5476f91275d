"""What MLX's GPU backend makes of single operations, beside its CPU backend: the causes of failing tests, in seconds.

    MLX_ENABLE_TF32=0 python -m tools.gpu.probe

A line for each: the largest difference as a share of the largest value, or the exception. On a CPU alone, all are 0.
"""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx

from mlx_qwen35.patches.cpu import on_cpu
from mlx_qwen35.patches.gated_delta import gated_delta_chunked, gated_delta_steps, log_decay

Check = Callable[[], mx.array]


def normal(*shape: int, seed: int = 0) -> mx.array:
    """Drawn on the CPU, so that both backends get the same."""
    with mx.stream(mx.cpu):
        found = mx.random.normal(shape, key=mx.random.key(seed))
        mx.eval(found)
    return found


def rotation(dims: int, rows: int) -> Check:
    """As `multimodal_angles` reads angles: each row at a position of its own."""
    x, offset = normal(rows, 1, 1, dims), mx.arange(rows, dtype=mx.int32)
    return lambda: mx.fast.rope(x, dims, traditional=False, base=1e4, scale=1.0, offset=offset)


def packed(transpose: bool, sliced: bool, dtype: mx.Dtype = mx.float32) -> Check:
    """Few queries over stored keys or values, which are a part of a larger array or are not."""
    x = normal(1, 2, 3, 64 if transpose else 32).astype(dtype)
    parts = mx.quantize(normal(1, 2, 64, 64, seed=1).astype(dtype), group_size=32, bits=4)
    mx.eval(x, *parts)

    def compute() -> mx.array:
        stored = [part[:, :, :32] for part in parts]
        stored = stored if sliced else [mx.contiguous(part) for part in stored]
        return mx.quantized_matmul(x, *stored, transpose=transpose, group_size=32, bits=4).astype(mx.float32)

    return compute


def experts(is_sorted: bool, halves: bool, dtype: mx.Dtype = mx.float32) -> Check:
    """As mlx-lm's SwitchGLU multiplies with experts, whose indices it sorts where there are 64 or more.

    Args:
        halves: The experts are one half of each matrix, as where two projections are stored as one.
    """
    x, stored = normal(140, 1, 64).astype(dtype), normal(6, 128, 64, seed=1).astype(dtype)
    chosen = (mx.arange(140) * 6 // 140).astype(mx.uint32)
    mx.eval(x, stored, chosen)

    def compute() -> mx.array:
        weights = stored[:, :64] if halves else stored
        # The CPU backend multiplies with chosen matrices in float32 only.
        left, right = (part.astype(mx.float32) if on_cpu() else part for part in (x, weights.swapaxes(-1, -2)))
        return mx.gather_mm(left, right, rhs_indices=chosen, sorted_indices=is_sorted).astype(mx.float32)

    return compute


def order() -> mx.array:
    """The indices that SwitchGLU sorts, in their order, and the way back."""
    chosen = (mx.arange(140) * 7919 % 6).astype(mx.uint32)
    places = mx.argsort(chosen)
    return mx.concatenate([chosen[places], (places // 2 * 2)[mx.argsort(places)]]).astype(mx.float32)


def chunks(length: int, chunk: int) -> Check:
    """The delta rule, whose decays are sums of logarithms."""
    q, k = (normal(2, length, 2, 32, seed=seed) / 32 for seed in (1, 2))
    v, a, beta = normal(2, length, 4, 16), normal(2, length, 4, seed=3), mx.full((2, length, 4), 0.5)
    rates, biases, state = normal(4, seed=4), normal(4, seed=5), normal(2, 4, 16, 32, seed=6)
    return lambda: gated_delta_chunked(q, k, v, log_decay(rates, a, biases), beta, state, None, chunk)[0]


def beside_others() -> mx.array:
    """A row's difference from what it is alone; batch-invariant arithmetic makes it 0."""
    qk, v, state = normal(3, 1, 2, 1, 128), normal(3, 1, 1, 128, seed=1), normal(3, 1, 128, 128, seed=2)
    gate = mx.full((3, 1, 1), 0.5)
    together = gated_delta_steps(qk, v, gate, gate, state)[0]
    alone = [gated_delta_steps(qk[r : r + 1], v[r : r + 1], gate[:1], gate[:1], state[r : r + 1])[0] for r in range(3)]
    return mx.stack([mx.abs(together - mx.concatenate(alone)).max(), mx.abs(together).max()])


def checks() -> Iterator[tuple[str, Check]]:
    """Names and what is computed."""
    for dims, rows in ((16, 127), (64, 128), (64, 3000)):
        yield f"rotation of {dims} numbers in {rows} rows", rotation(dims, rows)
    for dtype in (mx.float32, mx.bfloat16):
        for is_sorted, halves in ((False, False), (False, True), (True, False), (True, True)):
            name = f"experts, {'sorted' if is_sorted else 'in any order'}, {'halves' if halves else 'whole'}, {dtype}"
            yield name, experts(is_sorted, halves, dtype)
    yield "order of experts", order
    for length, chunk in ((17, 16), (17, 32), (33, 64), (64, 64), (100, 64)):
        yield f"delta rule over {length} tokens in chunks of {chunk}", chunks(length, chunk)
    yield "rows beside others (found, largest)", beside_others
    # Late, because these kernels are compiled when they are needed.
    for transpose in (True, False):
        for sliced in (True, False):
            yield f"{'keys' if transpose else 'values'}, {'a part' if sliced else 'whole'}", packed(transpose, sliced)
    # After a launch that CUDA refuses others may fail too.
    yield "rotation of 16 numbers in 128 rows", rotation(16, 128)


def measure(compute: Check) -> str:
    """The largest difference between the two backends, or what was raised."""
    try:
        found: Any = compute()
        mx.eval(found)
        with mx.stream(mx.cpu):
            expected = compute()
            mx.eval(expected)
            difference = mx.abs(found - expected).max() / mx.abs(expected).max()
            return f"{difference.item():.1e}"
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def main() -> None:
    """Say it all, line by line."""
    for name, compute in checks():
        if compute is beside_others:
            difference, largest = compute().tolist()
            print(f"{name}: {difference:.1e}, {largest:.1e}", flush=True)
        else:
            print(f"{name}: {measure(compute)}", flush=True)


if __name__ == "__main__":
    main()
