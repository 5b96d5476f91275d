"""A checkpoint's directory: given, or downloaded from the hub."""

from collections.abc import Callable
from pathlib import Path

from mlx_qwen35.checkpoints.reading import GGUF
from mlx_qwen35.errors import CheckpointError, OptionError
from mlx_qwen35.paths import expand, shorten

# Only data: no Python file of a checkpoint is ever fetched or run. In folders too: an MTP head may lie in one.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt"]


def find_checkpoint(path_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """A local directory as it is, or a hub repository through huggingface_hub's cache.

    Args:
        revision: Branch, tag or commit of a hub repository.
    Raises:
        CheckpointError: Neither exists, or the hub cannot be reached and nothing is cached.
        OptionError: A revision of a local directory.
    """
    path = expand(path_or_hub_id, CheckpointError, "model")
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{shorten(path)}: cannot be read ({getattr(error, 'strerror', error)})") from error
    if path.is_dir():
        if revision is not None:
            raise OptionError(f"revision: expected only with a hub id, found {revision} with the directory {path}")
        return path
    name = str(path_or_hub_id)
    if path.exists():
        hint = f"; {GGUF}" if path.suffix == ".gguf" else ""
        raise CheckpointError(f"{path}: expected a directory with config.json, found a file{hint}")
    if isinstance(path_or_hub_id, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise CheckpointError(f"{name}: expected an existing directory or a hub id like 'owner/name'")
    from huggingface_hub import snapshot_download

    return _download(name, revision, lambda: snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))


def find_file(name: str, file: str, revision: str | None = None) -> Path:
    """One file of a hub repository; errors as in `find_checkpoint`."""
    from huggingface_hub import hf_hub_download

    return _download(name, revision, lambda: hf_hub_download(name, file, revision=revision), file)


def _download(name: str, revision: str | None, download: Callable[[], str], file: str = "such file") -> Path:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(download())
    except GatedRepoError as error:
        reason, cause = "the repository is gated: accept its terms on the hub and log in with `hf auth login`", error
    except RevisionNotFoundError as error:
        reason, cause = f"the repository has no revision {revision}", error  # type: ignore[assignment]
    except (RepositoryNotFoundError, HFValidationError) as error:
        reason, cause = "no such directory, and no such repository on the hub", error  # type: ignore[assignment]
    except LocalEntryNotFoundError as error:
        # It stands for whatever went wrong with the hub, an answer of the hub's too.
        cause = error.__cause__ or error  # type: ignore[assignment]
        trouble = "did not give it" if isinstance(cause, HfHubHTTPError) else "cannot be reached"
        reason = f"not in the local cache, and the hub {trouble}"
    except EntryNotFoundError as error:
        reason, cause = f"the repository has no {file}", error  # type: ignore[assignment]
    except Exception as error:  # whatever its HTTP client and the disk raise
        reason, cause = "the download failed", error  # type: ignore[assignment]
    detail = str(cause).strip().splitlines()
    hint = f"; {GGUF}" if isinstance(cause, EntryNotFoundError) and "gguf" in name.lower() else ""
    found = f"{type(cause).__name__}{': ' + detail[0] if detail else ''}"
    raise CheckpointError(f"{name}: {reason} ({found}){hint}") from cause
