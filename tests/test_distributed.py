"""mlx-lm's tensor-parallel and pipeline hooks with two processes on this machine."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.parity.cases import TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape

ROOT = Path(__file__).parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def launch(kind: str, checkpoint: Path, folder: Path, ranks: int) -> tuple[list[int], str, Path]:
    """Exit codes, what the ranks printed, and the file that rank 0 wrote."""
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(ranks)]))
    out = folder / f"{kind}.npy"
    command = [sys.executable, "-m", "tests.distributed_worker", kind, str(checkpoint), str(out)]
    processes = [
        subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(ranks)
    ]  # fmt: skip
    printed = "".join(process.communicate(timeout=120)[0] for process in processes)
    return [process.returncode for process in processes], printed, out


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("shard", DENSE), ("shard", MOE), ("pipeline", WIDE_HEADS)],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_two_processes_compute_what_one_does(
    kind: str, shape: Shape, checkpoint_dir: Callable[[Shape], Path], tmp_path: Path
) -> None:
    """Text and images, prefill and one decoded token, float32, to TOLERANCE of the largest logit."""
    directory = checkpoint_dir(shape)
    codes, printed, alone = launch("solo", directory, tmp_path, ranks=1)
    assert codes == [0], printed
    codes, printed, together = launch(kind, directory, tmp_path, ranks=2)
    assert codes == [0, 0], printed
    expected, found = np.load(alone), np.load(together)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_a_rank_that_cannot_carry_media_says_so(checkpoint_dir: Callable[[Shape], Path], tmp_path: Path) -> None:
    """The first half of this model has no attention layer: text works there, images are refused."""
    codes, printed, _ = launch("pipeline", checkpoint_dir(DENSE), tmp_path, ranks=2)
    assert 0 not in codes
    assert "media: expected an attention layer among these caches, found none" in printed
