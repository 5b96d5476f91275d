"""What a measurement runs on, and lists of numbers."""

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_qwen35.cli.options import MODEL_HELP, model_of
from mlx_qwen35.errors import OptionError


def add_source(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint, or the shape of one that is made."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--model", help=MODEL_HELP)
    source.add_argument(
        "--synthetic", metavar="SIZE", help="random weights in the shapes of 0.8b, 35b-a3b, ...; default: none"
    )
    parser.add_argument("--layers", type=int, help="of a synthetic checkpoint; default: as published")
    parser.add_argument("--hidden", type=int, help="hidden size of a synthetic checkpoint; default: as published")
    parser.add_argument("--dtype", help="of a synthetic checkpoint: bfloat16, float16 or float32; default: float32")
    parser.add_argument(
        "--bits", type=int, help="quantise a synthetic checkpoint, as convert --bits does; default: not"
    )


def check_source(options: argparse.Namespace) -> None:
    """Whether the flags of `add_source` fit each other.

    Raises:
        OptionError: They do not.
    """
    for name in ("layers", "hidden", "dtype", "bits"):
        if getattr(options, name) is not None and options.synthetic is None:
            raise OptionError(f"--{name}: expected with --synthetic, found without it")


@contextmanager
def source(options: argparse.Namespace) -> "Iterator[Path]":
    """The checkpoint to measure, gone afterwards if it was made for it."""
    from mlx_qwen35.bench.synthetic import write_synthetic
    from mlx_qwen35.checkpoints.hub import find_checkpoint
    from mlx_qwen35.conversion import convert

    if options.synthetic is None:
        yield find_checkpoint(model_of(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = write_synthetic(
            Path(folder) / "synthetic",
            options.synthetic,
            layers=options.layers,
            hidden=options.hidden,
            dtype=options.dtype or "float32",
        )
        yield model if options.bits is None else convert(model, Path(folder) / "quantised", bits=options.bits)


def numbers(text: str) -> tuple[int, ...]:
    """Numbers with commas between them."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0:
        raise argparse.ArgumentTypeError(f"expected numbers like 128,1024, found {text!r}")
    return found


def sees(directory: Path) -> bool:
    """Whether a checkpoint can be shown pictures."""
    from mlx_qwen35.checkpoints.files import Checkpoint
    from mlx_qwen35.checkpoints.headers import has_tower, read_headers

    checkpoint = Checkpoint.open(directory)
    return has_tower(checkpoint.config, read_headers(checkpoint.weight_files()))
