"""Directories of processes: private, and removed by the next one when a process was killed."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_qwen35.state import overflow
from mlx_qwen35.state.overflow import PREFIX, OverflowDirectory


def test_a_directory_is_private_and_goes_with_its_owner(tmp_path: Path) -> None:
    directory = OverflowDirectory(tmp_path)
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    (directory.path / "1.safetensors").write_bytes(b"what was said")
    directory.close()
    directory.close()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """But not what another one uses."""
    script = (
        "import sys; from pathlib import Path; from mlx_qwen35.state.overflow import OverflowDirectory\n"
        "directory = OverflowDirectory(Path(sys.argv[1])); (directory.path / 'said').write_text('x')\n"
        "print(directory.path, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        alive = OverflowDirectory(tmp_path)
        assert (left / "said").exists()
        process.kill()
        process.wait()
        OverflowDirectory(tmp_path).close()
    assert not left.exists()
    assert alive.path.exists()
    alive.close()


def test_a_directory_that_is_being_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no lock yet. One without a lock that is old is an earlier version's."""
    made = tmp_path / f"{PREFIX}new"
    made.mkdir()
    OverflowDirectory(tmp_path).close()
    assert made.exists()
    monkeypatch.setattr(overflow, "_GRACE", -1.0)
    OverflowDirectory(tmp_path).close()
    assert not made.exists()


def test_nothing_else_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overflow, "_GRACE", -1.0)
    target = tmp_path / "target"
    target.mkdir()
    (tmp_path / f"{PREFIX}link").symlink_to(target)
    (tmp_path / f"{PREFIX}file").write_text("x")
    (tmp_path / "other").mkdir()
    OverflowDirectory(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["target", f"{PREFIX}link", f"{PREFIX}file", "other"]
    )


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_what_may_not_be_looked_into_is_left(tmp_path: Path) -> None:
    locked = tmp_path / f"{PREFIX}locked"
    locked.mkdir(mode=0o000)
    OverflowDirectory(tmp_path).close()
    assert locked.exists()
    locked.chmod(0o700)
