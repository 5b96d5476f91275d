"""Arrays of any library, as prompts and pictures come in them: numpy's, MLX's, torch's and others that numpy reads."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def is_array(value: Any) -> bool:
    """Whether a value is an array of some library, rather than a list, a buffer of bytes, or a text out of an array."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, str | bytes)


def to_numpy(value: Any) -> NDArray[Any] | None:
    """An array's values on the CPU; None if numpy has no such numbers, as for bfloat16."""
    if hasattr(value, "detach"):  # torch's: from wherever it is, without its gradient
        value = value.detach().cpu()
    try:
        return np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def whole_numbers(value: Any, low: int, high: int) -> NDArray[Any] | None:
    """An array's values if all are whole numbers from `low` to `high`, of whatever type; else None."""
    found = to_numpy(value)
    if found is None or found.dtype.kind not in "uif":
        return None
    # A comparison with NaN is false.
    whole = bool(np.all((found >= low) & (found <= high) & (found == np.trunc(found)))) if found.size else True
    return found if whole else None
