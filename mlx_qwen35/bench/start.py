"""How long it takes to begin: importing, asking for help, and from a cold process to the first token."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mlx_qwen35.errors import OptionError

_PROMPT = "Hello!"
_TIMEOUT_SECONDS = 600


def commands(model: str | Path) -> dict[str, dict[str, list[str]]]:
    """What is run, by measurement and by runtime: each one's own commands."""
    python, name = [sys.executable], str(model)
    own, lm, vlm = ([*python, "-m", module] for module in ("mlx_qwen35.cli.main", "mlx_lm", "mlx_vlm.generate"))
    return {
        "import": {
            "mlx-qwen35": [*python, "-c", "import mlx_qwen35; mlx_qwen35.ModelKit"],
            "mlx-lm": [*python, "-c", "import mlx_lm"],
            "mlx-vlm": [*python, "-c", "import mlx_vlm"],
        },
        "--help": {
            "mlx-qwen35": [*own, "generate", "--help"],
            "mlx-lm": [*lm, "generate", "--help"],
            "mlx-vlm": [*vlm, "--help"],
        },
        "first token": {
            "mlx-qwen35": [*own, "generate", "--model", name, "-p", _PROMPT, "-m", "1", "--temp", "0"],
            "mlx-lm": [*lm, "generate", "--model", name, "--prompt", _PROMPT, "--max-tokens", "1"],
            "mlx-vlm": [*vlm, "--model", name, "--prompt", _PROMPT, "--max-tokens", "1"],
        },
    }


def seconds(command: Sequence[str]) -> float:
    """How long a command takes as a whole process.

    Raises:
        OptionError: It fails.
    """
    began = time.perf_counter()
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise OptionError(f"{' '.join(command[1:4])}: expected it to work, found: {lines[-1]}")
    return time.perf_counter() - began


def measure(model: str | Path, against: Sequence[str], repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds by measurement and runtime, in turns; a first turn that fills the file cache is not counted."""
    found: dict[str, dict[str, float]] = {}
    for measurement, chosen in commands(model).items():
        runs: dict[str, list[float]] = {name: [] for name in ("mlx-qwen35", *against)}
        for turn in range(repeats + 1):
            for name, times in runs.items():
                took = seconds(chosen[name])
                if turn:
                    times.append(took)
        found[measurement] = {name: statistics.median(times) for name, times in runs.items()}
    return found
