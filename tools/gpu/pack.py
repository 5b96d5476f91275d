"""Packs what a machine without a network needs to run this package on its GPU; see the package's docstring.

    python -m tools.gpu.pack --out build/gpu --there tools/gpu/torch-image.txt --architecture 90

Everything is of the versions that are installed here, as wheels for Python 3.12 on Linux (x86-64), with MLX's CUDA
build in place of the one for the CPU. Left out is what is there already, where PyTorch for CUDA 13 is: torch,
NVIDIA's libraries, and what --there lists, if it is good enough; further what mlx-vlm imports only for sound, films
and training, and this package's own code, which the checkout has. Of MLX's library --architecture keeps one GPU's
machine code of seven. Wheels are compressed a second time, all together, with xz.
"""

import argparse
import hashlib
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OWN = "mlx-qwen35"
# This package, and what runs the tests that count there: not those of the server, nor linters.
ROOTS = (OWN, "pytest", "hypothesis")
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
# What mlx-vlm needs for sound, films and training, and imports no earlier.
OPTIONAL = ("opencv-python", "mlx-audio", "miniaudio", "datasets")
CUDA = "mlx-cuda-13"
LIBRARY = "mlx/lib/libmlx.so"
# Bytes of a part, in MB as networks count them.
PART = 45_000_000
NAME = "gpu.tar.xz"


def listed(text: str) -> dict[str, str | None]:
    """The packages of a list such as pip's freeze, with their versions where it has them."""
    found: dict[str, str | None] = {}
    for line in text.splitlines():
        name, _, version = line.partition("#")[0].strip().partition("==")
        if name:
            found[canonicalize_name(name.strip())] = version.strip() or None
    return found


def needed(roots: Iterable[str], there: Mapping[str, str | None] | None = None) -> dict[str, str]:
    """The packages that others need on a GPU machine, themselves included, with the versions that are installed here.

    Args:
        roots: As in a requirement, with or without extras.
        there: What the machine has, see `listed`. It is left out, with what it needs itself, unless its version is
            known and one of the others asks for another.
    Raises:
        SystemExit: One is not installed here.
    """
    found: dict[str, str] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    there = there or {}
    pending = [(Requirement(root), "") for root in roots]
    while pending:
        wanted, extra = pending.pop()
        name = canonicalize_name(wanted.name)
        asked = wanted.marker is None or wanted.marker.evaluate({**THERE, "extra": extra})
        if not asked or name.startswith(LEFT_OUT) or name in OPTIONAL:
            continue
        if name in there:
            version = there[name]
            if version is None or wanted.specifier.contains(version, prereleases=True):
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


def collect(folder: Path, there: Mapping[str, str | None]) -> None:
    """Download the wheels, and build this package's own.

    Raises:
        CalledProcessError: pip's message is above.
    """
    versions = needed(ROOTS, there)
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


def for_architecture(library: bytes, architecture: int) -> bytes:
    """A CUDA library with the machine code of one architecture only, as if it had been built for that alone.

    Its groups of machine code ("fat binaries") begin with a magic number, the header's size and the size of the rest;
    then come a header and the code for each architecture. What is cut off becomes zeros behind the group's end.

    Args:
        architecture: Such as 90, for compute capability 9.0.
    Raises:
        SystemExit: A group has nothing for it.
    """
    data, at = bytearray(library), 0
    while (at := data.find(struct.pack("<IHH", 0xBA55ED50, 1, 16), at)) >= 0:
        start = at + 16
        (size,) = struct.unpack_from("<Q", data, at + 8)
        kept, place, found = b"", start, set()
        while place < start + size:
            kind, _, head, length = struct.unpack_from("<HHIQ", data, place)
            (own,) = struct.unpack_from("<I", data, place + 28)
            found.add(own)
            # Kind 1 is PTX, which is compiled when it is loaded.
            if kind == 2 and own == architecture:
                kept += data[place : place + head + length]
            place += head + length
        if not kept:
            raise SystemExit(f"expected machine code for {architecture}, found it for {sorted(found)}")
        struct.pack_into("<Q", data, at + 8, len(kept))
        data[start : start + size] = kept + bytes(size - len(kept))
        at = start + size
    return bytes(data)


def stored(wheel: Path, architecture: int | None = None) -> bytes:
    """The same wheel with nothing compressed in it, so that xz finds more; of this package only what names it.

    Args:
        architecture: See `for_architecture`.
    """
    own = wheel.name.startswith(OWN.replace("-", "_"))
    file = io.BytesIO()
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as copy:
        for info in source.infolist():
            kept = zipfile.ZipInfo(info.filename, info.date_time)
            kept.external_attr = info.external_attr
            data = source.read(info)
            if own and ".dist-info/" not in info.filename:
                continue
            if architecture is not None and info.filename == LIBRARY:
                data = for_architecture(data, architecture)
            copy.writestr(kept, data)
    return file.getvalue()


def pack(
    wheels: Sequence[Path], out: Path, part: int = PART, preset: int = 9, architecture: int | None = None
) -> dict[str, str]:
    """Write the wheels into `gpu.tar.xz.000` and so on, with `manifest.json` beside them.

    Args:
        part: Bytes of a part, at most.
        preset: Of xz.
        architecture: See `for_architecture`; the default keeps all.
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
            data = stored(wheel, architecture)
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
    parser.add_argument("--there", type=Path, help="list of packages that the machine has, as pip freeze writes it")
    parser.add_argument("--architecture", type=int, help="of the GPU, such as 90; default: all of MLX's")
    parser.add_argument("--part", type=int, default=PART, help="bytes of a part, at most")
    options = parser.parse_args()
    there = listed(options.there.read_text()) if options.there else {}
    with tempfile.TemporaryDirectory() as folder:
        if options.wheels is None:
            collect(Path(folder), there)
        wheels = sorted((options.wheels or Path(folder)).glob("*.whl"))
        if not wheels:
            parser.error(f"--wheels: expected wheels, found none in {options.wheels}")
        sums = pack(wheels, options.out, options.part, architecture=options.architecture)
    total = sum((options.out / name).stat().st_size for name in sums)
    print(f"{len(wheels)} wheels in {len(sums)} parts, {total / 1e6:.0f} MB: {options.out}")


if __name__ == "__main__":
    main()
