"""How much memory a checkpoint takes, from its configuration and the headers of its files."""

import json
import math
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mlx_qwen35.config import TextConfig
from mlx_qwen35.errors import CheckpointError


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a safetensors file, without its data; `dtype` as the file names it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def read_headers(files: Iterable[Path]) -> Iterator[TensorHeader]:
    """Every tensor of some safetensors files; reads a few kilobytes of each.

    Raises:
        CheckpointError: A file is no safetensors file, or is cut short.
    """
    for path in files:
        with path.open("rb") as file:
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                header = json.loads(file.read(length)) if length < path.stat().st_size else None
                header = header if isinstance(header, dict) else None
            except (struct.error, ValueError):
                header = None
        entries = {name: entry for name, entry in (header or {}).items() if name != "__metadata__"}
        tensors: list[TensorHeader] = []
        data = 0
        try:
            for name, entry in entries.items():
                begin, end = (int(offset) for offset in entry["data_offsets"])
                shape = tuple(int(size) for size in entry["shape"])
                tensors.append(TensorHeader(name, str(entry["dtype"]), shape, end - begin))
                data = max(data, end)
        except (KeyError, TypeError, ValueError):
            header = None
        if header is None:
            raise CheckpointError(f"{path}: expected a safetensors file, found something else")
        if 8 + length + data > path.stat().st_size:
            raise CheckpointError(
                f"{path}: expected {8 + length + data} bytes, found {path.stat().st_size}; it is cut short"
            )
        yield from tensors


def attention_bytes_per_token(config: TextConfig, dtype_size: int = 2) -> int:
    """Bytes that one more token of context takes in the attention caches of one sequence."""
    layers = config.layer_types.count("full_attention")
    return layers * 2 * config.num_key_value_heads * config.head_dim * dtype_size


def gdn_state_bytes(config: TextConfig, dtype_size: int = 2) -> int:
    """Bytes of the GDN states of one sequence, which do not grow with its length.

    The recurrent state is float32; the short convolution keeps its last inputs in the model's dtype.
    """
    layers = config.layer_types.count("linear_attention")
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    recurrent = math.prod((config.linear_num_value_heads, config.linear_value_head_dim, config.linear_key_head_dim))
    convolution = (config.linear_conv_kernel_dim - 1) * (2 * keys + values)
    return layers * (4 * recurrent + dtype_size * convolution)
