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

from tests.distributed_worker import logits
from tests.parity.cases import TOLERANCE
from tests.tiny import DENSE, MOE, WIDE_HEADS, Shape

ROOT = Path(__file__).parent.parent
RANKS = 2
JOBS = [("shard", DENSE), ("shard", MOE), ("pipeline", WIDE_HEADS)]
# The first half of this model has no attention layer.
BLIND = ("pipeline", DENSE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def written(checkpoint_dir: Callable[[Shape], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what two ranks made of all jobs: starting them takes longer than the jobs do."""
    folder = tmp_path_factory.mktemp("ranks")
    hosts = folder / "hosts.json"
    hosts.write_text(json.dumps([[f"127.0.0.1:{free_port()}"] for _ in range(RANKS)]))
    # What ends both of them comes last.
    jobs = [f"{kind}={checkpoint_dir(shape)}" for kind, shape in (*JOBS, BLIND)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed_worker", str(folder), *jobs],
            cwd=ROOT, env={**os.environ, "MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(RANKS)
    ]  # fmt: skip
    printed = "".join(process.communicate(timeout=300)[0] for process in processes)
    assert [process.returncode for process in processes] == [0] * RANKS, printed
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("kind", "shape"), JOBS, ids=lambda value: value if isinstance(value, str) else str(value.name)
)
def test_two_processes_compute_what_one_does(
    kind: str, shape: Shape, checkpoint_dir: Callable[[Shape], Path], written: Path
) -> None:
    """A text and an image, prefill and one decoded token, float32, to TOLERANCE of the largest logit."""
    errors = [file.read_text() for file in written.glob(f"{kind}-{shape.name}.*.error")]
    assert errors == []
    expected, found = logits(checkpoint_dir(shape), "solo", None), np.load(written / f"{kind}-{shape.name}.npy")
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.thorough
def test_a_rank_that_cannot_carry_media_says_so(written: Path) -> None:
    """Text works there, images are refused."""
    kind, shape = BLIND
    assert not (written / f"{kind}-{shape.name}.npy").exists()
    errors = [(written / f"{kind}-{shape.name}.{rank}.error").read_text() for rank in range(RANKS)]
    assert "CacheError: media: expected an attention layer among these caches, found none" in errors
