"""How long it takes to begin: importing, asking for help, and from a cold process to the first token."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mlx_qwen35.errors import OptionError

_PROMPT = "Hello!"
_TIMEOUT_SECONDS = 600


def commands(model: str | Path, picture: Path | None) -> dict[str, dict[str, list[str]]]:
    """What is run, by measurement and by runtime: each one's own commands.

    Args:
        picture: An image to ask about, where the model can see; mlx-lm cannot.
    """
    python, name = [sys.executable], str(model)
    own, lm, vlm = ([*python, "-m", module] for module in ("mlx_qwen35.cli.main", "mlx_lm", "mlx_vlm.generate"))
    found = {
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
    if picture is not None:
        found["first token, picture"] = {
            runtime: [*found["first token"][runtime], "--image", str(picture)] for runtime in ("mlx-qwen35", "mlx-vlm")
        }
    return found


def seconds(command: Sequence[str]) -> float:
    """How long a command takes as a whole process, with compiled bytecode, as what is installed has it.

    Raises:
        OptionError: It fails.
    """
    began = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise OptionError(f"{' '.join(command[1:4])}: expected it to work, found: {lines[-1]}")
    return time.perf_counter() - began


def measure(
    model: str | Path, against: Sequence[str], repeats: int, picture: Path | None = None
) -> dict[str, dict[str, float]]:
    """Median seconds by measurement and runtime, in turns; a first turn that fills the file cache is not counted.

    Args:
        picture: See `commands`.
    """
    found: dict[str, dict[str, float]] = {}
    for measurement, chosen in commands(model, picture).items():
        runs: dict[str, list[float]] = {name: [] for name in ("mlx-qwen35", *against) if name in chosen}
        for turn in range(repeats + 1):
            for name, times in runs.items():
                took = seconds(chosen[name])
                if turn:
                    times.append(took)
        found[measurement] = {name: statistics.median(times) for name, times in runs.items()}
    return found
