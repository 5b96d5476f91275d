"""The files of a checkpoint's tokenizer and chat template, as transformers reads them and where it does not."""

import codecs
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mlx_qwen35.checkpoints.config import MODEL_TYPES
from mlx_qwen35.checkpoints.reading import is_file, read_json
from mlx_qwen35.errors import CheckpointError, OptionError
from mlx_qwen35.paths import expand, shorten
from mlx_qwen35.prompts.plain_tokenizer import LoadedTokenizer, read_plain

_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Where the template lies in checkpoints that were saved with their processor.
_TEMPLATE_FILES = ("chat_template.json", "processor_config.json")


def load_tokenizer(directory: Path) -> LoadedTokenizer:
    """The fast tokenizer of a checkpoint, as transformers loads it.

    Raises:
        CheckpointError: There is no fast tokenizer, or one that the installed libraries do not read.
    """
    model_type = read_json(directory / "config.json").get("model_type") if is_file(directory / "config.json") else None
    try:
        with _without_marks(directory) as readable:
            if model_type not in MODEL_TYPES:
                return _with_transformers(readable, None)
            return read_plain(readable) or _with_transformers(readable, model_type)
    except CheckpointError:
        raise
    except BaseException as error:  # several libraries read several files here, and raise what they like
        if not _is_fault(error):
            raise
        reason = _newer_format(directory) or f"the tokenizer cannot be loaded: {shorten(error, 300)}"
        raise CheckpointError(f"{directory}: {reason}") from error


def _with_transformers(directory: Path, model_type: str | None) -> LoadedTokenizer:
    """Of any files; `model_type` decides on transformers' class, or the files where it is None."""
    # Slow to import.
    from transformers import AutoConfig, AutoTokenizer

    options: dict[str, Any] = {}
    if model_type is not None:
        # By this alone; the rest of the file transformers may refuse.
        options["config"] = AutoConfig.for_model(model_type)
    found = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False, **options)
    if not getattr(found, "is_fast", False):
        raise CheckpointError(f"{directory}: expected tokenizer.json, found only a slow tokenizer")
    special = {name: str(token) for name, token in found.special_tokens_map.items()}
    return LoadedTokenizer(found.backend_tokenizer, special, found.chat_template)


def incomplete(directory: Path, known: int) -> CheckpointError:
    """The error of a tokenizer without a token for each byte; transformers makes an empty one of missing files.

    Args:
        known: Bytes that it has a token for.
    """
    if is_file(directory / "tokenizer.json"):
        found = f"tokenizer.json: expected a token for each of 256 bytes, found {known}; text would be lost"
        return CheckpointError(f"{directory}: {found}")
    others = [name for name in ("vocab.json", "merges.txt", "tokenizer.model") if is_file(directory / name)]
    hint = f" (only {', '.join(others)})" if others else ""
    return CheckpointError(
        f"{directory}: expected tokenizer.json, found none{hint}; copy it from the original checkpoint"
    )


def find_chat_template(directory: Path, tokenizer: LoadedTokenizer) -> str | None:
    """The Jinja template of a checkpoint: the tokenizer's own, else one in the processor's files.

    Raises:
        ConfigError: One of those is not JSON.
    """
    templates = [tokenizer.chat_template]
    templates += [
        read_json(directory / name).get("chat_template") for name in _TEMPLATE_FILES if is_file(directory / name)
    ]
    for template in templates:
        if isinstance(template, list):
            template = {entry["name"]: entry["template"] for entry in template if isinstance(entry, dict)}
        if isinstance(template, dict):
            template = template.get("default")
        if isinstance(template, str):
            return template.removeprefix("\ufeff")
    return None


def read_chat_template(given: str | Path) -> str:
    """A chat template in place of a checkpoint's own: its text, or the file that it stands in.

    A JSON file, like tokenizer_config.json, has it under `chat_template`.

    Raises:
        OptionError: There is no such file, or no template in it.
    """
    if isinstance(given, str) and ("{{" in given or "{%" in given):
        return given
    path = expand(given, OptionError, "chat_template")
    try:
        text: Any = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise OptionError(f"chat_template {shorten(path)}: expected a file of text, found {error}") from error
    if path.suffix == ".json":
        text = read_json(path).get("chat_template")
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"chat_template {shorten(path)}: expected a Jinja template, found none")
    return text


@contextmanager
def _without_marks(directory: Path) -> Iterator[Path]:
    """The directory, or copies of its text files where one begins with a byte order mark."""
    files = [
        path for path in sorted(directory.iterdir()) if path.suffix in (".json", ".jinja", ".txt") and is_file(path)
    ]
    marked = [path for path in files if _beginning(path).startswith(_MARKS)]
    if not marked:
        yield directory
        return
    with TemporaryDirectory() as name:
        for path in files:
            copy = Path(name) / path.name
            if path in marked:
                data = path.read_bytes()
                copy.write_text(data.decode(json.detect_encoding(data)).removeprefix("\ufeff"), encoding="utf-8")
            else:
                copy.symlink_to(path.absolute())
        yield Path(name)


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(3)


def _is_fault(error: BaseException) -> bool:
    """Whether a library failed; where the tokenizers library, in Rust, panics, that is no `Exception`."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _newer_format(directory: Path) -> str | None:
    """What to say of a tokenizer.json that is JSON, and that the tokenizers library does not understand."""
    from tokenizers import Tokenizer

    if not is_file(directory / "tokenizer.json"):
        return None
    try:
        content = json.dumps(read_json(directory / "tokenizer.json"))
    except CheckpointError as error:
        return str(error)
    try:
        Tokenizer.from_str(content)
    except BaseException as error:  # the library's own errors are plain exceptions, or panics
        if not _is_fault(error):
            raise
        return (
            f"tokenizer.json: expected a format that tokenizers {version('tokenizers')} reads, found another "
            f"({shorten(error, 200)}); a newer version of tokenizers and transformers may read it"
        )
    return None
