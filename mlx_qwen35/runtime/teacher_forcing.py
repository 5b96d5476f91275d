"""Logits of given tokens, for whoever wants to score a text."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from mlx_qwen35.prompts.prompt import Prompt
from mlx_qwen35.runtime.loading import Loaded
from mlx_qwen35.state.kv_quantization import quantized


def teacher_forced(model: nn.Module, input_ids: NDArray[np.int32], cache: Sequence[Any], step_size: int) -> mx.array:
    """Logits of every position of a prompt, shape (S, V), float32, evaluated.

    Args:
        step_size: Tokens that are read at once, at most.
    """
    rows = []
    for start in range(0, len(input_ids), step_size):
        logits = model(mx.array(input_ids[start : start + step_size])[None], cache=cache)
        rows.append(logits[0].astype(mx.float32))
        mx.eval(rows[-1], [layer.state for layer in cache])
    out = mx.concatenate(rows)
    mx.eval(out)
    return out


def score(loaded: Loaded, prompt: Prompt, step_size: int) -> mx.array:
    """`teacher_forced`, on the thread that owns MLX and with the memory that it takes.

    Raises:
        InsufficientMemoryError: There is no room for it.
    """
    length, vocab_size = len(prompt.input_ids), loaded.checkpoint.config.text.vocab_size
    patches = max((piece.patches for piece in prompt.pieces), default=0)
    nbytes = loaded.guard.held(length) + loaded.guard.passing(length, step_size, patches)
    # Twice: as chunks, and put together.
    nbytes += 2 * 4 * length * vocab_size

    def run() -> mx.array:
        cache = loaded.vision.fill(quantized(loaded.model.make_cache(), loaded.guard.kv), prompt)
        return teacher_forced(loaded.model, prompt.input_ids, cache, step_size)

    lease = loaded.ledger.take("logits", nbytes, place="prompt")
    try:
        return loaded.thread.call(run)
    finally:
        lease.release()
