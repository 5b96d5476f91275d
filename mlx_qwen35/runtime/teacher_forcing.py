"""Logits of given tokens, for whoever wants to score a text."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray


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
