"""What a checkpoint is, what it needs, and whether it works here."""

from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mlx_qwen35.checkpoints.files import Checkpoint
from mlx_qwen35.checkpoints.headers import activation_size, read_headers, weight_bytes
from mlx_qwen35.checkpoints.hub import find_checkpoint
from mlx_qwen35.checkpoints.layouts import canonical_name, recognise_layout
from mlx_qwen35.runtime.estimates import attention_bytes_per_token, gdn_state_bytes

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

    def memory(self, tokens: int) -> int:
        """Bytes for the weights and one sequence of this many tokens, without transients."""
        return self.parameters_bytes + self.state_bytes + tokens * self.cache_bytes_per_token


def examine(path_or_hub_id: str | Path, *, revision: str | None = None) -> Report:
    """Read configuration and tensor headers; no weights are loaded.

    Raises:
        CheckpointError: It is not there, or its files are damaged.
    """
    checkpoint = Checkpoint.open(find_checkpoint(path_or_hub_id, revision=revision))
    headers = list(read_headers(checkpoint.weight_files()))
    names = [canonical_name(header.name) for header in headers]
    config = checkpoint.config
    size = activation_size(headers)
    return Report(
        directory=checkpoint.directory,
        model_type=config.model_type,
        layout=recognise_layout({header.name: header.shape for header in headers}),
        dtypes=dict(Counter(header.dtype for header in headers)),
        quantization=config.raw.get("quantization", config.raw.get("quantization_config")),
        vision=config.vision is not None and any(name.startswith("vision_tower.") for name in names),
        mtp=any(name.startswith("mtp.") for name in names),
        parameters_bytes=weight_bytes(headers),
        cache_bytes_per_token=attention_bytes_per_token(config.text, size),
        state_bytes=gdn_state_bytes(config.text, size),
        context_length=config.text.context_length,
        versions={name: version(name) for name in _LIBRARIES},
    )


def self_check(path_or_hub_id: str | Path, *, revision: str | None = None) -> list[CheckResult]:
    """Load the checkpoint and run it: finite logits, and two images that it can tell apart.

    Raises:
        CheckpointError: It cannot be loaded.
    """
    from PIL import Image

    from mlx_qwen35.model_kit import ModelKit

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
