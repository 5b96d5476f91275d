"""A line on disk: one safetensors file that says what it is, for which model, and whether it is whole."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.errors import CheckpointError, SessionError
from mlx_qwen35.state.cache import AttentionCache
from mlx_qwen35.state.snapshots import ImageRun, Line, LineData, Snapshot

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
    part = path.with_name(f"{path.name[:100]}.{uuid.uuid4().hex}.safetensors")  # mx would append the suffix
    try:
        mx.save_safetensors(str(part), arrays, metadata)
        part.replace(path)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        raise SessionError(f"{path}: cannot be written ({error})") from error


def read_line(path: Path, fingerprint: str, caches: Sequence[Any]) -> Line:
    """Read what `write_line` wrote, and make sure that nothing of it has changed.

    Args:
        caches: Fresh ones of the model, one per layer.
    Raises:
        SessionError: There is no such file; or it is of another model or version, cut short, or damaged.
    """
    try:
        if not path.is_file():
            raise SessionError(f"{path}: expected a saved session, found no such file")
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
    try:
        line = _line(arrays, json.loads(about), caches)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SessionError(f"{path}: the session is damaged: {type(error).__name__}: {error}") from error
    return line


def _line(arrays: Mapping[str, mx.array], about: Any, caches: Sequence[Any]) -> Line:
    """Put a line together; ValueError and the like if the parts do not fit each other or the model."""
    input_ids, turn, places = np.array(arrays["input_ids"]), int(about["turn"]), [int(p) for p in about["places"]]
    length = len(input_ids)
    images = tuple(ImageRun(int(start), int(stop), str(name)) for start, stop, name in about["images"])
    edges = [0, *(edge for image in images for edge in (image.start, image.stop)), length]
    if input_ids.ndim != 1 or about["layers"] != len(caches) or edges != sorted(edges) or not 0 <= turn <= length:
        raise ValueError("its parts do not fit each other")
    if not places or places != sorted(set(places)) or not (places[0] > 0 and places[-1] == length):
        raise ValueError(f"its snapshots are at {places} of {length} tokens")
    for image in images:
        int(image.content_hash, 16)
    attention: list[tuple[mx.array, mx.array] | None] = []
    for layer, cache in enumerate(caches):
        pair = None
        if isinstance(cache, AttentionCache):
            pair = arrays[f"attention.{layer}.keys"], arrays[f"attention.{layer}.values"]
            if any(array.ndim != 4 or array.shape[2] != length for array in pair):
                raise ValueError(f"layer {layer} does not hold {length} tokens")
        attention.append(pair)
    snapshots = []
    for tokens in places:
        states: list[tuple[mx.array, ...] | None] = []
        for layer, cache in enumerate(caches):
            held = 0 if isinstance(cache, AttentionCache) else len(cache.cache)
            names = [f"snapshot.{tokens}.{layer}.{number}" for number in range(held)]
            states.append(tuple(arrays[name] for name in names) or None)
        snapshots.append(Snapshot(tokens, tuple(states)))
    return Line(input_ids, images, turn, places, LineData(snapshots, attention))


def _digest(arrays: Mapping[str, mx.array], about: str) -> str:
    """Of every array's name, type, shape and content, and of what is said about them."""
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(arrays):
        array: Any = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.array(array.reshape(-1).view(mx.uint8)).data)
    return digest.hexdigest()
