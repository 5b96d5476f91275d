"""On the machine with the GPU: unpacks what `tools.gpu.pack` made, runs tests and measurements, and writes a table.

    python3 tools/gpu/there.py --parts build/gpu --out results --only tests --seconds 240
    python3 tools/gpu/there.py --parts build/gpu --out results --only speed --seconds 70

In a copy of the checkout, with a Python 3.12 that has PyTorch for CUDA 13; nothing but that Python is needed to
start. Tests run in several lanes at once, each a row of commands with a log of its own: MLX compiles its kernels when
they are first used, which takes one core for longer than the tests do. The first call also writes the checkpoints that
the second one measures, and runs them once, so that nothing is compiled there. `results/table.md` has the card's name,
what became of the tests, and the speeds beside mlx-lm and mlx-vlm; it is written anew after each command. Ends with
status 1 if one failed or had to be stopped.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import lzma
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "gpu.tar.xz"
# By lane, what is said to pytest: the most telling comes first, for the time may end.
TESTS = {
    "dense": (
        "tests/parity/test_goldens.py", "tests/patches/test_gated_delta.py", "tests/parity/test_consistency.py",
        "tests/test_vision.py", "tests/box/test_box.py", "tests/runtime/test_speculation.py",
        "tests/parity/test_mlx_lm.py", "tests/parity/test_mlx_vlm.py", "tests/parity/test_transformers.py",
        "-k", "not moe and not readme and not command_line and not four_bits",
    ),
    "experts": (
        "tests/parity/test_goldens.py", "tests/patches/test_gated_delta.py", "tests/parity/test_consistency.py",
        "tests/parity/test_mlx_lm.py", "tests/parity/test_transformers.py", "-k", "moe",
    ),
    "quantised": (
        "tests/parity/test_formats.py", "tests/state/test_quantized_cache.py",
        "tests/patches/test_quantized_attention.py", "tests/box/test_box.py::test_four_bits_keep_most_of_it",
    ),
}  # fmt: skip
PREPARE, SPEED = "prepare", "speed"
# Without the plugins that happen to be there, and with what a run that is stopped needs to have said something.
PYTEST = (
    sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "--maxfail=60", "-W", "default", "--durations=15",
    "-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin",
)  # fmt: skip
TIMEOUT = ("-p", "pytest_timeout", "--timeout=90", "--timeout-method=signal")
# After an interrupt pytest sums up.
PATIENCE = 8.0
COMMAND = (sys.executable, "-m", "mlx_qwen35.cli.main")
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


class Joined(io.RawIOBase):
    """Several files, read as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._rest = list(paths)
        self._open: io.BufferedReader | None = None

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, of one file at a time."""
        while True:
            if self._open is None:
                if not self._rest:
                    return 0
                self._open = self._rest.pop(0).open("rb")
            if count := self._open.readinto(buffer):
                return count
            self._open.close()
            self._open = None

    def close(self) -> None:
        """The file that is open."""
        if self._open is not None:
            self._open.close()
        super().close()


def check(parts: Path) -> list[Path]:
    """The parts in their order, all of them there and whole.

    Raises:
        SystemExit: One is missing or damaged.
    """
    manifest = json.loads((parts / "manifest.json").read_text())
    found = []
    for name, expected in manifest["parts"].items():
        path = parts / name
        if not path.is_file():
            raise SystemExit(f"{name}: expected in {parts}, found nothing")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise SystemExit(f"{name}: expected the part that was packed, found a damaged one")
        found.append(path)
    return found


def unpack(parts: Path, site: Path) -> list[str]:
    """Install the wheels of the parts into a folder.

    Returns:
        Their names.
    Raises:
        SystemExit: See `check`.
    """
    names = []
    with (
        Joined(check(parts)) as joined,
        lzma.open(io.BufferedReader(joined)) as packed,
        tarfile.open(fileobj=packed, mode="r|") as archive,
    ):
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None
            install(io.BytesIO(file.read()), site)
            names.append(member.name)
    return names


def install(wheel: Any, site: Path) -> None:
    """What pip does with --target, for a machine without pip: a wheel's files, without its scripts.

    Raises:
        SystemExit: It would write outside of the folder.
    """
    with zipfile.ZipFile(wheel) as source:
        for info in source.infolist():
            path = PurePosixPath(info.filename)
            parts = path.parts
            if parts[0].endswith(".data"):
                if parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if path.is_absolute() or ".." in parts:
                raise SystemExit(f"{info.filename}: expected a path inside of the wheel")
            target = site.joinpath(*parts)
            if info.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open(info) as file, target.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            if mode := info.external_attr >> 16 & 0o777:
                target.chmod(mode)


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
        "HF_HUB_OFFLINE": "1",
        # Other lanes and other programs compute beside this one.
        "OMP_NUM_THREADS": "2",
        # Tests hold float32 against float32, not against what tensor cores make of it.
        "MLX_ENABLE_TF32": "0",
        # Tests have many shapes; MLX takes more than it remembers for a mistake, and raises.
        "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
    }


def kernels(site: Path, lane: str) -> str:
    """The folder in which a lane's processes find compiled kernels again, filled with those that were packed.

    Its own: MLX reads such files while another process writes them. What is prepared is for the measuring.
    """
    folder = site / "kernels" / (SPEED if lane == PREPARE else lane)
    packed = site / "compiled"
    if not folder.exists():
        shutil.copytree(packed, folder) if packed.is_dir() else folder.mkdir(parents=True)
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
        return {SPEED: [("speed", (sys.executable, "-m", "tools.gpu.speeds", *models))]}
    options = TIMEOUT if importlib.util.find_spec("pytest_timeout") else ()
    tests = {lane: [(f"tests {lane}", (*PYTEST, *options, *said))] for lane, said in TESTS.items()}
    prepare = [
        ("versions", (sys.executable, "-c", VERSIONS)),
        ("write", (sys.executable, "-c", f"from pathlib import Path; {WRITE.format(str(plain), size)}")),
        ("convert", (*COMMAND, "convert", "--model", str(plain), "--out", str(small), "--bits", "4")),
        ("warm", (sys.executable, "-m", "tools.gpu.speeds", *models, "--warm")),
    ]
    return {PREPARE: prepare, **tests}


@dataclass
class Step:
    """What became of a command.

    Args:
        status: 124 if it was stopped.
        text: All that it printed.
    """

    name: str
    status: int
    seconds: float
    text: str


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


def objects(text: str) -> list[dict[str, Any]]:
    """The lines that are JSON objects."""
    found = []
    for line in text.splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            if line.startswith("{"):
                found.append(json.loads(line))
    return found


def outcomes(text: str) -> dict[str, list[str]]:
    """Of pytest's own lines, the tests by what became of them."""
    found: dict[str, list[str]] = {}
    for test, outcome in re.findall(r"^(tests/\S+::.*?) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE):
        found.setdefault(outcome, []).append(test)
    return found


def table(name: str, found: Sequence[Step]) -> str:
    """The results as Markdown; `name` is the card's."""
    lines = [f"# On {name}", ""]
    for step in found:
        for one in objects(step.text) if step.name == "versions" else ():
            lines += [", ".join(f"{key} {value}" for key, value in one.items()) + ".", ""]
    lines += ["| step | status | seconds | passed | failed | skipped | last line |", "|---|--:|--:|--:|--:|--:|---|"]
    wrong = []
    for step in found:
        tests = outcomes(step.text)
        bad = tests.get("FAILED", []) + tests.get("ERROR", [])
        wrong += [f"- {step.name}: `{test}`" for test in bad]
        counts = (len(tests.get("PASSED", ())), len(bad), len(tests.get("SKIPPED", ())))
        cells = [str(count) if tests else "" for count in counts]
        last = (step.text.strip().splitlines() or [""])[-1].strip("= ")
        last = "" if last.startswith("{") else last.replace("|", "/")
        lines.append(f"| {step.name} | {step.status} | {step.seconds:.1f} | {' | '.join(cells)} | {last} |")
    if wrong:
        lines += ["", "Failed:", "", *wrong]
    lines += ["", "| weights | case | runtime | prompt | first token | per token |", "|---|---|---|--:|--:|--:|"]
    for step in found:
        for one in objects(step.text) if step.name.startswith("speed") else ():
            lines += [row(one["weights"], one["case"], runtime, each) for runtime, each in one["runtimes"].items()]
    return "\n".join([*lines, ""])


def row(weights: str, case: str, runtime: str, figures: Mapping[str, Any]) -> str:
    """One line of the table: a runtime's figures for one case."""
    prompt, first = figures["prompt_tps"], figures["first_token"]
    cells = ["" if prompt is None else f"{prompt:.0f} tok/s", "" if first is None else f"{first * 1000:.1f} ms"]
    return f"| {weights} | {case} | {runtime} | {cells[0]} | {cells[1]} | {figures['per_token'] * 1000:.2f} ms |"


class Report:
    """The steps that have ended, and the table of them on disk."""

    def __init__(self, name: str, out: Path) -> None:
        self._name, self._out = name, out
        self._lock = threading.Lock()
        self.steps: list[Step] = []

    def add(self, step: Step) -> None:
        """After each: what there is so far, should the machine go away."""
        with self._lock:
            self.steps.append(step)
            print(f"{step.name}: status {step.status} after {step.seconds:.1f} s", flush=True)
            (self._out / "table.md").write_text(table(self._name, self.steps))


def work_through(
    lane: str, steps: Sequence[tuple[str, Sequence[str]]], out: Path, site: Path, ends: float, report: Report
) -> None:
    """A lane's steps, one after the other, until the clock says `ends`; one that fails does not stop the next."""
    env = {**environment(site), "MLX_PTX_CACHE_DIR": kernels(site, lane)}
    for name, command in steps:
        report.add(run(name, command, out / f"{lane}.log", env, ends - time.monotonic()))


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
