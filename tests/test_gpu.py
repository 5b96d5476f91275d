"""What a machine without a network gets arrives there as it was packed; nothing here needs a GPU."""

import json
import os
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from random import Random

import pytest

from tools.gpu import pack, there

PART = 20_000


def wheel(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    """As pip downloads them: compressed, with more files than a package."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for place, data in {
            **files,
            f"{name}-1.0.dist-info/METADATA": f"Name: {name}\nVersion: 1.0\n".encode(),
        }.items():
            info = zipfile.ZipInfo(place)
            info.external_attr = (0o755 if place.endswith(".so") else 0o644) << 16
            archive.writestr(info, data)
    return path


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two small wheels, in parts."""
    library = Random(0).randbytes(50_000)
    one = wheel(tmp_path, "one", {"one/__init__.py": b"x = 1\n", "one/lib.so": library})
    two = wheel(
        tmp_path, "two", {"two.py": b"y = 2\n", "two-1.0.data/purelib/three.py": b"", "two-1.0.data/scripts/run": b""}
    )
    sums = pack.pack([two, one], tmp_path / "parts", PART, preset=0)
    assert len(sums) > 2
    return tmp_path / "parts"


def test_parts_are_small_and_put_together_again_are_what_was_packed(packed: Path, tmp_path: Path) -> None:
    sizes = [path.stat().st_size for path in sorted(packed.glob("gpu.tar.xz.*"))]
    assert set(sizes[:-1]) == {PART}
    assert 0 < sizes[-1] <= PART
    assert pack.PART <= 45_000_000
    site = tmp_path / "site"
    assert there.unpack(packed, site) == ["one-1.0-py3-none-any.whl", "two-1.0-py3-none-any.whl"]
    found = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert found == {
        "one/__init__.py", "one/lib.so", "one-1.0.dist-info/METADATA", "two.py", "three.py",
        "two-1.0.dist-info/METADATA",
    }  # fmt: skip
    assert (site / "one/lib.so").read_bytes() == Random(0).randbytes(50_000)
    assert os.access(site / "one/lib.so", os.X_OK)
    assert [one.version for one in metadata.distributions(path=[str(site)])] == ["1.0", "1.0"]


def test_a_second_packing_leaves_no_part_of_the_first(packed: Path, tmp_path: Path) -> None:
    small = wheel(tmp_path, "small", {"small.py": b""})
    assert list(pack.pack([small], packed, PART, preset=0)) == ["gpu.tar.xz.000"]
    assert [path.name for path in packed.glob("gpu.tar.xz.*")] == ["gpu.tar.xz.000"]


def test_a_part_that_is_missing_or_damaged_is_named_before_anything_is_written(packed: Path, tmp_path: Path) -> None:
    second = packed / "gpu.tar.xz.001"
    whole = second.read_bytes()
    second.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(SystemExit, match=r"^gpu\.tar\.xz\.001: .* found a damaged one$"):
        there.unpack(packed, tmp_path / "site")
    second.unlink()
    with pytest.raises(SystemExit, match=r"^gpu\.tar\.xz\.001: expected in .*, found nothing$"):
        there.unpack(packed, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "a-1.0.data/purelib/../../outside.py"])
def test_a_wheel_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    path = wheel(tmp_path, "a", {name: b""})
    with pytest.raises(SystemExit, match="expected a path inside of the wheel"):
        there.install(path, tmp_path / "site")


def test_what_is_needed_is_of_the_versions_that_are_installed_here() -> None:
    found = pack.needed(pack.ROOTS)
    for name in (
        "mlx",
        "mlx-lm",
        "mlx-vlm",
        "transformers",
        "tokenizers",
        "huggingface-hub",
        "numpy",
        "pytest",
        "pluggy",
    ):
        assert found[name] == metadata.version(name)
    assert not [name for name in found if name.startswith(pack.LEFT_OUT)]
    assert not {"ruff", "mypy", "playwright"} & found.keys()


def test_what_is_not_installed_here_is_named() -> None:
    with pytest.raises(SystemExit, match="^expected to be installed here: not-there$"):
        pack.needed(["numpy", "not-there"])


def test_nothing_but_python_is_needed_there(packed: Path, tmp_path: Path) -> None:
    """The script runs without this package and any other, and says what is missing."""
    command = [sys.executable, "-I", "-S", str(there.ROOT / "tools/gpu/there.py"), "--parts", str(packed)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, env={"PATH": ""}, check=False
    )
    assert (done.returncode, done.stderr) == (1, "expected an NVIDIA GPU, found no nvidia-smi that names one\n")


def test_a_run_ends_in_a_table_with_the_name_of_the_card(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"prompt_tps": 1234.5, "first_token": 0.0123, "per_token": 0.00456, "peak": None}
    speed = json.dumps({"repeats": 1, "cases": {"128 tokens": {"mlx-qwen35": figures}, "4 rows": {
        "mlx-lm": {**figures, "prompt_tps": None, "first_token": None}}}})  # fmt: skip
    site = tmp_path / "site"
    printing = [sys.executable, "-c"]

    def steps(work: Path, tests: list[str]) -> list[tuple[str, list[str]]]:
        return [
            ("versions", [*printing, f"print({json.dumps(json.dumps({'device': 'gpu', 'mlx': '0.32.4'}))})"]),
            ("tests", [*printing, "import one, sys; print(); print('== 2 passed =='); sys.exit(one.x)"]),
            ("speed bfloat16", [*printing, f"print({speed!r})"]),
            ("speed 4-bit", [*printing, "import time; print('so far', flush=True); time.sleep(600)"]),
        ]

    monkeypatch.setattr(there, "steps", steps)
    monkeypatch.setattr(there, "card", lambda: "NVIDIA Card, 1.2")
    seconds = there.run
    monkeypatch.setattr(there, "run", lambda *args: seconds(*args[:-1], 0.5 if args[0] == "speed 4-bit" else 60))
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["there.py", "--parts", str(packed), "--out", str(out), "--site", str(site)])
    assert there.main() == 1
    assert (
        (out / "table.md").read_text()
        == """\
# On NVIDIA Card, 1.2

device gpu, mlx 0.32.4.

| step | status | last line |
|---|--:|---|
| versions | 0 |  |
| tests | 1 | 2 passed |
| speed bfloat16 | 0 |  |
| speed 4-bit | 124 |  |

| weights | case | runtime | prompt | first token | per token |
|---|---|---|--:|--:|--:|
| bfloat16 | 128 tokens | mlx-qwen35 | 1234 tok/s | 12.3 ms | 4.56 ms |
| bfloat16 | 4 rows | mlx-lm |  |  | 4.56 ms |
"""
    )
    assert (out / "speed-4-bit.log").read_text() == "so far\n"


def test_the_steps_are_commands_of_this_checkout(tmp_path: Path) -> None:
    """All but the measuring itself: the options exist, and the checkpoint is one that they take."""
    found = dict(there.steps(tmp_path, there.TESTS))
    assert all((there.ROOT / path).exists() for path in there.TESTS)
    from mlx_qwen35.cli.main import build_parser

    for name, command in found.items():
        if command[: len(there.COMMAND)] == there.COMMAND:
            options = build_parser().parse_args(command[len(there.COMMAND) :])
            assert str(options.model) == str(tmp_path / "bfloat16") or name == "speed 4-bit"
    compile(found["write"][2], "write", "exec")
    done = subprocess.run(found["versions"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "torch" in done.stderr
