"""What a checkpoint is, what it needs, and whether it works here."""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError

from mlx_qwen35.checkpoints.explaining import explain
from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.formats import is_quantised, loaded_bytes
from mlx_qwen35.checkpoints.headers import TensorHeader, activation_size, has_tower, read_headers
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.layouts import recognise_layout
from mlx_qwen35.checkpoints.mtp_heads import head_files
from mlx_qwen35.checkpoints.reading import is_file, read_json
from mlx_qwen35.checkpoints.weight_files import INDEX, parts_in
from mlx_qwen35.errors import CheckpointError, CheckpointWarning
from mlx_qwen35.prompts.images import ImagePreprocessor
from mlx_qwen35.prompts.tokenizer import Tokenizer
from mlx_qwen35.runtime.estimates import attention_bytes_per_token, gdn_state_bytes
from mlx_qwen35.runtime.memory import all_tensors
from mlx_qwen35.runtime.thread import MlxThread

_LIBRARIES = ("mlx-qwen35", "mlx", "mlx-lm", "mlx-vlm", "transformers")


@dataclass(frozen=True)
class CheckResult:
    """One self-check: what it tests, whether it held, and what was measured."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Report:
    """What `examine` found; sizes in bytes.

    Args:
        dtypes: Number of tensors of each stored type.
        vision, mtp: Whether their tensors are there.
        cache_bytes_per_token, state_bytes: What one sequence takes: per token, and once.
        notes: Whatever else there is to say, in sentences.
    """

    directory: Path
    model_type: str
    layout: str
    dtypes: dict[str, int]
    quantization: dict[str, Any] | None
    vision: bool
    mtp: bool
    parameters_bytes: int
    cache_bytes_per_token: int
    state_bytes: int
    context_length: int
    versions: dict[str, str]
    notes: tuple[str, ...] = ()

    def memory(self, tokens: int) -> int:
        """Bytes for the weights and one sequence of this many tokens, without transients."""
        return self.parameters_bytes + self.state_bytes + tokens * self.cache_bytes_per_token


def examine(path_or_hub_id: str | Path, *, revision: str | None = None) -> Report:
    """Read configuration, tensor headers and tokenizer; no weights are loaded.

    Raises:
        CheckpointError: It is not there, or no checkpoint; says what it is.
    """
    directory = find_checkpoint(path_or_hub_id, revision=revision)
    try:
        return _report(directory)
    except CheckpointError as error:
        words = explain(directory)
        text = str(error) if str(directory) in str(error) else f"{directory}: {error}"
        raise type(error)(text if words in text else f"{text}. {words}") from error


def _report(directory: Path) -> Report:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CheckpointWarning)
        checkpoint = Checkpoint.open(directory)
        tokenizer = Tokenizer(directory, checkpoint.eos_token_ids, checkpoint.config.text.vocab_size)
    files = checkpoint.weight_files()
    headers = list(read_headers(files))
    config = checkpoint.config
    size = activation_size(headers)
    settings = config.raw.get("quantization", config.raw.get("quantization_config"))
    return Report(
        directory=checkpoint.directory,
        model_type=config.model_type,
        layout=recognise_layout({header.name: header.shape for header in headers}),
        dtypes=dict(Counter(header.dtype for header in headers)),
        quantization=settings if is_quantised(headers) else None,
        vision=has_tower(config, headers),
        mtp=bool(head_files(checkpoint)),
        parameters_bytes=_in_memory(checkpoint, headers),
        cache_bytes_per_token=attention_bytes_per_token(config.text, size),
        state_bytes=gdn_state_bytes(config.text, size),
        context_length=config.text.context_length,
        versions={name: version(name) for name in _LIBRARIES},
        notes=(*_about_files(checkpoint, files), *_about_text(tokenizer), *(str(item.message) for item in caught)),
    )


def _in_memory(checkpoint: Checkpoint, headers: list[TensorHeader]) -> int:
    """Bytes of the weights once they are loaded; those of other programs' formats become others."""
    thread = MlxThread()
    try:
        files = checkpoint.weight_files()
        return thread.call(loaded_bytes, headers, checkpoint.config.raw, lambda: all_tensors(files))
    finally:
        thread.close()


def _about_files(checkpoint: Checkpoint, files: list[Path]) -> Iterator[str]:
    """What lies there otherwise than transformers would write it."""
    directory, config = checkpoint.directory, checkpoint.config
    named = is_file(directory / INDEX) and read_json(directory / INDEX).get("weight_map")
    if named and not {path.name for path in files} & set(map(str, named.values())):
        yield f"{INDEX} names other files than those that are there, and does not count."
    towers = [path.name for path in files if parts_in(path) == {"vision_tower"}]
    if towers:
        yield f"The vision tower lies in {', '.join(towers)}."
    holds_vision = any("vision_tower" in parts_in(path) for path in files)
    if config.vision is None:
        yield "It answers text alone: its config.json describes no vision tower, or null for the ids of its tokens."
    elif not holds_vision:
        yield "It answers text alone: config.json describes a vision tower, and none of its files holds one."
    else:
        try:
            ImagePreprocessor(directory, config.vision)
        except CheckpointError as error:
            yield f"It answers text alone: {error}."


def _about_text(tokenizer: Tokenizer) -> Iterator[str]:
    """What its chat template does."""
    if tokenizer.chat_template is None:
        yield "It has no chat template, and completes finished prompts alone."
        return
    try:
        variables = tokenizer.template.variables
    except TemplateError as error:
        yield f"Its chat template is none ({error})."
        return
    words = {
        "enable_thinking": "can be told whether to think",
        "reasoning_effort": "knows efforts",
        "preserve_thinking": "can keep the reasoning of earlier answers",
        "tools": "describes tools",
    }
    able = [text for name, text in words.items() if name in variables]
    yield f"Its chat template {', '.join(able) if able else 'knows neither tools nor reasoning'}."


def self_check(path_or_hub_id: str | Path, *, revision: str | None = None) -> list[CheckResult]:
    """Load the checkpoint and run it: finite logits, and two images that it can tell apart.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    from PIL import Image

    from mlx_qwen35 import ModelKit

    results = []
    with ModelKit.load(path_or_hub_id, revision=revision) as kit:
        ids = kit.tokenize("The quick brown fox jumps over the lazy dog.")
        logits = np.array(kit.logits(kit.process_prompt(ids)))
        results.append(
            CheckResult(
                "text gives finite logits", bool(np.isfinite(logits).all()), f"largest {np.abs(logits).max():.4g}"
            )
        )
        if kit.vision.unavailable is not None or kit.config.media_tokens is None:
            results.append(CheckResult("images", True, f"refused: {kit.vision.unavailable}"))
            return results
        tokens = kit.config.media_tokens
        prompt = [tokens.vision_start_token_id, tokens.image_token_id, tokens.vision_end_token_id, *ids]
        last = [
            np.array(kit.logits(kit.process_prompt(prompt, images=[Image.new("RGB", (96, 96), colour)])))[-1]
            for colour in ("red", "blue")
        ]
        difference = float(np.abs(last[0] - last[1]).max())
        found = f"they differ by {difference:.4g}"
        results.append(CheckResult("a red and a blue image give different logits", difference > 1e-3, found))
    return results
