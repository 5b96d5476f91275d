"""How fast several checkpoints are beside mlx-lm and mlx-vlm, each run's figures a line of JSON as soon as it is over.

    python -m tools.gpu.speeds --model bfloat16 --model 4-bit
    python -m tools.gpu.speeds --model bfloat16 --model 4-bit --rows 4

The cases of `mlx-qwen35 bench speed`, the shortest first and rows of a batch only if they are asked for: on a machine
that is lent for minutes, what is not said at once may be lost, and where kernels are compiled as they are needed a
first run may take all of the time.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from mlx_qwen35.bench.runtimes import PARENTS, OwnRuntime
from mlx_qwen35.bench.speed import Case, cases


def runs(model: Path, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of every run with a checkpoint: all runtimes in turns, case by case."""
    lengths = () if options.rows else [int(length) for length in options.lengths.split(",")]
    tokens, repeats = (4, 1) if options.warm else (32, 3)
    with ExitStack() as stack:
        own = stack.enter_context(closing(OwnRuntime(model)))
        runtimes = [own, *(stack.enter_context(closing(parent(model))) for parent in PARENTS.values())]
        images: Sequence[int] = () if options.rows else (1,)
        for case in cases(
            own.kit, lengths=lengths, images=images, batches=(options.rows,), side=options.side, tokens=tokens
        ):
            able = [runtime for runtime in runtimes if runtime.sees or not case.prompts[0].media]
            for number in range(repeats):
                for runtime in able:
                    said = {"weights": model.name, "case": case.name, "runtime": runtime.name, "run": number}
                    yield {**said, **figures(runtime, case)}


def figures(runtime: Any, case: Case) -> dict[str, float | None]:
    """Of one run; of rows of a batch only the time of a step is known."""
    if case.is_batch:
        return {"prompt_tps": None, "first_token": None, "per_token": runtime.rows(case.prompts, case.tokens)}
    run = runtime.run(case.prompts[0], case.tokens)
    tps = len(case.prompts[0].input_ids) / run.first_token
    return {"prompt_tps": tps, "first_token": run.first_token, "per_token": run.per_token}


def main() -> None:
    """Measure one checkpoint after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", required=True, help="a checkpoint; as often as needed")
    parser.add_argument("--warm", action="store_true", help="run each case once with few tokens, to compile kernels")
    parser.add_argument("--lengths", default="128,1024", help="tokens of text prompts, with commas between them")
    parser.add_argument("--rows", type=int, default=0, help="measure a batch of so many rows, and nothing else")
    parser.add_argument("--side", type=int, default=512, help="width and height of the image in pixels")
    options = parser.parse_args()
    for model in options.model:
        for line in runs(model, options):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
