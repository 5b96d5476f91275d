"""Files of a checkpoint, which anybody may have made: only regular files are opened, and no more is read than fits."""

import json
import stat
from pathlib import Path
from typing import Any

from mlx_qwen35.errors import CheckpointError, ConfigError
from mlx_qwen35.paths import shorten

# The largest of Qwen's, tokenizer.json, has 13 MB.
MAX_TEXT_BYTES = 128 * 2**20
MAX_LEVELS = 100
# How a pointer of Git LFS begins.
_LFS = b"version https://git-lfs.github.com/"
# What to say to whoever names a file, a directory or a repository of llama.cpp's.
GGUF = "llama.cpp's format (GGUF) is not read: take the checkpoint in safetensors, the original or a conversion to MLX"


def check_directory(directory: Path) -> None:
    """Refuse a checkpoint in which something else lies than files, or a text file of a size that none has.

    The libraries that read tokenizers open files by their names, and a pipe or a device never ends.

    Raises:
        CheckpointError: There is something of that kind.
    """
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise CheckpointError(f"{directory}: cannot be read ({error.strerror or error})") from error
    for entry in entries:
        try:
            status = entry.stat()
        except OSError:
            continue  # a link to nothing, like a file that is not there
        if stat.S_ISDIR(status.st_mode):
            continue
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{shorten(entry)}: expected a file, found a pipe or a device")
        if entry.suffix in (".json", ".jinja", ".txt", ".model") and status.st_size > MAX_TEXT_BYTES:
            raise CheckpointError(f"{shorten(entry)}: expected at most {MAX_TEXT_BYTES} bytes, found {status.st_size}")


def is_gguf(directory: Path) -> bool:
    """Whether it is llama.cpp's: by its files, or by its name, for the hub's cache has all but those."""
    return "gguf" in "/".join(directory.parts[-3:]).lower() or any(directory.glob("*.gguf"))


def other_content(path: Path, start: bytes) -> str:
    """What a file is instead of what it should be, by its first bytes: a clone may hold pointers to files alone."""
    if start.startswith(_LFS):
        return f"a pointer of Git LFS to it; fetch the files themselves (`git lfs pull` in {shorten(path.parent)})"
    return "something else"


def is_file(path: Path) -> bool:
    """Whether there is a regular file; False too for names that the system does not take."""
    try:
        return path.is_file()
    except OSError:
        return False


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        ConfigError: The file is missing, is none, is too large, is not JSON or is not an object; or its values are
            nested too deeply.
    """
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: expected a file, found something else")
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise ConfigError(f"{path}: expected at most {MAX_TEXT_BYTES} bytes, found more")
        # In any encoding of Unicode: a byte order mark is not JSON, but some editors write one.
        value = json.loads(data.decode(json.detect_encoding(data)))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from error
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:
        found = other_content(path, data) if data.startswith(_LFS) else error
        raise ConfigError(f"{path}: expected JSON, found {found}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected a JSON object, found {type(value).__name__}")
    _check_depth(value, path)
    return value


def _check_depth(value: Any, path: Path) -> None:
    pending = [(value, 1)]
    while pending:
        node, level = pending.pop()
        if level > MAX_LEVELS:
            raise _too_deep(path)
        children = node.values() if isinstance(node, dict) else node
        pending += [(child, level + 1) for child in children if isinstance(child, dict | list)]


def _too_deep(path: Path) -> ConfigError:
    return ConfigError(f"{path}: expected at most {MAX_LEVELS} levels of values inside each other, found more")
