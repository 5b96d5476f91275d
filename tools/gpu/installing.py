"""The packages of what `tools.gpu.pack` made, from its parts into a folder; with nothing but Python."""

import hashlib
import io
import json
import lzma
import shutil
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any


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
