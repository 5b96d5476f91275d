"""On the machine with the GPU: unpacks what `tools.gpu.pack` made, runs tests and measurements, and writes a table.

    python3 tools/gpu/there.py --parts build/gpu --out results --only tests --seconds 240
    python3 tools/gpu/there.py --parts build/gpu --out results --only speed --seconds 75

In a copy of the checkout, with a Python 3.12 that has PyTorch for CUDA 13; nothing but that Python is needed to
start. Tests run in several lanes at once, each a row of commands with a log of its own: MLX compiles its kernels when
they are first used, which takes one core for longer than the tests do. The first call also writes the checkpoints that
the second one measures, and runs them once, so that nothing is compiled there. `results/table.md` has the card's name,
what became of the tests, and the speeds beside mlx-lm and mlx-vlm; it is written anew after each command. A log has
the traceback of every test that failed, and which kernels were compiled. Ends with status 1 if a command failed or had
to be stopped.
"""

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# As a script it may have been started from anywhere, and without the folder it lies in.
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from tools.gpu.installing import unpack  # noqa: E402
from tools.gpu.results import Report, Step  # noqa: E402

# By lane, what is said to pytest: the most telling comes first, for the time may end.
TESTS = {
    "dense": (
        "tests/parity/test_goldens.py", "tests/patches/test_gated_delta.py", "tests/parity/test_consistency.py",
        "tests/test_vision.py", "tests/box/test_box.py", "tests/runtime/test_speculation.py",
        "tests/parity/test_mlx_lm.py", "tests/parity/test_mlx_vlm.py", "tests/parity/test_transformers.py",
        "-k", "not moe and not readme and not command_line and not four_bits and not quantised_key_values",
    ),
    "experts": (
        "tests/parity/test_goldens.py", "tests/patches/test_gated_delta.py", "tests/parity/test_consistency.py",
        "tests/parity/test_mlx_lm.py", "tests/parity/test_transformers.py",
        "-k", "moe and not bf16 and not quantised_key_values",
    ),
    "quantised": (
        "tests/parity/test_formats.py", "tests/state/test_quantized_cache.py",
        "tests/patches/test_quantized_attention.py",
    ),
    # These wait, each for minutes, for kernels that MLX compiles; no signal ends that before it is done.
    "compiling": (
        "tests/box/test_box.py", "tests/parity/test_mlx_lm.py",
        "-k", "four_bits or quantised_key_values or (moe and bf16)",
    ),
}  # fmt: skip
PREPARE, SPEED = "prepare", "speed"
# Without the plugins that happen to be there, and with what a run that is stopped needs to have said something.
PYTEST = (
    sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "--maxfail=60", "-W", "default", "--durations=15",
    "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", "-p", "tools.gpu.failures",
)  # fmt: skip
TIMEOUT = ("-p", "pytest_timeout", "--timeout=90", "--timeout-method=signal")
# After an interrupt pytest sums up.
PATIENCE = 8.0
COMMAND = (sys.executable, "-m", "mlx_qwen35.cli.main")
SPEEDS = (sys.executable, "-m", "tools.gpu.speeds")
# The shapes of the smallest published size: a download would be needed for its weights.
SIZE = "0.8b"
WRITE = "from mlx_qwen35.bench.synthetic import write_synthetic as write; write(Path({!r}), {!r}, dtype='bfloat16')"
VERSIONS = """
import importlib.metadata as found, json, mlx.core as mx
print(json.dumps({"device": str(mx.default_device()), **{one: str(value) for one, value in mx.device_info().items()}}))
names = {"mlx", "mlx-lm", "mlx-vlm", "transformers", "torch", "numpy"}
versions = {one.metadata["Name"]: one.version for one in reversed(list(found.distributions()))}
print(json.dumps({name: versions.get(name) for name in sorted(names)}))
assert (mx.arange(3) * 2).tolist() == [0, 2, 4]
"""


def toolkit() -> Path | None:
    """Where CUDA's own folder is, if it is installed: that of its variables, of its compiler, or the usual one."""
    compiler = shutil.which("nvcc")
    places = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    if compiler:
        places.insert(2, str(Path(compiler).resolve().parents[1]))
    return next((Path(place) for place in places if place and Path(place, "include", "cuda_fp16.h").is_file()), None)


def environment(site: Path) -> dict[str, str]:
    """Variables for programs that use the folder, with NVIDIA's libraries and headers where MLX looks for them.

    MLX 0.32.4: libmlx.so's RPATH names ../../nvidia/cu13/lib and others, from its own folder; its
    backend/cuda/jit_module.cpp takes headers from ../nvidia/cu13/include or else from CUDA_HOME, and both after
    mlx/include.
    """
    found = importlib.util.find_spec("nvidia")
    libraries = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    libraries = [place for place in libraries if place.parent != site]
    if libraries and not (site / "nvidia").exists():
        (site / "nvidia").symlink_to(libraries[0])
    folders = [str(path) for place in libraries for path in sorted(place.glob("*/lib"))]
    cuda, variables = toolkit(), {}
    if cuda is not None:
        folders += [str(path) for path in (cuda / "lib64",) if path.is_dir()]
        variables["CUDA_HOME"] = str(cuda)
        # Python's packages of CUDA's headers come without these, and some kernels ask for them.
        inner, own = cuda / "include" / "crt", site / "mlx" / "include"
        if inner.is_dir() and own.is_dir() and not (own / "crt").exists():
            (own / "crt").symlink_to(inner)
    before = os.environ.get("LD_LIBRARY_PATH", "")
    return {
        **os.environ,
        **variables,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "LD_LIBRARY_PATH": os.pathsep.join([*folders, *filter(None, [before])]),
        "PYTHONUNBUFFERED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # Options of plugins would be unknown without them.
        "PYTEST_ADDOPTS": "",
        "HF_HUB_OFFLINE": "1",
        # Other lanes and other programs compute beside this one.
        "OMP_NUM_THREADS": "2",
        # Tests hold float32 against float32, not against what tensor cores make of it.
        "MLX_ENABLE_TF32": "0",
        # Tests have many shapes; MLX takes more than it remembers for a mistake, and raises.
        "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    }


def kernels(site: Path, lane: str) -> str:
    """The folder in which a lane's processes find compiled kernels again.

    Its own: MLX reads such files while another process writes them. What is prepared is for the measuring.
    """
    folder = site / "kernels" / (SPEED if lane == PREPARE else lane)
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def card() -> str:
    """The GPU's name and its driver.

    Raises:
        SystemExit: There is none.
    """
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    raise SystemExit("expected an NVIDIA GPU, found no nvidia-smi that names one")


def lanes(only: str, work: Path, size: str = SIZE) -> dict[str, list[tuple[str, Sequence[str]]]]:
    """What is run, by lane, in a row; steps whose names begin with "speed" print JSON.

    Args:
        only: "tests" or "speed".
        work: Folder of the checkpoints.
    """
    plain, small = work / "bfloat16", work / "4-bit"
    models = ("--model", str(plain), "--model", str(small))
    if only == SPEED:
        return {SPEED: [("speed", (*SPEEDS, *models)), ("speed of rows", (*SPEEDS, *models, "--rows", "4"))]}
    options = TIMEOUT if importlib.util.find_spec("pytest_timeout") else ()
    tests = {lane: [(f"tests {lane}", (*PYTEST, *options, *said))] for lane, said in TESTS.items()}
    prepare = [
        ("versions", (sys.executable, "-c", VERSIONS)),
        ("probe", (sys.executable, "-m", "tools.gpu.probe")),
        ("write", (sys.executable, "-c", f"from pathlib import Path; {WRITE.format(str(plain), size)}")),
        ("convert", (*COMMAND, "convert", "--model", str(plain), "--out", str(small), "--bits", "4")),
        ("warm", (*SPEEDS, *models, "--warm")),
        ("warm rows", (*SPEEDS, *models, "--warm", "--rows", "4")),
    ]
    return {PREPARE: prepare, **tests}


def run(name: str, command: Sequence[str], log: Path, env: Mapping[str, str], seconds: float) -> Step:
    """Run a command; all that it prints goes to the end of a log at once.

    Args:
        seconds: After which it is interrupted, and soon killed.
    """
    began, status = time.monotonic(), 124
    if seconds <= 0:
        return Step(name, status, 0.0, "")
    with log.open("ab") as file:
        before = file.tell()
        process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    text = log.read_bytes()[before:].decode(errors="replace")
    return Step(name, status, time.monotonic() - began, text)


def work_through(
    lane: str, steps: Sequence[tuple[str, Sequence[str]]], out: Path, site: Path, ends: float, report: Report
) -> None:
    """A lane's steps, one after the other, until the clock says `ends`; one that fails does not stop the next."""
    folder, log = kernels(site, lane), out / f"{lane}.log"
    env = {**environment(site), "MLX_PTX_CACHE_DIR": folder}
    for name, command in steps:
        began = time.time()
        step = run(name, command, log, env, ends - time.monotonic())
        with log.open("a") as file:
            file.writelines(f"{line}\n" for line in compiled(folder, began))
        report.add(step)


def compiled(folder: str, since: float) -> list[str]:
    """Of each kernel that was compiled since then, its name and when that was done."""
    found = [(path.stat().st_mtime, path.stem) for path in Path(folder).rglob("*.ptx")]
    return [f"compiled after {at - since:.1f} s: {name}" for at, name in sorted(found) if at >= since]


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="folder of what was packed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--site", type=Path, default=Path("/tmp/gpu-site"), help="where the packages are installed")
    parser.add_argument("--only", choices=("tests", SPEED), required=True, help="what is run")
    parser.add_argument("--lanes", help="names of the lanes, with commas between them; default: all")
    parser.add_argument("--size", default=SIZE, help="published size whose shapes are measured")
    parser.add_argument("--seconds", type=float, default=1500.0, help="that all may take, unpacking included")
    return parser.parse_args()


def main() -> int:
    """Unpack, unless that was done, run and report."""
    options = parse()
    ends = time.monotonic() + options.seconds - PATIENCE
    name = card()
    done = options.site / "unpacked"
    if not done.exists():
        names = unpack(options.parts, options.site)
        done.write_text("\n".join(names))
        print(f"{len(names)} packages in {options.site}, on {name}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    report = Report(name, options.out)
    chosen = lanes(options.only, options.site / "checkpoints", options.size)
    if options.lanes:
        chosen = {lane: chosen[lane] for lane in options.lanes.split(",")}
    environment(options.site)
    threads = [
        threading.Thread(target=work_through, args=(lane, steps, options.out, options.site, ends, report))
        for lane, steps in chosen.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return int(any(step.status for step in report.steps))


if __name__ == "__main__":
    sys.exit(main())
