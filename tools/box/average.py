"""Average two checkpoints of which one went on from the other.

    python -m tools.box.average mlx_qwen35/box build/box --share 0.5 --out build/averaged

Weights between those of a run and those of a run that continued it answer what either was right about: what was learnt
later, and what was forgotten meanwhile.

Source:
    Wortsman et al. 2022, Robust fine-tuning of zero-shot models (WiSE-FT), arXiv:2109.01903.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def average(before: Path, after: Path, share: float, out: Path) -> None:
    """Write a checkpoint like `after` with weights between.

    Args:
        share: Of `after`, from 0 to 1.
    Raises:
        ValueError: They are of different sizes or tokenizers, or the share is none.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share: expected a number from 0 to 1, found {share}")
    if (before / "tokenizer.json").read_bytes() != (after / "tokenizer.json").read_bytes():
        raise ValueError(f"{after}: expected the tokenizer of {before}, found another")
    old, new = (load_file(directory / "model.safetensors") for directory in (before, after))
    if {name: value.shape for name, value in old.items()} != {name: value.shape for name, value in new.items()}:
        raise ValueError(f"{after}: expected tensors of the sizes of {before}, found others")
    out.mkdir(parents=True, exist_ok=True)
    for file in after.iterdir():
        if file.suffix in (".json", ".jinja"):
            shutil.copy(file, out)
    mixed = {
        name: torch.lerp(value.float(), new[name].float(), share).to(value.dtype).contiguous()
        for name, value in old.items()
    }
    save_file(mixed, out / "model.safetensors", metadata={"format": "pt"})


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--share", type=float, default=0.5, help="of the second one")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    average(options.before, options.after, options.share, options.out)


if __name__ == "__main__":
    main()
