"""Paths as people type them."""

import os
from os import PathLike
from pathlib import Path

from mlx_qwen35.errors import Qwen35Error


def expand(path: str | Path, error: type[Qwen35Error], place: str) -> Path:
    """A path with `~` resolved.

    Raises:
        error: It is no path or an empty one, names an unknown user's home, or holds what no file's name can.
    """
    if not isinstance(path, str | PathLike):
        raise error(f"{place}: expected a path, found {type(path).__name__}")
    if path == "":  # a variable that is not set; it would be the current directory
        raise error(f"{place}: expected a path, found an empty one")
    try:
        expanded = Path(path).expanduser()
    except RuntimeError as cause:
        raise error(f"{place}: {shorten(path)}: {cause}") from cause
    if "\0" in str(expanded):
        raise error(f"{place}: expected a path, found a zero byte in {shorten(path)!r}")
    try:
        os.fsencode(expanded)
    except UnicodeEncodeError as cause:
        raise error(f"{place}: expected a file's name, found {shorten(path)!r}") from cause
    return expanded


def is_file(path: Path) -> bool:
    """Whether there is a file: none where the system does not say, as in a directory that is not this user's.

    What opens it tells the reason; `Path.is_file` would raise it, where nobody expects it.
    """
    try:
        return path.is_file()
    except OSError:
        return False


def is_there(path: Path) -> bool:
    """Whether there is a file, a directory or a device; see `is_file`."""
    try:
        return path.exists()
    except OSError:
        return False


def shorten(value: object, length: int = 80) -> str:
    """A value for an error message; callers pass whole files where a path is expected.

    Its beginning and its end: the name of a file stands there.
    """
    text, half = str(value), length // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]} ({len(text)} characters)"
