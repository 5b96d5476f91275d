"""`mlx-qwen35 convert`: a checkpoint in MLX form."""

import argparse
import sys
from typing import Any


def add_parser(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in MLX form",
        description="Write a checkpoint of any format in MLX form, with its vision tower and its MTP head.",
    )
    # The second names are those of mlx_lm.convert.
    parser.add_argument("--model", "--hf-path", required=True, help="checkpoint directory or hub id")
    parser.add_argument("--out", "--mlx-path", required=True, help="directory to write; must not exist")
    parser.add_argument(
        "--bits", "--q-bits", type=int, choices=(2, 3, 4, 5, 6, 8), help="quantise the decoder; default: not at all"
    )
    parser.add_argument(
        "--quantize", "-q", action="store_true", help="the same with 4 bits, where no --bits, --mode or --recipe is"
    )
    parser.add_argument(
        "--group-size",
        "--q-group-size",
        type=int,
        choices=(16, 32, 64, 128),
        help="weights that share a scale; default: 64, or what the mode needs",
    )
    modes, recipes = ("affine", "mxfp4", "mxfp8", "nvfp4"), ("mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6")
    parser.add_argument(
        "--mode", "--q-mode", choices=modes, help="how to quantise; all but affine need no --bits; default: affine"
    )
    parser.add_argument(
        "--recipe", "--quant-predicate", choices=recipes, metavar="RECIPE",
        help=f"more bits for some matrices: {', '.join(recipes)}; default: none",
    )  # fmt: skip
    parser.add_argument(
        "--dequantize", "-d", action="store_true", help="restore plain weights first, however they are quantised"
    )
    parser.add_argument(
        "--dtype", choices=("float16", "bfloat16", "float32"),
        help="cast floating-point tensors; default: they stay as they are",
    )  # fmt: skip
    parser.add_argument(
        "--mtp-model", metavar="MODEL", help="file, directory or hub id of the MTP head to write; default: its own"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert and say where the result is."""
    from mlx_qwen35.cli.screen import Screen
    from mlx_qwen35.conversion import convert

    screen = Screen()
    plain = options.quantize and options.recipe is None and options.mode in (None, "affine")
    try:
        out = convert(
            options.model,
            options.out,
            bits=4 if plain and options.bits is None else options.bits,
            group_size=options.group_size,
            mode=options.mode,
            recipe=options.recipe,
            dequantize=options.dequantize,
            dtype=options.dtype,
            mtp_path=options.mtp_model,
            on_progress=screen.on_written,
            report=lambda text: print(text, file=sys.stderr),
        )
    finally:
        screen.end_progress()
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {size / 1e6:.1f} MB")
