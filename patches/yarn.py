"""mlx-lm's YaRN with the settings that it does not read."""

import math
from typing import Any

import mlx.core as mx

from mlx_qwen35.checkpoints.rope import YarnConfig


def set_yarn(rope: Any, dims: int, theta: float, yarn: YarnConfig) -> None:
    """Make mlx-lm's YaRN module compute what transformers does.

    Args:
        rope: mlx-lm's YarnRoPE, built for the same settings as far as it reads them.
        dims: Leading dimensions of a head that rotate.
        theta: Base of the frequencies.
    Source:
        transformers 5.24, modeling_rope_utils.py, _compute_yarn_parameters; mlx-lm 0.32.2, models/rope_utils.py,
        YarnRoPE.__init__.
    """
    # What queries and keys are multiplied by: mlx-lm's infers it, from fewer settings.
    rope.mscale = yarn.attention_factor
    if not yarn.truncate:
        rope._freqs = _frequencies(dims, theta, yarn)


def _frequencies(dims: int, theta: float, yarn: YarnConfig) -> mx.array:
    """Positions per radian of each frequency, (dims / 2,), with bounds that are not rounded to whole numbers."""

    def bound(rotations: float) -> float:
        turns = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
        return dims * math.log(turns) / (2 * math.log(theta))

    low, high = max(bound(yarn.beta_fast), 0), min(bound(yarn.beta_slow), dims - 1)
    high += 0.001 if low == high else 0
    kept = 1 - mx.clip((mx.arange(dims // 2, dtype=mx.float32) - low) / (high - low), 0, 1)
    frequencies = theta ** (-mx.arange(0, dims, 2, dtype=mx.float32) / dims)
    return 1 / (frequencies * kept + frequencies / yarn.factor * (1 - kept))
