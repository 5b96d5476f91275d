"""generation_config.json: what a checkpoint proposes where a request says nothing.

Nothing in it keeps a model from loading. What transformers gives a meaning has that meaning; other values that are
out of range are left out with a warning.
"""

import math
import warnings
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.reading import is_file, read_json
from mlx_qwen35.errors import CheckpointWarning, ConfigError
from mlx_qwen35.paths import shorten

# Lowest and highest value, and whether the lowest counts.
_NUMBERS = {
    "temperature": (0.0, math.inf, True),
    "top_p": (0.0, 1.0, True),
    "min_p": (0.0, 1.0, True),
    "repetition_penalty": (0.0, math.inf, False),
}


def read_generation_config(path: Path) -> dict[str, Any]:
    """A checkpoint's generation_config.json, with what can be used of it; empty if there is none."""
    if not is_file(path):
        return {}
    try:
        return usable(read_json(path), str(path))
    except ConfigError as error:
        warnings.warn(f"{error}; it is left out", CheckpointWarning, stacklevel=2)
        return {}


def usable(settings: dict[str, Any], place: str) -> dict[str, Any]:
    """The settings of a generation_config.json that can be used, others left out with a warning."""
    found = {name: value for name, value in settings.items() if value is not None}

    def leave_out(name: str, expected: str) -> None:
        value = shorten(repr(found.pop(name)))
        warnings.warn(
            f"{place}: {name}: expected {expected}, found {value}; it is left out", CheckpointWarning, stacklevel=4
        )

    if "do_sample" in found and not isinstance(found["do_sample"], bool):
        leave_out("do_sample", "true or false")
    for name, (low, high, closed) in _NUMBERS.items():
        if name in found and not _is_number(found[name], low, high, closed):
            bounds = f"{'at least' if closed else 'above'} {low:g}" + (
                f" and at most {high:g}" if high < math.inf else ""
            )
            leave_out(name, f"a number of {bounds}" if closed else f"a number {bounds}")
    for name, least in (("top_k", -1), ("max_new_tokens", 1)):
        if name in found:
            whole = _whole(found[name])
            if whole is None or whole < least:
                leave_out(name, f"a whole number of at least {least}")
            else:
                found[name] = whole
    if "stop_strings" in found:
        strings = found["stop_strings"] if isinstance(found["stop_strings"], list) else [found["stop_strings"]]
        if all(isinstance(text, str) and text for text in strings):
            found["stop_strings"] = strings
        else:
            leave_out("stop_strings", "strings of at least one character")
    if "eos_token_id" in found:
        ids = found["eos_token_id"] if isinstance(found["eos_token_id"], list) else [found["eos_token_id"]]
        if any(_whole(token) is None for token in ids):
            leave_out("eos_token_id", "token ids")
            ids = [token for token in ids if _whole(token) is not None]
        found["eos_token_id"] = [_whole(token) for token in ids]
    return found


def _is_number(value: Any, low: float, high: float, closed: bool) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value <= high and (closed or value != low) and value != math.inf


def _whole(value: Any) -> int | None:
    """A whole number, which JSON of other programs may write as 20.0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else None
