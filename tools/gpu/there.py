"""On the machine with the GPU: unpacks what `tools.gpu.pack` made, runs tests and measurements, and writes a table.

    python3 tools/gpu/there.py --parts build/gpu --out results

In a copy of the checkout, with a Python 3.12 that has PyTorch for CUDA 13; nothing but that Python is needed to
start. `results/table.md` has the card's name, what became of the tests, and the speeds beside mlx-lm and mlx-vlm;
`results/*.log` have what each command printed. Ends with status 1 if one failed.
"""

import argparse
import contextlib
import hashlib
import importlib.util
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NAME = "gpu.tar.xz"
TESTS = (
    "tests/parity",
    "tests/patches",
    "tests/state",
    "tests/runtime",
    "tests/test_vision.py",
    "tests/test_model_kit.py",
)
COMMAND = (sys.executable, "-m", "mlx_qwen35.cli.main")
# The shapes of the smallest published size: a download would be needed for its weights.
SPEED = ("bench", "speed", "--against", "mlx-lm", "--against", "mlx-vlm", "--lengths", "128,1024", "--images", "0,1")
SPEED = (*SPEED, "--batches", "1,4", "--tokens", "64", "--repeats", "3", "--json")
WRITE = "from mlx_qwen35.bench.synthetic import write_synthetic as write; write({!r}, '0.8b', dtype='bfloat16')"
VERSIONS = """
import importlib.metadata as found, json, mlx.core as mx
names = ("mlx", "mlx-lm", "mlx-vlm", "transformers", "torch")
print(json.dumps({"device": str(mx.default_device()), **{name: found.version(name) for name in names}}))
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


def environment(site: Path) -> dict[str, str]:
    """Variables for programs that use the folder, with NVIDIA's libraries where MLX looks for them."""
    found = importlib.util.find_spec("nvidia")
    libraries = [Path(place) for place in (found.submodule_search_locations or ())] if found else []
    folders = [str(path) for place in libraries for path in sorted(place.glob("*/lib"))]
    if libraries and not (site / "nvidia").exists():
        # Its libraries name these by their place beside its own folder.
        (site / "nvidia").symlink_to(libraries[0])
    before = os.environ.get("LD_LIBRARY_PATH", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]),
        "LD_LIBRARY_PATH": os.pathsep.join([*folders, *filter(None, [before])]),
        # Tests hold float32 against float32, not against what tensor cores make of it.
        "MLX_ENABLE_TF32": "0",
    }


def card() -> str:
    """The GPU's name and its driver.

    Raises:
        SystemExit: There is none.
    """
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    raise SystemExit("expected an NVIDIA GPU, found no nvidia-smi that names one")


def steps(work: Path, tests: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """What is run, by name; names that begin with "speed" print JSON."""
    plain, small = work / "bfloat16", work / "4-bit"
    yield "versions", (sys.executable, "-c", VERSIONS)
    yield "tests", (sys.executable, "-m", "pytest", "-q", *tests)
    yield "write", (sys.executable, "-c", f"from pathlib import Path; {WRITE.replace('{!r}', f'Path({str(plain)!r})')}")
    yield "speed bfloat16", (*COMMAND, *SPEED, "--model", str(plain))
    yield "convert", (*COMMAND, "convert", "--model", str(plain), "--out", str(small), "--bits", "4")
    yield "speed 4-bit", (*COMMAND, *SPEED, "--model", str(small))


def run(name: str, command: Sequence[str], out: Path, env: Mapping[str, str], seconds: float) -> tuple[int, str]:
    """A command's status and what it printed on its standard output; all that it printed goes to a log.

    Returns:
        Status 124 if it was stopped after so many seconds.
    """
    log = out / f"{name.replace(' ', '-')}.log"
    with log.open("w") as errors:
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                timeout=seconds,
                check=False,
            )
            status, text = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            status, text = 124, error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
    with log.open("a") as file:
        file.write(text)
    return status, text


def table(name: str, found: Mapping[str, tuple[int, str]]) -> str:
    """The results as Markdown.

    Args:
        name: The card's.
        found: By step, its status and what it printed.
    """
    lines = [f"# On {name}", ""]
    status, text = found.get("versions", (1, ""))
    if not status:
        lines += [", ".join(f"{key} {value}" for key, value in json.loads(text).items()) + ".", ""]
    lines += ["| step | status | last line |", "|---|--:|---|"]
    for step, (status, text) in found.items():
        last = "" if step.startswith(("speed", "versions")) else (text.strip().splitlines() or [""])[-1]
        lines.append(f"| {step} | {status} | {last.strip('= ')} |")
    lines += ["", "| weights | case | runtime | prompt | first token | per token |", "|---|---|---|--:|--:|--:|"]
    for step, (status, text) in found.items():
        if status or not step.startswith("speed"):
            continue
        for case, runtimes in json.loads(text)["cases"].items():
            lines += [row(step.removeprefix("speed "), case, runtime, one) for runtime, one in runtimes.items()]
    return "\n".join([*lines, ""])


def row(weights: str, case: str, runtime: str, figures: Mapping[str, Any]) -> str:
    """One line of the table: a runtime's figures for one case."""
    prompt, first = figures["prompt_tps"], figures["first_token"]
    cells = ["" if prompt is None else f"{prompt:.0f} tok/s", "" if first is None else f"{first * 1000:.1f} ms"]
    return f"| {weights} | {case} | {runtime} | {cells[0]} | {cells[1]} | {figures['per_token'] * 1000:.2f} ms |"


def main() -> int:
    """Unpack, run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=Path, required=True, help="folder of what was packed")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--site", type=Path, default=Path("/tmp/gpu-site"), help="where the packages are installed")
    parser.add_argument("--tests", nargs="*", default=TESTS, help="files and folders of tests")
    parser.add_argument("--seconds", type=float, default=1500.0, help="that one step may take")
    options = parser.parse_args()
    name = card()
    names = unpack(options.parts, options.site)
    print(f"{len(names)} packages in {options.site}, on {name}", flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    env, work = environment(options.site), options.site / "checkpoints"
    found: dict[str, tuple[int, str]] = {}
    for step, command in steps(work, options.tests):
        found[step] = run(step, command, options.out, env, options.seconds)
        print(f"{step}: status {found[step][0]}", flush=True)
        # After each: what there is so far, should the machine go away.
        (options.out / "table.md").write_text(table(name, found))
    return int(any(status for status, _ in found.values()))


if __name__ == "__main__":
    sys.exit(main())
