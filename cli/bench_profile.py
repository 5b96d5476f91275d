"""`mlx-qwen35 bench profile`: where the time goes when a prompt is read."""

import argparse
import dataclasses
from typing import Any

from mlx_qwen35.cli.sources import add_source, check_source, source
from mlx_qwen35.cli.tables import Table, print_json


def add_profile(measurements: Any) -> None:
    """Declare the measurement."""
    profile = measurements.add_parser(
        "profile",
        help="where the time goes when a prompt is read",
        description="The time of every part of reading a prompt, each waited for, by the clock and of the processor; "
        "how long the matrix products of its layers would take at the speed of a large one; and the whole without "
        "waiting.",
    )
    add_source(profile)
    profile.add_argument("--length", type=int, default=512, help="tokens of the prompt; default: 512")
    profile.add_argument("--repeats", type=int, default=3, help="counted runs, after one that is not")
    profile.add_argument("--json", action="store_true", help="print one JSON object")
    profile.set_defaults(run=run_profile)


def run_profile(options: argparse.Namespace) -> None:
    """Print the table of parts."""
    from mlx_qwen35.answers.sampling import whole_number
    from mlx_qwen35.bench import profile
    from mlx_qwen35.model_kit import ModelKit
    from mlx_qwen35.patches.operations import choose_operations

    check_source(options)
    length = whole_number("--length", options.length, 2)
    repeats = whole_number("--repeats", options.repeats, 1)
    with source(options) as model, ModelKit.load(model, prompt_cache_bytes=0, speculate="off") as kit:
        found = profile.measure(kit, length, repeats, choose_operations().prefill_step_size)
    if options.json:
        print_json(dataclasses.asdict(found))
        return
    total = sum(part.seconds for part in found.parts.values())
    table = Table(("part", "time", "share", "processor", "its products alone"), "lrrrr", shown=True)
    for name, part in found.parts.items():
        alone = f"{1000 * part.products / found.rate:.0f} ms" if part.products else ""
        table.row(name, *_times(part, total), alone)
    products = sum(part.products for part in found.parts.values())
    table.row("the whole, without waiting", *_times(found.whole, total), f"{1000 * products / found.rate:.0f} ms")
    print(f"\nA large product: {found.rate / 1e9:.0f} GFLOPS.")


def _times(part: Any, total: float) -> tuple[str, str, str]:
    return f"{1000 * part.seconds:.0f} ms", f"{part.seconds / total:.0%}", f"{1000 * part.processor:.0f} ms"
