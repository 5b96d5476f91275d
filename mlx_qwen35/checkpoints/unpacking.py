"""The arithmetic of quantised weights as other programs store them, in terms of MLX's own modes.

Every function takes the parts of one module and returns the parts that MLX multiplies with: `weight` alone, or with
`scales`, and `biases` (affine) or `global_scale` (nvfp4). Weights are (..., out, in), as in torch.nn.Linear.
"""

import mlx.core as mx

Parts = dict[str, mx.array]

GROUP_SIZES = (128, 64, 32)
# The largest magnitudes of E2M1 and E4M3: MLX's global scale is that of the tensor, which they together stand for.
NVFP4_RANGE = 6.0 * 448.0


def fp8(weight: mx.array, scale: mx.array, dtype: mx.Dtype) -> Parts:
    """E4M3 bytes with a scale for the tensor, for each row, or for each block, whose sizes are powers of two.

    MLX has no such mode, so the weight becomes a plain one, except where groups of 32 have powers of two as scales.

    Raises:
        ValueError: The scales are not for this weight.
    """
    if scale.ndim == weight.ndim + 2 and scale.shape[-3::2] == (1, 1):
        # As ModelOpt leaves them: (rows, 1, columns, 1).
        scale = scale.squeeze((-3, -1))
    exponents = scale.dtype == mx.uint8
    if exponents and scale.ndim == weight.ndim and 2 * weight.shape[-1] == 32 * scale.shape[-1]:
        # Half as many bytes as FP8 would have: pairs of E2M1, as ModelOpt and Quark store MXFP4.
        return mxfp4(weight, scale)
    if exponents and scale.ndim == weight.ndim and weight.shape[-1] == 32 * scale.shape[-1]:
        rows = mx.repeat(scale, _block(weight.shape[-2], scale.shape[-2]), axis=-2)[..., : weight.shape[-2], :]
        return {"weight": _words(weight), "scales": rows}
    factor = mx.power(2.0, scale.astype(mx.float32) - 127.0) if exponents else scale.astype(mx.float32)
    return {"weight": (mx.from_fp8(weight, dtype=mx.float32) * _spread(factor, weight.shape)).astype(dtype)}


def int8(weight: mx.array, scale: mx.array, zero: mx.array | None, dtype: mx.Dtype) -> Parts:
    """Signed bytes with a scale, and perhaps a zero point, for the tensor or for each row or group."""
    scale = _column(scale)
    scales = mx.broadcast_to(scale, (*weight.shape[:-1], scale.shape[-1]))
    zeros = mx.zeros_like(scales) if zero is None else mx.broadcast_to(_column(zero), scales.shape)
    unsigned = (weight.astype(mx.int32) + 128).astype(mx.uint8)
    return affine(_words(unsigned), scales, zeros.astype(mx.float32) + 128, 8, dtype)


def affine(
    weight: mx.array, scales: mx.array, zeros: mx.array, bits: int, dtype: mx.Dtype, groups: mx.array | None = None
) -> Parts:
    """Unsigned integers of `bits` bits, packed as MLX packs them, that stand for (integer - zero) x scale.

    Args:
        weight: (..., out, in x bits / 32) of 32 bits each, the first integer in the lowest bits.
        scales, zeros: (..., out, groups).
        groups: Which group each column belongs to, if they do not follow one another; such a weight becomes plain.
    Raises:
        ValueError: They do not belong together.
    """
    into = weight.shape[-1] * 32 // bits
    stored = into // scales.shape[-1]
    if zeros.shape != scales.shape:
        raise ValueError(f"expected as many zeros as scales, {scales.shape}, found {zeros.shape}")
    if groups is None and stored * scales.shape[-1] != into:
        raise ValueError(f"expected groups of one size, found {scales.shape[-1]} for {into} inputs")
    if groups is not None and groups.shape != (into,):
        raise ValueError(f"expected a group for each of {into} inputs, found {groups.shape}")
    sizes = [size for size in GROUP_SIZES if stored % size == 0]
    if groups is None and sizes:
        scales = mx.repeat(scales.astype(dtype), stored // sizes[0], axis=-1)
        zeros = mx.repeat(zeros.astype(mx.float32), stored // sizes[0], axis=-1)
        return {"weight": _view(weight, mx.uint32), "scales": scales, "biases": (-zeros * scales).astype(dtype)}
    if groups is None:
        groups = mx.arange(into) // stored
    # A tower's layers may have any number of inputs: 4304 in Qwen3.5's largest.
    integers = _unpack_some(weight, bits, into)
    scales, zeros = scales.astype(mx.float32)[..., groups], zeros.astype(mx.float32)[..., groups]
    return {"weight": ((integers - zeros) * scales).astype(dtype)}


def unpack(weight: mx.array, bits: int) -> mx.array:
    """The integers in (..., in x bits / 32) words of 32 bits, as float32; `in` is a multiple of 32.

    Raises:
        ValueError: It is not.
    """
    into = weight.shape[-1] * 32 // bits
    if weight.shape[-1] % bits:
        raise ValueError(f"expected a multiple of 32 columns, found {into}")
    ones = mx.ones((*weight.shape[:-1], into // 32))
    return mx.dequantize(_view(weight, mx.uint32), ones, mx.zeros_like(ones), 32, bits)


def awq(weight: mx.array, scales: mx.array, zeros: mx.array | None, dtype: mx.Dtype) -> Parts:
    """4 bits, packed along the outputs: `qweight` (in, out / 8), `scales` (groups, out), `qzeros` (groups, out / 8).

    Source:
        mlx-lm 0.32.2, utils.py, _transform_awq_weights; AutoAWQ 0.2.9, utils/packing_utils.py.
    """
    integers = _awq_integers(weight).swapaxes(-1, -2)
    shifts = mx.arange(0, 32, 4, dtype=mx.uint32)
    words = integers.reshape(*integers.shape[:-1], -1, 8) << shifts
    scales = mx.contiguous(scales.swapaxes(-1, -2))
    offsets = mx.full(scales.shape, 8.0) if zeros is None else _awq_integers(zeros).swapaxes(-1, -2)
    return affine(words.sum(axis=-1).astype(mx.uint32), scales, offsets, 4, dtype)


def _awq_integers(packed: mx.array) -> mx.array:
    # Eight outputs in a word, the even ones in its lower half.
    shifts = mx.array([0, 16, 4, 20, 8, 24, 12, 28], dtype=mx.uint32)
    words = _view(packed, mx.uint32)
    return ((words[..., None] >> shifts) & 15).reshape(*words.shape[:-1], -1)


def gptq_bits(scales: mx.array, zeros: mx.array, told: object) -> int:
    """Of a module's integers, by how many words hold the zeros of a group; a part of a word counts as one.

    Args:
        told: What config.json says, which decides where a few outputs leave several possible.
    Raises:
        ValueError: There is no such number.
    """
    outputs, words = scales.shape[-1], zeros.shape[-1]
    possible = [bits for bits in range(1, 9) if -(-outputs * bits // 32) == words]
    if len(possible) == 1:
        return possible[0]
    if isinstance(told, int) and told in possible:
        return told
    raise ValueError(f"expected the zeros of {outputs} outputs in words of 32 bits, found {words} words")


def gptq(
    weight: mx.array,
    scales: mx.array,
    zeros: mx.array,
    order: mx.array | None,
    bits: int,
    offset: int,
    dtype: mx.Dtype,
) -> Parts:
    """Packed along the inputs: `qweight` (in x bits / 32, out), `scales` (groups, out).

    Args:
        zeros: `qzeros`, (groups, out x bits / 32), rounded up.
        order: `g_idx`, the group of each input, unless they follow one another.
        offset: What zeros were stored less: 1, or 0 in the second version of the format.
    Source:
        AutoGPTQ 0.7.1, nn_modules/qlinear/qlinear_cuda_old.py.
    """
    # A zero of 0 was stored as -1.
    zeros = mx.remainder(_unpack_some(zeros, bits, scales.shape[-1]) + offset, 2**bits)
    words = mx.contiguous(weight.swapaxes(-1, -2))
    scales = mx.contiguous(scales.swapaxes(-1, -2))
    return affine(words, scales, mx.contiguous(zeros.swapaxes(-1, -2)), bits, dtype, order)


def packed_integers(
    weight: mx.array, scale: mx.array, zero: mx.array | None, order: mx.array | None, bits: int, dtype: mx.Dtype
) -> Parts:
    """compressed-tensors' pack-quantized: signed integers plus half their range, zero points packed along the outputs.

    Args:
        order: The group of each input, unless they follow one another.
    Source:
        compressed-tensors 0.20, compressors/pack_quantized.
    """
    scale = _column(scale)
    scales = mx.broadcast_to(scale, (*weight.shape[:-1], scale.shape[-1]))
    if zero is None:
        zeros = mx.full(scales.shape, float(2 ** (bits - 1)))
    else:
        zeros = unpack_columns(zero, bits, scales.shape[-2])
    return affine(weight, scales, zeros, bits, dtype, order)


def unpack_columns(packed: mx.array, bits: int, length: int) -> mx.array:
    """The integers of (words, columns) that were packed along the first axis, (length, columns)."""
    return mx.contiguous(_unpack_some(packed.swapaxes(-1, -2), bits, length).swapaxes(-1, -2))


def _unpack_some(words: mx.array, bits: int, length: int) -> mx.array:
    """The first integers of each row of words, which need not fill the last."""
    spare = -words.shape[-1] % bits
    if spare:
        words = mx.pad(words, [(0, 0)] * (words.ndim - 1) + [(0, spare)])
    return unpack(words, bits)[..., :length]


def nvfp4(weight: mx.array, scales: mx.array, factor: mx.array | None) -> Parts:
    """Pairs of E2M1 in bytes, an E4M3 scale for every 16, and what all of them are to be multiplied by."""
    parts = {"weight": _words(weight), "scales": scales}
    if factor is not None:
        parts["global_scale"] = factor.astype(mx.float32).squeeze() * NVFP4_RANGE
    return parts


def mxfp4(weight: mx.array, scales: mx.array) -> Parts:
    """Pairs of E2M1 in bytes, and a power of two for every 32."""
    return {"weight": _words(weight), "scales": scales}


def _words(weight: mx.array) -> mx.array:
    return weight if weight.dtype == mx.uint32 else _view(weight, mx.uint32)


def _view(value: mx.array, dtype: mx.Dtype) -> mx.array:
    return mx.contiguous(value).view(dtype)


def _column(value: mx.array) -> mx.array:
    return value.reshape(-1, 1) if value.ndim < 2 else value


def _spread(scale: mx.array, shape: tuple[int, ...]) -> mx.array:
    """A scale for every element, or one that broadcasts to them."""
    if scale.size == 1:
        return scale.reshape(())
    while scale.ndim < len(shape):
        scale = scale[..., None]
    for axis in (-1, -2):
        if scale.shape[axis] != 1:
            block = _block(shape[axis], scale.shape[axis])
            scale = mx.repeat(scale, block, axis=axis) if block > 1 else scale
    return scale[..., : shape[-2], : shape[-1]]


def _block(size: int, blocks: int) -> int:
    """The size of the blocks, a power of two, of which so many cover an axis."""
    block = 1 << (-(-size // blocks) - 1).bit_length()
    if -(-size // block) != blocks:
        raise ValueError(f"expected one scale for every {block}, {-(-size // block)} for {size}, found {blocks}")
    return block
