"""Packs what a machine without a network needs to run this package on its GPU; see the package's docstring.

    python -m tools.gpu.pack --out build/gpu

Everything is of the versions that are installed here, as wheels for Python 3.12 on Linux (x86-64), with MLX's CUDA
build in place of the one for the CPU. Left out is what is there already, where PyTorch for CUDA 13 is: torch and
NVIDIA's libraries. Wheels are compressed a second time, all together, with xz: of MLX's library that saves half.
"""

import argparse
import hashlib
import io
import json
import lzma
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OWN = "mlx-qwen35"
# This package, and what runs the tests that count there: not those of the server, nor linters.
ROOTS = (OWN, "pytest", "pytest-randomly", "hypothesis")
PYTHON = "3.12"
THERE = {
    "python_version": PYTHON,
    "python_full_version": f"{PYTHON}.0",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "os_name": "posix",
}
GLIBC = (39, 35, 34, 31, 28, 27, 24, 17)
PLATFORMS = (*(f"manylinux_2_{minor}_x86_64" for minor in GLIBC), "manylinux2014_x86_64", "manylinux1_x86_64")
# What PyTorch for CUDA 13 brings along, and what is of no use beside the CUDA build.
LEFT_OUT = ("torch", "triton", "nvidia-", "cuda-", "mlx-cpu", "mlx-metal")
CUDA = "mlx-cuda-13"
# Bytes of a part, in MB as networks count them.
PART = 45_000_000
NAME = "gpu.tar.xz"


def needed(roots: Iterable[str]) -> dict[str, str]:
    """The packages that others need on a GPU machine, themselves included, with the versions that are installed here.

    Args:
        roots: As in a requirement, with or without extras.
    Raises:
        SystemExit: One is not installed here.
    """
    found: dict[str, str] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    pending = [(Requirement(root), "") for root in roots]
    while pending:
        wanted, extra = pending.pop()
        name = canonicalize_name(wanted.name)
        asked = wanted.marker is None or wanted.marker.evaluate({**THERE, "extra": extra})
        if not asked or name.startswith(LEFT_OUT):
            continue
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        found[name] = package.version
        for one in {"", *wanted.extras} - {one for other, one in seen if other == name}:
            seen.add((name, one))
            pending += [(Requirement(text), one) for text in package.requires or ()]
    if missing:
        raise SystemExit(f"expected to be installed here: {', '.join(sorted(missing))}")
    return found


def collect(folder: Path) -> None:
    """Download the wheels, and build this package's own.

    Raises:
        CalledProcessError: pip's message is above.
    """
    versions = needed(ROOTS)
    del versions[OWN]
    versions[CUDA] = versions["mlx"]
    pip = [sys.executable, "-m", "pip"]
    target = [f"--python-version={PYTHON}", "--implementation=cp", *(f"--platform={one}" for one in PLATFORMS)]
    wanted = [f"{name}=={version}" for name, version in sorted(versions.items())]
    download = [*pip, "download", "--no-deps", "--only-binary=:all:", *target, "-d", str(folder)]
    subprocess.run([*download, *wanted], check=True)
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), str(ROOT)], check=True)


class Parts(io.RawIOBase):
    """A file that is written as several, none of them larger than `size`; their checksums are kept."""

    def __init__(self, folder: Path, name: str, size: int) -> None:
        self._folder, self._name, self._size = folder, name, size
        self._open: io.BufferedWriter | None = None
        self._sum, self._written = hashlib.sha256(), 0
        self.sums: dict[str, str] = {}

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """All of the data, in as many parts as it takes."""
        rest = memoryview(data)
        while rest:
            if self._open is None:
                path = self._folder / f"{self._name}.{len(self.sums):03d}"
                self._open, self._sum, self._written = path.open("wb"), hashlib.sha256(), 0
            piece = rest[: self._size - self._written]
            self._open.write(piece)
            self._sum.update(piece)
            self._written += len(piece)
            rest = rest[len(piece) :]
            if self._written == self._size:
                self._end()
        return len(data)

    def _end(self) -> None:
        if self._open is not None:
            self._open.close()
            self.sums[Path(self._open.name).name] = self._sum.hexdigest()
            self._open = None

    def close(self) -> None:
        """End the last part."""
        self._end()
        super().close()


def stored(wheel: Path) -> bytes:
    """The same wheel with nothing compressed in it, so that xz finds more."""
    file = io.BytesIO()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as copy:
        for info in source.infolist():
            kept = zipfile.ZipInfo(info.filename, info.date_time)
            kept.external_attr = info.external_attr
            copy.writestr(kept, source.read(info))
    return file.getvalue()


def pack(wheels: Sequence[Path], out: Path, part: int = PART, preset: int = 9) -> dict[str, str]:
    """Write the wheels into `gpu.tar.xz.000` and so on, with `manifest.json` beside them.

    Args:
        part: Bytes of a part, at most.
        preset: Of xz.
    Returns:
        The parts' checksums.
    """
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob(f"{NAME}.*"):
        old.unlink()
    with (
        Parts(out, NAME, part) as parts,
        lzma.open(parts, "wb", preset=preset) as packed,
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        for wheel in sorted(wheels):
            data = stored(wheel)
            info = tarfile.TarInfo(wheel.name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    manifest = {"parts": parts.sums, "wheels": sorted(wheel.name for wheel in wheels)}
    (out / "manifest.json").write_text(f"{json.dumps(manifest, indent=1)}\n")
    return parts.sums


def main() -> None:
    """Collect and pack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the parts")
    parser.add_argument("--wheels", type=Path, help="pack what lies there, and download nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.wheels is None:
            collect(Path(folder))
        wheels = sorted((options.wheels or Path(folder)).glob("*.whl"))
        if not wheels:
            parser.error(f"--wheels: expected wheels, found none in {options.wheels}")
        sums = pack(wheels, options.out)
    total = sum((options.out / name).stat().st_size for name in sums)
    print(f"{len(wheels)} wheels in {len(sums)} parts, {total / 1e6:.0f} MB: {options.out}")


if __name__ == "__main__":
    main()
