"""How fast several checkpoints are, case by case beside mlx-lm and mlx-vlm, each case's figures a line of JSON.

    python -m tools.gpu.speeds --model bfloat16 --model 4-bit

What `mlx-qwen35 bench speed` measures, in one process for all checkpoints and said at once: on a machine that is lent
for minutes, a table at the end may come too late.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlx_qwen35.bench.runtimes import PARENTS
from mlx_qwen35.bench.speed import Case, Figures, cases, measure
from mlx_qwen35.model_kit import ModelKit


def speeds(model: Path, lengths: Sequence[int], tokens: int, repeats: int, side: int) -> None:
    """Print a checkpoint's figures."""

    def make(kit: ModelKit) -> Iterator[Case]:
        return cases(kit, lengths=lengths, images=(1,), batches=(1, 4), side=side, tokens=tokens)

    def show(case: str, found: dict[str, Figures]) -> None:
        runtimes = {name: dataclasses.asdict(dataclasses.replace(each, tokens=())) for name, each in found.items()}
        print(json.dumps({"weights": model.name, "case": case, "runtimes": runtimes}), flush=True)

    measure(model, list(PARENTS), make, repeats, show)


def main() -> None:
    """Measure one checkpoint after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", required=True, help="a checkpoint; as often as needed")
    parser.add_argument("--warm", action="store_true", help="run each case once with few tokens, to compile kernels")
    parser.add_argument("--lengths", default="128,1024", help="tokens of text prompts, with commas between them")
    parser.add_argument("--side", type=int, default=512, help="width and height of the image in pixels")
    options = parser.parse_args()
    for model in options.model:
        lengths = [int(length) for length in options.lengths.split(",")]
        speeds(model, lengths, 4 if options.warm else 32, 1 if options.warm else 2, options.side)


if __name__ == "__main__":
    main()
