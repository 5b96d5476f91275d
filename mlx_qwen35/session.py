"""A line on disk: one safetensors file that says what it is, for which model, and whether it is whole."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.errors import CheckpointError, SessionError
from mlx_qwen35.lines import ImageRun, Line, LineData, Snapshot
from mlx_qwen35.memory import read_headers

FORMAT = "mlx-qwen35 session 1"


def write_line(path: Path, line: Line, fingerprint: str) -> None:
    """Write a line that is in memory; the file is there whole, or not at all.

    Args:
        fingerprint: Of the model that read it; see `Checkpoint.fingerprint`.
    Raises:
        SessionError: The file cannot be written.
    """
    assert line.data is not None
    length = len(line.input_ids)
    arrays = {"input_ids": mx.array(line.input_ids)}
    for layer, pair in enumerate(line.data.attention):
        if pair is not None:
            arrays[f"attention.{layer}.keys"] = mx.contiguous(pair[0][..., :length, :])
            arrays[f"attention.{layer}.values"] = mx.contiguous(pair[1][..., :length, :])
    for snapshot in line.data.snapshots:
        for layer, state in enumerate(snapshot.states):
            for number, array in enumerate(state or ()):
                arrays[f"snapshot.{snapshot.tokens}.{layer}.{number}"] = array
    about = json.dumps(
        {
            "images": [[image.start, image.stop, image.content_hash] for image in line.images],
            "turn": line.turn,
            "places": line.places,
            "layers": len(line.data.attention),
        }
    )
    metadata = {"format": FORMAT, "model": fingerprint, "line": about, "digest": _digest(arrays, about)}
    part = path.with_name(f"{path.name}.{os.getpid()}.safetensors")  # mx would append the suffix
    try:
        mx.save_safetensors(str(part), arrays, metadata)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        raise SessionError(f"{path}: cannot be written ({error})") from error


def read_line(path: Path, fingerprint: str) -> Line:
    """Read what `write_line` wrote, and make sure that nothing of it has changed.

    Raises:
        SessionError: There is no such file; or it is of another model or version, cut short, or damaged.
    """
    if not path.is_file():
        raise SessionError(f"{path}: expected a saved session, found no such file")
    try:
        for _ in read_headers([path]):
            pass
        loaded: Any = mx.load(str(path), format="safetensors", return_metadata=True)
    except (CheckpointError, RuntimeError, OSError) as error:
        raise SessionError(f"{path}: expected a saved session: {error}") from error
    arrays, metadata = loaded
    if metadata.get("format") != FORMAT:
        raise SessionError(f"{path}: expected {FORMAT}, found {metadata.get('format', 'another kind of file')!r}")
    if metadata.get("model") != fingerprint:
        raise SessionError(f"{path}: expected a session of this model (its weights and adapter), found another's")
    about = metadata.get("line", "")
    if metadata.get("digest") != _digest(arrays, about):
        raise SessionError(f"{path}: the session is damaged: its content does not match its checksum")
    line = json.loads(about)
    layers = range(line["layers"])
    attention = [
        (arrays[f"attention.{layer}.keys"], arrays[f"attention.{layer}.values"])
        if f"attention.{layer}.keys" in arrays
        else None
        for layer in layers
    ]
    snapshots = [
        Snapshot(tokens, tuple(_state(arrays, f"snapshot.{tokens}.{layer}") for layer in layers))
        for tokens in line["places"]
    ]
    return Line(
        input_ids=np.array(arrays["input_ids"]),
        images=tuple(ImageRun(start, stop, content_hash) for start, stop, content_hash in line["images"]),
        turn=line["turn"],
        places=line["places"],
        data=LineData(snapshots, attention),
    )


def _state(arrays: Mapping[str, mx.array], name: str) -> tuple[mx.array, ...] | None:
    found: list[mx.array] = []
    while (array := arrays.get(f"{name}.{len(found)}")) is not None:
        found.append(array)
    return tuple(found) or None


def _digest(arrays: Mapping[str, mx.array], about: str) -> str:
    """Of every array's name, type, shape and content, and of what is said about them."""
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(arrays):
        array: Any = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.array(array.reshape(-1).view(mx.uint8)).data)
    return digest.hexdigest()
