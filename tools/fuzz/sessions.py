"""Saved sessions with their arrays and descriptions changed, and a checksum that is right for them."""

import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import mlx.core as mx

from mlx_qwen35 import ModelKit
from mlx_qwen35.checkpoints.files import BOX
from mlx_qwen35.errors import SessionError
from mlx_qwen35.state.disk import _digest

QUESTION = [{"role": "user", "content": "Spell the word star."}]
NUMBERS = (0, -1, 1, 7, 10**6, 2**31, 2**63, -(2**63), 1.5, "1e999", None, True, [], {}, "x", "\ud83d")


def run(seconds: float, seed: int) -> list[str]:
    """What went wrong: other exceptions than SessionError, and answers that fail after a session was taken."""
    rng = Random(seed)
    outcomes: Counter[str] = Counter()
    problems: dict[str, str] = {}
    with ModelKit.load(BOX) as kit, tempfile.TemporaryDirectory() as name:
        kit.generate(QUESTION, max_tokens=4, temperature=0)
        saved, made = Path(name) / "saved.session", Path(name) / "made.safetensors"
        kit.save_session(saved)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            change = _bytes if rng.random() < 0.3 else _signed
            what = change(rng, saved, made)
            kit.prompt_cache.clear()
            try:
                kit.load_session(made)
                kit.generate(QUESTION, max_tokens=2, temperature=0)
                outcomes["taken"] += 1
            except SessionError:
                outcomes["refused"] += 1
            except Exception as error:
                outcomes["failed"] += 1
                problems.setdefault(type(error).__name__, f"{type(error).__name__}: {error}, after {what}")
    print(f"sessions: {dict(outcomes)}", flush=True)
    return list(problems.values())


def _bytes(rng: Random, saved: Path, made: Path) -> str:
    """The file itself, cut and flipped."""
    data = bytearray(saved.read_bytes())
    for _ in range(rng.randint(1, 5)):
        # Mostly in the header.
        data[rng.randrange(rng.choice([16, 2000, len(data)]))] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    made.write_bytes(data)
    return "changed bytes"


def _signed(rng: Random, saved: Path, made: Path) -> str:
    loaded: Any = mx.load(str(saved), format="safetensors", return_metadata=True)
    arrays, metadata = loaded
    about = metadata["prefix"]
    if rng.random() < 0.5:
        name = rng.choice(sorted(arrays))
        arrays[name], what = _change(rng, arrays[name])
        what = f"{name}: {what}"
    else:
        about, what = _describe(rng, json.loads(about))
    mx.eval(list(arrays.values()))
    mx.save_safetensors(str(made), arrays, {**metadata, "prefix": about, "digest": _digest(arrays, about)})
    return what


def _change(rng: Random, array: mx.array) -> tuple[mx.array, str]:
    how = rng.randrange(6)
    axis = rng.randrange(array.ndim)
    if how == 0:
        return mx.contiguous(mx.concatenate([array, array], axis=axis)), f"doubled along {axis}"
    if how == 1:
        size = rng.randrange(array.shape[axis])
        return mx.contiguous(mx.take(array, mx.arange(size), axis=axis)), f"{size} along {axis}"
    if how == 2:
        dtype = rng.choice([mx.float16, mx.bfloat16, mx.float32, mx.int32, mx.uint8, mx.bool_])
        return array.astype(dtype), f"as {dtype}"
    if how == 3:
        return mx.full(array.shape, rng.choice([0, 1e30, float("nan"), float("inf"), -1])).astype(array.dtype), "filled"
    if how == 4:
        return array[None], "one more dimension"
    return mx.contiguous(array.reshape(-1)), "flat"


def _describe(rng: Random, about: dict[str, Any]) -> tuple[str, str]:
    key = rng.choice([*about, "new"])
    value = rng.choice(NUMBERS)
    if isinstance(about.get(key), list) and rng.random() < 0.7:
        value = [*about[key], value] if rng.random() < 0.5 else [value] * len(about[key])
    if rng.random() < 0.1:
        return json.dumps(value), f"nothing but {value!r}"
    if rng.random() < 0.1:
        about.pop(key, None)
        return json.dumps(about), f"without {key}"
    return json.dumps({**about, key: value}).replace('"1e999"', "1e999"), f"{key}: {value!r}"
