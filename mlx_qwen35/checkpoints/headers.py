"""What the tensors of safetensors files are, without reading them."""

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.config import ModelConfig
from mlx_qwen35.checkpoints.layouts import canonical_names
from mlx_qwen35.checkpoints.reading import other_content
from mlx_qwen35.errors import CheckpointError

# What the safetensors library itself allows.
MAX_HEADER_BYTES = 100_000_000


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
        header: Any = None
        with path.open("rb") as file:
            start = file.read(64)
            file.seek(0)
            try:
                (length,) = struct.unpack("<Q", file.read(8))
                fits = length < min(path.stat().st_size, MAX_HEADER_BYTES)
                header = json.loads(file.read(length)) if fits else None
                header = header if isinstance(header, dict) else None
            except (struct.error, ValueError, RecursionError):
                header = None
        entries = {name: entry for name, entry in (header or {}).items() if name != "__metadata__"}
        tensors: list[TensorHeader] = []
        data = 0
        try:
            for name, entry in entries.items():
                begin, end = (int(offset) for offset in entry["data_offsets"])
                shape = tuple(int(size) for size in entry["shape"])
                # Beyond what a file may have there are numbers that no message can show.
                if not 0 <= begin <= end < 2**63 or min(shape, default=0) < 0:
                    raise ValueError
                tensors.append(TensorHeader(name, str(entry["dtype"]), shape, end - begin))
                data = max(data, end)
        except (KeyError, TypeError, ValueError, OverflowError):
            header = None
        if header is None:
            raise CheckpointError(f"{path}: expected a safetensors file, found {other_content(path, start)}")
        if 8 + length + data > path.stat().st_size:
            raise CheckpointError(
                f"{path}: expected {8 + length + data} bytes, found {path.stat().st_size}; it is cut short"
            )
        yield from tensors


_DTYPE_SIZES = {"F32": 4, "F16": 2, "BF16": 2}


def activation_size(headers: Iterable[TensorHeader]) -> int:
    """Bytes per element of keys and values: those of the norms, which are never quantised."""
    sizes = [_DTYPE_SIZES[h.dtype] for h in headers if h.name.endswith("norm.weight") and h.dtype in _DTYPE_SIZES]
    return max(sizes, default=2)


def weight_bytes(headers: Iterable[TensorHeader]) -> int:
    """Bytes of the tensors that are loaded: all but those of the MTP module."""
    sizes = {header.name: header.nbytes for header in headers}
    return sum(sizes[name] for name, known in canonical_names(sizes).items() if not known.startswith("mtp."))


def has_tower(config: ModelConfig, headers: Iterable[TensorHeader]) -> bool:
    """Whether a checkpoint sees: conversions for text alone keep the vision tower's settings in config.json."""
    names = canonical_names(header.name for header in headers).values()
    return config.vision is not None and any(name.startswith("vision_tower.") for name in names)
