"""Tokenizers that transformers would leave as they are, read without it: importing it takes longer than reading them.

For a Qwen3.5, transformers makes the tokenizer anew (5.24, models/qwen3_5/tokenization_qwen3_5.py, `Qwen3_5Tokenizer`):
it takes vocabulary and merges from tokenizer.json, added tokens from tokenizer_config.json where that has them, and
everything else from its class. The published files say the same as the class. Whatever says anything else is left to
transformers.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_qwen35.checkpoints.reading import is_file, read_json

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NORMALIZER = {"type": "NFC"}
_SPLIT = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
# How its vocabulary is used, where a file says it.
_MODEL = {
    "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "", "fuse_unk": False,
    "byte_fallback": False, "ignore_merges": False,
}  # fmt: skip
_DEFAULTS = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
# What makes transformers read other files, or other code.
_ELSEWHERE = ("auto_map", "fast_tokenizer_files", "fix_mistral_regex", "split_special_tokens", "init_inputs")


@dataclass(frozen=True)
class LoadedTokenizer:
    """What is needed of a checkpoint's tokenizer.

    Args:
        backend: A `tokenizers.Tokenizer`.
        special_tokens: The tokens that have a name, `eos_token` and the like.
        chat_template: As its files have it: a text, several by their names, or None.
    """

    backend: Any
    special_tokens: Mapping[str, str]
    chat_template: Any

    def __post_init__(self) -> None:
        # Files keep what a training cut its texts to; transformers heeds that no more than is done here.
        self.backend.no_truncation()
        self.backend.no_padding()

    @property
    def eos_token_id(self) -> int | None:
        """The token that ends a text, if there is one."""
        name = self.special_tokens.get("eos_token")
        found: int | None = None if name is None else self.backend.token_to_id(name)
        return found


def read_plain(directory: Path) -> LoadedTokenizer | None:
    """The tokenizer of a Qwen3.5 checkpoint; None where transformers would make another one of its files, or refuse.

    Raises:
        CheckpointError: tokenizer_config.json is not JSON.
    """
    # Slow to import.
    from tokenizers import Tokenizer as Backend

    path = directory / "tokenizer.json"
    config = read_json(directory / "tokenizer_config.json") if is_file(directory / "tokenizer_config.json") else None
    others = any(is_file(directory / name) for name in ("added_tokens.json", "special_tokens_map.json"))
    if config is None or not is_file(path) or (others and "added_tokens_decoder" not in config):
        return None
    if any(config.get(name) for name in _ELSEWHERE) or config.get("add_prefix_space"):
        return None
    try:
        backend = Backend.from_file(str(path))
        said = config.get("added_tokens_decoder")
        as_made = _is_qwen(backend) and (said is None or _said(said) == _added(backend))
    except Exception:  # tokenizers' own are plain exceptions; transformers' errors say more
        return None
    special, extra = _special(config)
    template = _chat_template(directory, config)
    if not as_made or template is _SEVERAL or not _all_added([*special.values(), *extra], backend):
        return None
    return LoadedTokenizer(backend, special, template)


def _is_qwen(backend: Any) -> bool:
    """Whether its parts are those of transformers' class."""
    model = backend.model
    if type(model).__name__ != "BPE":
        return False
    if any((getattr(model, name) or value) != value for name, value in _MODEL.items()):
        return False
    if backend.normalizer is None or backend.pre_tokenizer is None or backend.decoder is None:
        return False
    before = _state(backend.pre_tokenizer)
    parts = before.get("pretokenizers") or []
    return (
        _state(backend.normalizer) == _NORMALIZER
        and len(parts) == 2
        and parts[0] == _SPLIT
        and {name: parts[1].get(name) for name in _BYTES} == _BYTES
        and _state(backend.decoder)["type"] == "ByteLevel"
    )


def _state(part: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(part.__getstate__())
    return found


def _added(backend: Any) -> dict[int, dict[str, Any]]:
    """What is added to the vocabulary, by id."""
    return {number: _flags(token.__getstate__()) for number, token in backend.get_added_tokens_decoder().items()}


def _said(tokens: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    return {int(number): _flags(token) for number, token in tokens.items()}


def _flags(token: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
    return {"content": token["content"], **{name: token.get(name, default) for name, default in defaults.items()}}


def _special(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The tokens that have a name, and the special ones that have none."""
    named = {name: value for name, value in config.items() if name.endswith("_token") and not isinstance(value, bool)}
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    if isinstance(extra, Mapping):
        named, extra = {**named, **extra}, []
    return {name: value for name, value in (_DEFAULTS | named).items() if value is not None}, list(extra)


def _all_added(wanted: Iterable[Any], backend: Any) -> bool:
    """Whether every token that transformers would add, because it has a name or is special, is there as it would be."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    there = {token["content"] for token in _added(backend).values() if token == {"content": token["content"], **plain}}
    return all(isinstance(token, str) and token in there for token in wanted)


_SEVERAL = object()


def _chat_template(directory: Path, config: Mapping[str, Any]) -> Any:
    """The template, in a file of its own or in the settings; `_SEVERAL` where more than one file has one."""
    files = [path.name for path in directory.iterdir() if path.name.startswith(("chat_template", "additional_chat"))]
    files = [name for name in files if name != "chat_template.json"]  # the processor's
    if not files:
        return config.get("chat_template")
    if files != ["chat_template.jinja"] or not is_file(directory / files[0]):
        return _SEVERAL
    return (directory / files[0]).read_text("utf-8")
