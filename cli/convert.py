"""`mlx-qwen35 convert`: a checkpoint in MLX form."""

import argparse
from typing import Any


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in MLX form",
        description="Write a checkpoint in MLX form, with its vision tower and its MTP module.",
    )
    # The second names are those of mlx_lm.convert.
    parser.add_argument("--model", "--hf-path", required=True, help="checkpoint directory or hub id")
    parser.add_argument("--out", "--mlx-path", required=True, help="directory to write; must not exist")
    parser.add_argument("--bits", "--q-bits", type=int, choices=(4, 8), help="quantise the decoder")
    parser.add_argument(
        "--group-size", "--q-group-size", type=int, choices=(32, 64, 128), default=64, help="weights that share a scale"
    )
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="cast floating-point tensors")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert and say where the result is."""
    from mlx_qwen35.conversion import convert

    out = convert(options.model, options.out, bits=options.bits, group_size=options.group_size, dtype=options.dtype)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")
