"""How keys and values are quantised, where they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlx_qwen35.errors import OptionError

KV_BITS = (8, 4)
# What MLX can quantise by.
KV_GROUP_SIZES = (32, 64, 128)
KV_GROUP_SIZE = 64


@dataclass(frozen=True)
class KvQuantization:
    """Keys and values of attention layers with few bits; GDN states stay as they are.

    Args:
        bits: Per element.
        group_size: Neighbouring elements of a head that share a scale and a bias.
    """

    bits: int
    group_size: int = KV_GROUP_SIZE

    def __str__(self) -> str:
        return f"{self.bits} bits in groups of {self.group_size}"

    def nbytes(self, elements: int, dtype_size: int) -> int:
        """Bytes of so many elements, with the scales and biases of their groups.

        Args:
            dtype_size: Bytes per element of what is quantised, and so of a scale.
        """
        return elements * self.bits // 8 + 2 * elements // self.group_size * dtype_size


def check_kv_quantization(bits: object, group_size: object, *, exact: bool) -> KvQuantization | None:
    """Options of a kit that say how keys and values are stored; None as they are.

    Raises:
        OptionError: They are not what they may be, or text has to be exact.
    """
    if bits is None:
        if group_size is not None:
            raise OptionError(f"kv_group_size: expected with kv_bits, found {group_size!r} without")
        return None
    if type(bits) is not int or bits not in KV_BITS:
        raise OptionError(f"kv_bits: expected {_either(KV_BITS)}, found {bits!r}")
    if exact:
        raise OptionError(f"kv_bits: expected none where exact is asked for, found {bits}")
    size = KV_GROUP_SIZE if group_size is None else group_size
    if type(size) is not int or size not in KV_GROUP_SIZES:
        raise OptionError(f"kv_group_size: expected {_either(KV_GROUP_SIZES)}, found {size!r}")
    return KvQuantization(bits, size)


def check_head_dim(kv: KvQuantization | None, head_dim: int) -> None:
    """Whether a model's keys and values can be cut into such groups.

    Raises:
        OptionError: They cannot.
    """
    if kv is None or head_dim % kv.group_size == 0:
        return
    fitting = [size for size in KV_GROUP_SIZES if head_dim % size == 0]
    found = f"found {kv.group_size}, which does not divide its heads of {head_dim}"
    if not fitting:
        raise OptionError(f"kv_bits: expected none for this model, {found}, nor does any other group size")
    raise OptionError(f"kv_group_size: expected {_either(fitting)} for this model, {found}")


def quantized(caches: Sequence[Any], kv: KvQuantization | None) -> list[Any]:
    """Fresh caches of layers, those of attention layers in the form that was asked for."""
    if kv is None:
        return list(caches)
    return [cache.to_quantized(kv.group_size, kv.bits) if hasattr(cache, "to_quantized") else cache for cache in caches]


def _either(values: Sequence[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last
