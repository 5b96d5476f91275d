"""Write which checkpoint fits into which Mac's memory into README.md, computed from the published configurations.

    python -m tools.sizes README.md

Nothing is measured: a matrix of b bits in groups of 64 takes b + 0.5 bits for each weight, the vision tower 16; a
conversation, and reading it, take what `MemoryGuard` says. Of its memory macOS lets the GPU have two thirds, from 64 GB
on three quarters.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from mlx_qwen35.bench.published import PUBLISHED, Published, published_config
from mlx_qwen35.checkpoints.config import ModelConfig, VisionConfig
from mlx_qwen35.runtime.memory import MemoryGuard

BEGIN, END = "<!-- begin sizes: python -m tools.sizes README.md -->", "<!-- end sizes -->"
TOKENS, STEP = 32768, 256


@dataclass(frozen=True)
class Choice:
    """A checkpoint for a machine.

    Args:
        memory: The machine's, in GiB.
        size: Of `PUBLISHED`.
    """

    memory: int
    hub_id: str
    size: str
    bits: int

    @property
    def weights(self) -> int:
        """Bytes of its weights."""
        size = published(self.size)
        vision = ModelConfig.from_dict(published_config(size)).vision
        assert vision is not None
        return int(size.text_parameters * (self.bits + 0.5) / 8) + 2 * vision_parameters(vision)

    @property
    def needed(self) -> int:
        """Bytes for the weights and a conversation of 32768 tokens while it is read, 256 at once."""
        config = ModelConfig.from_dict(published_config(published(self.size)))
        return MemoryGuard(config, self.weights, 2, 2**63).needs(TOKENS, STEP)

    @property
    def usable(self) -> int:
        """Bytes that the GPU of the machine may have."""
        return self.memory * 2**30 * (9 if self.memory >= 64 else 8) // 12


CHOICES = (
    Choice(8, "mlx-community/Qwen3.5-4B-MLX-4bit", "4B", 4),
    Choice(16, "mlx-community/Qwen3.5-9B-MLX-4bit", "9B", 4),
    Choice(24, "mlx-community/Qwen3.5-9B-MLX-8bit", "9B", 8),
    Choice(32, "mlx-community/Qwen3.8-27B-4bit", "27B", 4),
    Choice(32, "mlx-community/Qwen3.6-35B-A3B-4bit", "35B-A3B", 4),
    Choice(64, "mlx-community/Qwen3.8-27B-8bit", "27B", 8),
    Choice(64, "mlx-community/Qwen3.6-35B-A3B-8bit", "35B-A3B", 8),
    Choice(96, "mlx-community/Qwen3.5-122B-A10B-4bit", "122B-A10B", 4),
    Choice(512, "mlx-community/Qwen3.5-397B-A17B-4bit", "397B-A17B", 4),
)


def published(name: str) -> Published:
    """A published size by its name."""
    return next(size for size in PUBLISHED if size.name == name)


def vision_parameters(config: VisionConfig) -> int:
    """Numbers in a vision tower: patches, positions, blocks with two LayerNorms, and the merger."""
    h, ffn = config.hidden_size, config.intermediate_size
    patches = config.in_channels * config.temporal_patch_size * config.patch_size**2 * h + h
    block = (3 * h * h + 3 * h) + (h * h + h) + (h * ffn + ffn) + (ffn * h + h) + 2 * 2 * h
    merged = h * config.spatial_merge_size**2
    merger = 2 * h + (merged * merged + merged) + (merged * config.out_hidden_size + config.out_hidden_size)
    return patches + config.num_position_embeddings * h + config.depth * block + merger


def table() -> str:
    """The rows, between the marks."""
    rows = [
        f"| {choice.memory} GB | `{choice.hub_id}` | {choice.weights / 1e9:.1f} GB | {choice.needed / 1e9:.1f} GB "
        f"| {choice.usable / 1e9:.1f} GB |"
        for choice in CHOICES
    ]
    head = [
        "| memory | hub id | download | with 32768 tokens | the GPU may have |",
        "|--:|---|--:|--:|--:|",
    ]
    return "\n".join([BEGIN, "", *head, *rows, "", END])


def main(path: str) -> None:
    """Replace what stands between the marks in a file."""
    text = Path(path).read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    Path(path).write_text(before + table() + after)


if __name__ == "__main__":
    main(*sys.argv[1:])
