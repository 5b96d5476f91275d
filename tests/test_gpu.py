"""What a machine without a network gets arrives there as it was packed; nothing here needs a GPU."""

import argparse
import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from random import Random

import mlx.core as mx
import pytest

from tests.tiny import DENSE, Shape
from tools.gpu import installing, pack, probe, results, speeds, there

# Of a tool for whoever changes the package.
pytestmark = pytest.mark.thorough
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
    assert installing.unpack(packed, site) == ["one-1.0-py3-none-any.whl", "two-1.0-py3-none-any.whl"]
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
        installing.unpack(packed, tmp_path / "site")
    second.unlink()
    with pytest.raises(SystemExit, match=r"^gpu\.tar\.xz\.001: expected in .*, found nothing$"):
        installing.unpack(packed, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "a-1.0.data/purelib/../../outside.py"])
def test_a_wheel_writes_nowhere_else(tmp_path: Path, name: str) -> None:
    path = wheel(tmp_path, "a", {name: b""})
    with pytest.raises(SystemExit, match="expected a path inside of the wheel"):
        installing.install(path, tmp_path / "site")


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
    script = str(there.ROOT / "tools/gpu/there.py")
    command = [sys.executable, "-I", "-S", script, "--parts", str(packed), "--only", "tests"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out")], capture_output=True, text=True, env={"PATH": ""}, check=False
    )
    assert (done.returncode, done.stderr) == (1, "expected an NVIDIA GPU, found no nvidia-smi that names one\n")


def test_a_run_ends_in_a_table_with_the_name_of_the_card(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = {"weights": "bfloat16", "case": "4 rows"}
    figures = {"prompt_tps": 1234.5, "first_token": 0.0123, "per_token": 0.00456}
    nothing = {"prompt_tps": None, "first_token": None, "per_token": 0.00456}
    speed = "\n".join(
        json.dumps({**case, **run})
        for run in (
            {"runtime": "mlx-qwen35", "run": 0, **figures, "per_token": 97.5},
            {"runtime": "mlx-lm", "run": 0, **nothing},
            *({"runtime": "mlx-qwen35", "run": number, **figures} for number in (1, 2)),
        )
    )
    printing = [sys.executable, "-c"]
    tests = "tests/a.py::one PASSED [ 50%]\ntests/a.py::two[x y] FAILED [100%]\n== 1 passed =="
    rows = [
        ("versions", [*printing, f"print({json.dumps(json.dumps({'device': 'gpu', 'mlx': '0.32.4'}))})"]),
        ("tests", [*printing, f"import one, sys; print({tests!r}); sys.exit(one.x)"]),
        ("speed", [*printing, f"print({speed!r}, flush=True); import time; time.sleep(600)"]),
        ("late", [*printing, "print('never')"]),
    ]
    monkeypatch.setattr(there, "lanes", lambda *args: {"lane": rows})
    monkeypatch.setattr(there, "card", lambda: "NVIDIA Card, 1.2")
    # The last two are over as soon as they have said something.
    monkeypatch.setattr(there, "run", lambda *args, run=there.run: run(*args[:-1], LIMITS.get(args[0], 60.0)))
    site, out = tmp_path / "site", tmp_path / "out"
    command = ["there.py", "--parts", str(packed), "--out", str(out), "--site", str(site), "--only", "tests"]
    monkeypatch.setattr(sys, "argv", command)
    assert there.main() == 1
    found = re.sub(r"\| \d+\.\d \|", "| s |", (out / "table.md").read_text())
    assert (
        found
        == """\
# On NVIDIA Card, 1.2

device gpu, mlx 0.32.4.

| step | status | seconds | passed | failed | skipped | last line |
|---|--:|--:|--:|--:|--:|---|
| versions | 0 | s |  |  |  |  |
| tests | 1 | s | 1 | 1 | 0 | 1 passed |
| speed | 124 | s |  |  |  | KeyboardInterrupt |
| late | 124 | s |  |  |  |  |

Failed:

- tests: `tests/a.py::two[x y]`

| weights | case | runtime | prompt | first token | per token |
|---|---|---|--:|--:|--:|
| bfloat16 | 4 rows | mlx-qwen35 | 1234 tok/s | 12.3 ms | 4.56 ms |
| bfloat16 | 4 rows | mlx-lm, first run |  |  | 4.56 ms |
"""
    )
    # What is unpacked is not unpacked again.
    shutil.rmtree(packed)
    monkeypatch.setattr(there, "lanes", lambda *args: {"lane": rows[:1]})
    assert there.main() == 0


LIMITS = {"speed": 1.5, "late": 0.0}


def test_the_steps_are_commands_of_this_checkout(tmp_path: Path) -> None:
    """All but the measuring itself: the options and the files of tests exist."""
    from mlx_qwen35.cli.main import build_parser

    found = {name: list(command) for lane in there.lanes("tests", tmp_path).values() for name, command in lane}
    for said in there.TESTS.values():
        files = [one.split("::")[0] for one in said if one.startswith("tests/")]
        assert len(files) > 1
        assert all((there.ROOT / file).is_file() for file in files)
    options = build_parser().parse_args(found["convert"][len(there.COMMAND) :])
    assert str(options.model) == str(tmp_path / "bfloat16")
    compile(found["write"][2], "write", "exec")
    assert subprocess.run(found["versions"], capture_output=True, check=False).returncode == 0
    ((one_row, several),) = there.lanes("speed", tmp_path).values()
    for name, command in (one_row, several):
        assert name.startswith("speed")
        assert command[:3] == there.SPEEDS
    assert found["probe"][-1] == "tools.gpu.probe"


def test_libraries_and_headers_are_where_mlx_looks_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site, python, cuda = tmp_path / "site", tmp_path / "python", tmp_path / "cuda"
    for folder in (site / "mlx/include", cuda / "include/crt", cuda / "lib64"):
        folder.mkdir(parents=True)
    for name in ("cu13", "cudnn", "nccl"):
        (python / "nvidia" / name / "lib").mkdir(parents=True)
    (python / "nvidia/cu13/include").mkdir()
    for header in (cuda / "include/cuda_fp16.h", cuda / "include/crt/mma.h"):
        header.touch()
    monkeypatch.syspath_prepend(str(python))
    monkeypatch.setenv("CUDA_HOME", str(cuda))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    for _ in range(2):
        found = there.environment(site)
    assert (site / "nvidia/cu13/include").is_dir()
    assert (site / "mlx/include/crt/mma.h").is_file()
    places = found["LD_LIBRARY_PATH"].split(os.pathsep)
    expected = [python / "nvidia" / name / "lib" for name in ("cu13", "cudnn", "nccl")]
    assert [place for place in places if place in map(str, expected)] == [str(place) for place in expected]
    assert places[-2:] == [str(cuda / "lib64"), "/before"]
    assert found["CUDA_HOME"] == str(cuda)


def test_lanes_share_no_kernels_but_what_was_prepared(tmp_path: Path) -> None:
    folders = [there.kernels(tmp_path, lane) for lane in ("dense", "experts", there.PREPARE, there.SPEED)]
    assert [folders.count(folder) for folder in folders] == [1, 1, 2, 2]
    assert all(Path(folder).is_dir() for folder in folders)


def test_what_the_machine_has_is_left_out_if_it_is_good_enough() -> None:
    there_is = pack.listed("# known\nnumpy==2.5.2\nTransformers == 5.17.0  # too old\nhf_xet\n\n")
    assert there_is == {"numpy": "2.5.2", "transformers": "5.17.0", "hf-xet": None}
    all_of_it = pack.needed(["mlx-qwen35"])
    assert {"numpy", "transformers", "hf-xet"} <= all_of_it.keys()
    found = pack.needed(["mlx-qwen35"], there_is)
    assert found.keys() == all_of_it.keys() - {"numpy", "hf-xet"}


def fat(*entries: tuple[int, int, bytes]) -> bytes:
    """A group of machine code, of (kind, architecture, code)."""
    body = b"".join(
        struct.pack("<HHIQ", kind, 0x101, 64, len(code))
        + struct.pack("<IIII", 0, 0, 0, architecture).ljust(48, b"\7")
        + code
        for kind, architecture, code in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_of_a_library_s_machine_code_one_architecture_stays() -> None:
    one, two = fat((2, 80, b"a" * 40), (2, 90, b"b" * 24), (1, 90, b"ptx!" * 8)), fat((2, 90, b"c" * 8))
    library = b"before" + one + b"between" + two + b"after"
    alone = fat((2, 90, b"b" * 24))
    found = pack.for_architecture(library, 90)
    assert found == b"before" + alone.ljust(len(one), b"\0") + b"between" + two + b"after"
    with pytest.raises(SystemExit, match=r"^expected machine code for 80, found it for \[90\]$"):
        pack.for_architecture(two, 80)


def test_the_checkout_s_code_is_not_packed(tmp_path: Path) -> None:
    own = wheel(tmp_path, "mlx_qwen35", {"mlx_qwen35/__init__.py": b""})
    with zipfile.ZipFile(io.BytesIO(pack.stored(own))) as archive:
        assert archive.namelist() == ["mlx_qwen35-1.0.dist-info/METADATA"]


def test_a_failure_is_explained_before_the_next_test_begins(tmp_path: Path) -> None:
    """With the options that are used there; the run is killed in the second test."""
    (tmp_path / "test_one.py").write_text(
        "import os\n\ndef test_wrong():\n    found = 41\n    assert found == 42\n\ndef test_late():\n    os._exit(1)\n"
    )
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": "", "PYTHONPATH": str(there.ROOT)}
    done = subprocess.run(
        [*there.PYTEST, "test_one.py"], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    before, after = done.stdout.split("test_one.py::test_wrong FAILED")
    assert "assert 41 == 42" not in before
    why, late = after.split("test_one.py::test_late")
    assert "test_one.py:5: in test_wrong" in why
    assert "E   assert 41 == 42" in why
    assert late.strip() == ""


def test_the_outcomes_are_read_from_among_the_explanations() -> None:
    text = (
        "tests/a.py::one FAILED [ 50%]\ntests/a.py:5: in one\n    assert x\nE   AssertionError\ntests/a.py::two PASSED"
    )
    assert results.outcomes(text) == {"FAILED": ["tests/a.py::one"], "PASSED": ["tests/a.py::two"]}


def test_kernels_that_were_compiled_are_named_with_their_times(tmp_path: Path) -> None:
    for name, at in (("old", 90.0), ("second", 103.5), ("first", 101.25)):
        (tmp_path / f"{name}.ptx").touch()
        os.utime(tmp_path / f"{name}.ptx", (at, at))
    found = there.compiled(str(tmp_path), 100.0)
    assert found == ["compiled after 1.2 s: first", "compiled after 3.5 s: second"]


def test_the_probe_finds_no_difference_between_the_cpu_and_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name, compute in probe.checks():
        if compute is not probe.beside_others and "bfloat16" not in name:
            assert probe.measure(compute) == "0.0e+00", name
    difference, largest = probe.beside_others().tolist()
    assert difference == 0 < largest


def test_the_probe_says_what_was_raised_and_how_large_a_difference_is() -> None:
    def raising() -> mx.array:
        raise RuntimeError("no such kernel")

    calls = iter((mx.array([1.0, 2.0]), mx.array([1.0, 4.0])))
    assert probe.measure(raising) == "RuntimeError: no such kernel"
    assert probe.measure(lambda: next(calls)) == "5.0e-01"


def test_each_run_of_a_case_is_said(checkpoint_dir: Callable[[Shape], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of this package alone here; the others have tests of their own."""
    monkeypatch.setattr(speeds, "PARENTS", {})
    options = argparse.Namespace(lengths="4,8", rows=0, side=64, warm=True)
    found = list(speeds.runs(checkpoint_dir(DENSE), options))
    assert [run["case"] for run in found] == ["text, 4 tokens", "text, 8 tokens", "1 image, 64 x 64"]
    assert all(run["prompt_tps"] > 0 < run["first_token"] and run["per_token"] > 0 for run in found)
    options.rows = 2
    (batch,) = speeds.runs(checkpoint_dir(DENSE), options)
    assert (batch["case"], batch["run"], batch["first_token"]) == ("2 rows, 64 tokens each", 0, None)
    assert batch["per_token"] > 0
