"""That MLX compiles is said when it does, and only then."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_qwen35.cli.compiling import MESSAGE, compiler_runs, watch_compiler

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's list of children")
on_cpu = mx.default_device() == mx.Device(mx.cpu)
needs_cpu = pytest.mark.skipif(not on_cpu, reason="needs the CPU backend")
needs_compiler = pytest.mark.skipif(not on_cpu or shutil.which("g++") is None, reason="needs g++ and the CPU backend")
SCRIPT = """
import mlx.core as mx
from mlx_qwen35.cli.compiling import watch_compiler

class Kit:
    pass


kit = Kit()
watch_compiler(kit, 0.01)
mx.eval(mx.compile(lambda x: (x + 3) * x - 7)(mx.ones(5)))
"""


class Kit:
    """What is watched for; its own class because a plain object cannot be referred to weakly."""


@needs_cpu
def test_the_watch_ends_with_its_kit() -> None:
    kit, before = Kit(), set(threading.enumerate())
    watch_compiler(kit, 0.001)
    (watch,) = set(threading.enumerate()) - before
    assert watch.is_alive()
    del kit
    watch.join(10)
    assert not watch.is_alive()


@pytest.mark.thorough
@needs_compiler
def test_it_is_said_when_mlx_compiles_and_not_when_it_has_what_it_needs(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    for expected in (f"{MESSAGE}\n", ""):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stderr == expected


@pytest.mark.parametrize(("name", "expected"), [("g++", True), ("gcc", False)])
def test_only_a_child_that_is_the_compiler_counts(name: str, expected: bool) -> None:
    command = [sys.executable, "-c", "print(flush=True); input()", name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert compiler_runs() is expected
        child.communicate(b"\n")
    assert not compiler_runs()
