"""A prefix on disk: one safetensors file that says what it is, for which model, and whether it is whole."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.checkpoints.headers import read_headers
from mlx_qwen35.errors import CheckpointError, SessionError
from mlx_qwen35.state.kv_quantization import KvQuantization
from mlx_qwen35.state.layout import StateLayout
from mlx_qwen35.state.prefix import ImageRun, Prefix
from mlx_qwen35.state.sequence import FrozenState, Snapshot

FORMAT = "mlx-qwen35 session 2"


def fingerprint_of(model: str, kv: KvQuantization | None) -> str:
    """What has to be the same wherever a state is taken up.

    Args:
        model: A digest of its weights and its arithmetic, without a space in it.
        kv: How its keys and values are quantised.
    """
    return f"{model} {'not quantised' if kv is None else f'of {kv}'}"


def write_prefix(path: Path, prefix: Prefix, state: FrozenState, fingerprint: str) -> None:
    """Write a prefix; the file is there whole, or not at all. No array is copied.

    Args:
        state: Its arrays, evaluated.
        fingerprint: Of the model that read it, and of its arithmetic.
    Raises:
        SessionError: The file cannot be written.
    """
    arrays = {"input_ids": mx.array(prefix.input_ids)}
    for layer, held in enumerate(state.held):
        arrays |= {f"held.{layer}.{number}": array for number, array in enumerate(held)}
    for snapshot in state.snapshots:
        for layer, mark in enumerate(snapshot.marks):
            arrays |= {f"snapshot.{snapshot.tokens}.{layer}.{number}": array for number, array in enumerate(mark)}
    about = json.dumps(
        {
            "images": [[image.start, image.stop, image.content_hash] for image in prefix.images],
            "turn": prefix.turn_start,
            "places": prefix.snapshot_tokens,
            "layers": len(state.held),
        }
    )
    metadata = {"format": FORMAT, "model": fingerprint, "prefix": about, "digest": _digest(arrays, about)}
    # Names have at most 255 bytes; mx would append the suffix.
    beginning = os.fsencode(path.name)[:100].decode(errors="ignore")
    part = path.with_name(f"{beginning}.{uuid.uuid4().hex}.safetensors")
    try:
        # Before anything is in it: what was said is nobody else's to read.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        mx.save_safetensors(str(part), arrays, metadata)
        # What it holds before its name, so that a name that is there after a loss of power stands for a whole file.
        _synchronise(part)
        part.replace(path)
        _synchronise(path.parent)
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            part.unlink()
        # What the system says names the part, which nobody asked for.
        raise SessionError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from error


def read_prefix(path: Path, fingerprint: str, caches: Sequence[Any], layout: StateLayout | None = None) -> Prefix:
    """Read what `write_prefix` wrote, and make sure that nothing of it has changed.

    The checksum finds damage. It is no signature: whoever changes a file can write another one, so that everything
    is held against the model too.

    Args:
        caches: Fresh ones of the model, one per layer.
        layout: Of its states.
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
        (model, _, kv), (found, _, other) = fingerprint.partition(" "), metadata.get("model", "").partition(" ")
        if found == model:
            raise SessionError(f"{path}: expected keys and values {kv}, as this model was loaded, found {other}")
        raise SessionError(
            f"{path}: expected a session of this model (its weights, adapter, arithmetic and versions), found another's"
        )
    about = metadata.get("prefix", "")
    if metadata.get("digest") != _digest(arrays, about):
        raise SessionError(f"{path}: the session is damaged: its content does not match its checksum")
    try:
        prefix = _prefix(arrays, json.loads(about), caches)
        if layout is not None and prefix.state is not None:
            layout.check(prefix.state)
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, RecursionError) as error:
        raise SessionError(f"{path}: the session is damaged: {type(error).__name__}: {error}") from error
    return prefix


def read_outline(path: Path, fingerprint: str) -> Prefix | None:
    """What a file of `write_prefix` holds, without its arrays, which are not checked; None if another model wrote it.

    Raises:
        SessionError: There is no such file; or it is no such file, or is cut short.
    """
    try:
        for _ in read_headers([path]):
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            metadata = header["__metadata__"]
            if metadata["format"] != FORMAT or metadata["model"] != fingerprint:
                return None
            begin, end = header["input_ids"]["data_offsets"]
            file.seek(8 + length + begin)
            input_ids = np.frombuffer(file.read(end - begin), np.int32)
        outline = _outline(input_ids, json.loads(metadata["prefix"]))
        outline.is_in(path, path.stat().st_size)
    except (CheckpointError, OSError) as error:
        raise SessionError(f"{path}: expected a kept prefix: {error}") from error
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, RecursionError) as error:
        raise SessionError(f"{path}: the kept prefix is damaged: {type(error).__name__}: {error}") from error
    return outline


def _prefix(arrays: Mapping[str, mx.array], about: Any, caches: Sequence[Any]) -> Prefix:
    """Put a prefix together; ValueError and the like if the parts do not fit each other or the model."""
    prefix = _outline(np.array(arrays["input_ids"]), about)
    if about["layers"] != len(caches):
        raise ValueError("its layers are not the model's")
    held = tuple(_numbered(arrays, f"held.{layer}") for layer in range(len(caches)))
    snapshots = tuple(
        Snapshot(tokens, tuple(_numbered(arrays, f"snapshot.{tokens}.{layer}") for layer in range(len(caches))))
        for tokens in prefix.snapshot_tokens
    )
    for snapshot in snapshots:
        for layer, (cache, shared, mark) in enumerate(zip(caches, held, snapshot.marks, strict=True)):
            problem = cache.check(snapshot.tokens, shared, mark)
            if problem is not None:
                raise ValueError(f"layer {layer}: {problem}")
    prefix.state = FrozenState(snapshots, held)
    mx.eval(prefix.state.arrays())
    return prefix


def _outline(input_ids: NDArray[Any], about: Any) -> Prefix:
    """A prefix without its arrays; ValueError and the like if the parts do not fit each other."""
    turn, places, length = int(about["turn"]), [int(p) for p in about["places"]], len(input_ids)
    images = tuple(ImageRun(int(start), int(stop), str(name)) for start, stop, name in about["images"])
    edges = [0, *(edge for image in images for edge in (image.start, image.stop)), length]
    if input_ids.dtype != np.int32 or (input_ids < 0).any():
        raise ValueError("its token ids are none")
    if input_ids.ndim != 1 or edges != sorted(edges) or not 0 <= turn <= length:
        raise ValueError("its parts do not fit each other")
    if not places or places != sorted(set(places)) or not (places[0] > 0 and places[-1] == length):
        raise ValueError(f"its snapshots are at {places} of {length} tokens")
    for image in images:
        int(image.content_hash, 16)
    return Prefix(input_ids, images, turn, places, None)


def _synchronise(path: Path) -> None:
    """Have the disk hold what was written to a file, or which names a directory has."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _numbered(arrays: Mapping[str, mx.array], name: str) -> tuple[mx.array, ...]:
    """The arrays `name`.0, `name`.1 and so on."""
    found: list[mx.array] = []
    while (array := arrays.get(f"{name}.{len(found)}")) is not None:
        found.append(array)
    return tuple(found)


def _digest(arrays: Mapping[str, mx.array], about: str) -> str:
    """Of every array's name, type, shape and content, and of what is said about them."""
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        # A view: numpy knows no bfloat16, and nothing is copied.
        digest.update(np.array(array.reshape(-1).view(mx.uint8), copy=False).data)
    return digest.hexdigest()
